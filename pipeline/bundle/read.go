package bundle

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// Bundle is what Read found.
type Bundle struct {
	Digest   string
	Plan     *plan.Plan
	SBOM     []byte
	Programs []Program // Open is nil: Read keeps no program, see ReadTo
}

// Read checks an archive to its last byte and returns what it holds, programs left out.
//
// Errors: errs.Corrupt when it is truncated or not a bundle; errs.Invalid when its plan
// is wrong; the reader's own error, wrapped, when reading failed.
func Read(r io.Reader) (*Bundle, error) {
	return ReadTo(r, func(Program, io.Reader) error { return nil })
}

// ReadTo is Read with the compressed bytes of every program passed to take, in order. What take
// leaves unread is skipped. The bytes are not verified until ReadTo returns nil.
func ReadTo(r io.Reader, take func(p Program, content io.Reader) error) (*Bundle, error) {
	const op = "read bundle"
	corrupt := func(format string, args ...any) error {
		return errs.E(errs.Corrupt, op, format, args...).WithHint("build it again with runink build, or fetch it again")
	}
	d := NewDigester()
	in := &exact{r: io.TeeReader(r, d)}
	tr := tar.NewReader(in)
	b := &Bundle{}
	// shadow writes the archive again as Write would; equal bytes prove that nothing is
	// hidden in padding, headers or behind the end.
	shadow := NewDigester()
	tw := tar.NewWriter(shadow)
	last := ""
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, corrupt("%w", in.explain(err))
		}
		if h.Typeflag != tar.TypeReg || h.Name <= last {
			return nil, corrupt("entry %q is no file, or out of order", clip(h.Name))
		}
		if err := checkEntry(h.Name, h.Size); err != nil {
			return nil, corrupt("%w", err)
		}
		last = h.Name
		if err := b.entry(h, tr, tw, take); err != nil {
			if _, ok := errors.AsType[*takeError](err); ok {
				return nil, errs.Wrap(op, err)
			}
			return nil, corrupt("%s: %w", h.Name, in.explain(err))
		}
	}
	// The tar reader stops at the end mark; what follows must be nothing.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return nil, corrupt("%w", in.explain(err))
	}
	if err := tw.Close(); err != nil {
		return nil, errs.Wrap(op, err)
	}
	b.Digest = d.Digest()
	if b.Digest != shadow.Digest() {
		return nil, corrupt("it holds bytes that no bundle has (other dates, modes, owners or padding, or it is cut off)")
	}
	if b.Plan == nil {
		return nil, corrupt("it has no %s", PlanFile)
	}
	if err := b.Plan.Validate(); err != nil {
		return nil, errs.E(errs.Invalid, op, "%s: %w", PlanFile, err).WithHint("build it again with runink build")
	}
	if b.Plan.Native != (len(b.Programs) > 0) {
		return nil, corrupt("the plan's native is %t, and there are %d programs", b.Plan.Native, len(b.Programs))
	}
	return b, nil
}

// takeError marks an error of the caller's function.
type takeError struct{ error }

func (e *takeError) Unwrap() error { return e.error }

func (b *Bundle) entry(h *tar.Header, tr io.Reader, tw *tar.Writer, take func(Program, io.Reader) error) error {
	m := programName.FindStringSubmatch(h.Name)
	if err := tw.WriteHeader(header(h.Name, h.Size)); err != nil {
		return err
	}
	content := io.TeeReader(tr, tw)
	if m != nil {
		p := Program{OS: m[1], Arch: m[2], Size: h.Size}
		b.Programs = append(b.Programs, p)
		if err := take(p, content); err != nil {
			return &takeError{err}
		}
		_, err := io.Copy(io.Discard, content)
		return err
	}
	data, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	if h.Name == SBOMFile {
		b.SBOM = data
		return nil
	}
	b.Plan = &plan.Plan{}
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(b.Plan); err != nil {
		return fmt.Errorf("it is not a plan: %w", err)
	}
	return nil
}

// Verify reads an archive and checks that its digest is the expected one (errs.Corrupt).
func Verify(r io.Reader, digest string) (*Bundle, error) {
	b, err := Read(r)
	if err != nil {
		return nil, err
	}
	if b.Digest != digest {
		return nil, errs.E(errs.Corrupt, "verify bundle", "its digest is %s, expected %s", b.Digest, digest).
			WithHint("it is another bundle or was changed on its way: fetch it again")
	}
	return b, nil
}

// exact remembers why reading failed, because tar hides it behind its own errors.
type exact struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (e *exact) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		e.err = err
	}
	return n, err
}

func (e *exact) explain(err error) error {
	if e.err != nil {
		return e.err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it is cut off")
	}
	return err
}
