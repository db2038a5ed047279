// Package bundle is the archive that `runink build` makes and a cluster runs: plan.json,
// one program per architecture where the plan needs its own, and an SBOM.
//
// It promises: the same contents give the same bytes, wherever and whenever they are
// written, so that the digest names what runs; Read accepts only what Write can have
// written (names, order, modes, dates, sizes), so that two archives with different bytes
// never hold the same bundle; nothing outside of the archive is read or written.
//
// It never executes what it holds and never unpacks to disk.
//
// Format: a POSIX tar (ustar, IEEE 1003.1) without directories, entries sorted by name,
// owned by 0:0, dated 1970-01-01, mode 0444. Programs are compressed (zstd, RFC 8878): to
// hash, encrypt, move and store them costs more than to decompress them once on each node.
// The digest is "sha256:" and the hex SHA-256 of the archive's bytes.
package bundle

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"regexp"
	"sort"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// Names of the entries.
const (
	PlanFile = "plan.json"
	SBOMFile = "sbom.json"
)

// Limits of what Read takes, in bytes.
const (
	MaxPlan    = 4 << 20
	MaxSBOM    = 16 << 20
	MaxProgram = 512 << 20
)

// ProgramFile is the name of the program for an operating system and architecture, as in
// runtime.GOOS and GOARCH.
func ProgramFile(goos, goarch string) string { return "bin/" + goos + "-" + goarch + "/main.zst" }

var programName = regexp.MustCompile(`^bin/([a-z0-9]+)-([a-z0-9]+)/main\.zst$`)

// Program is an executable of the bundle, as Compress wrote it.
type Program struct {
	OS, Arch string
	Size     int64 // compressed, in bytes
	// Open returns its compressed bytes; Write reads them once.
	Open func() (io.ReadCloser, error)
}

// Compress writes an executable as a bundle holds it. The same bytes and the same version
// of this program give the same result.
func Compress(w io.Writer, executable io.Reader) error {
	enc, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return err
	}
	_, err = io.Copy(enc, executable)
	return errors.Join(err, enc.Close())
}

// Contents is what a bundle is made of.
type Contents struct {
	Plan     *plan.Plan
	SBOM     []byte    // JSON; nil where there is no program
	Programs []Program // at least one exactly when Plan.Native
}

// Digester hashes an archive while it is copied.
type Digester struct{ h hash.Hash }

// NewDigester returns an empty Digester.
func NewDigester() *Digester { return &Digester{sha256.New()} }

// Write implements io.Writer; it never fails.
func (d *Digester) Write(p []byte) (int, error) { return d.h.Write(p) }

// Digest is "sha256:…" of all that was written.
func (d *Digester) Digest() string { return "sha256:" + hex.EncodeToString(d.h.Sum(nil)) }

// Write writes the archive and returns its digest. It refuses contents that Read would
// not take (errs.Invalid).
func Write(w io.Writer, c *Contents) (digest string, err error) {
	const op = "write bundle"
	if err := c.Plan.Validate(); err != nil {
		return "", errs.E(errs.Invalid, op, "plan: %w", err)
	}
	if c.Plan.Native != (len(c.Programs) > 0) {
		return "", errs.E(errs.Invalid, op, "the plan's native is %t, and there are %d programs", c.Plan.Native, len(c.Programs))
	}
	planJSON, err := EncodePlan(c.Plan)
	if err != nil {
		return "", errs.Wrap(op, err)
	}
	type entry struct {
		name string
		size int64
		open func() (io.ReadCloser, error)
	}
	data := func(b []byte) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	}
	entries := []entry{{PlanFile, int64(len(planJSON)), data(planJSON)}}
	if c.SBOM != nil {
		entries = append(entries, entry{SBOMFile, int64(len(c.SBOM)), data(c.SBOM)})
	}
	for _, p := range c.Programs {
		entries = append(entries, entry{ProgramFile(p.OS, p.Arch), p.Size, p.Open})
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].name < entries[j].name })
	d := NewDigester()
	tw := tar.NewWriter(io.MultiWriter(w, d))
	for i, e := range entries {
		if err := checkEntry(e.name, e.size); err != nil {
			return "", errs.E(errs.Invalid, op, "%w", err)
		}
		if i > 0 && entries[i-1].name == e.name {
			return "", errs.E(errs.Invalid, op, "%s twice", e.name)
		}
		if err := writeEntry(tw, e.name, e.size, e.open); err != nil {
			return "", errs.E(errs.KindOf(err), op, "%s: %w", e.name, err)
		}
	}
	if err := tw.Close(); err != nil {
		return "", errs.Wrap(op, err)
	}
	return d.Digest(), nil
}

func header(name string, size int64) *tar.Header {
	return &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: size,
		ModTime: time.Unix(0, 0).UTC(), Format: tar.FormatUSTAR,
	}
}

func writeEntry(tw *tar.Writer, name string, size int64, open func() (io.ReadCloser, error)) error {
	if err := tw.WriteHeader(header(name, size)); err != nil {
		return err
	}
	r, err := open()
	if err != nil {
		return err
	}
	_, err = io.Copy(tw, r) // more than size is an error of the writer, less one of Flush
	return errors.Join(err, r.Close(), tw.Flush())
}

// EncodePlan is the one form of plan.json: indented JSON and a line break.
func EncodePlan(p *plan.Plan) ([]byte, error) {
	b, err := json.MarshalIndent(p, "", "  ")
	return append(b, '\n'), err
}

func checkEntry(name string, size int64) error {
	limit := int64(0)
	switch {
	case name == PlanFile:
		limit = MaxPlan
	case name == SBOMFile:
		limit = MaxSBOM
	case programName.MatchString(name):
		limit = MaxProgram
	default:
		return fmt.Errorf("entry %q does not belong in a bundle", clip(name))
	}
	if size < 0 || size > limit {
		return fmt.Errorf("entry %s has %d bytes, the limit is %d", name, size, limit)
	}
	return nil
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
