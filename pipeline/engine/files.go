package engine

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// FilePath returns the path of a file:// URI, relative ones under dir. Parameters must
// have been expanded.
func FilePath(uri, dir string) (string, error) {
	path, ok := strings.CutPrefix(uri, "file://")
	if !ok || path == "" {
		scheme, _, _ := strings.Cut(uri, ":")
		return "", errs.E(errs.Unimplemented, "open URI", "%q: scheme %q", uri, scheme).
			WithHint("this version reads and writes file:// URIs")
	}
	if strings.ContainsAny(path, "{}") {
		return "", errs.E(errs.Unimplemented, "open URI", "%q: partitioned paths", uri).
			WithHint("name one file; a parameter is written ${name}")
	}
	if filepath.IsAbs(path) {
		return path, nil
	}
	return filepath.Join(dir, path), nil
}

// LocalFiles names the files of a local run by block: those of sources as inputs gives them
// or their URIs do, those of sinks and dlqs. text holds every parameter of the plan (Resolve).
//
// An output that would replace what a source reads, or what another output writes, is
// Invalid, whatever names and links lead there: the run would end well and its data be gone.
// LocalFiles changes nothing, so a caller may ask before it builds what runs.
func LocalFiles(p *plan.Plan, dir string, text, inputs map[string]string) (map[string]string, error) {
	const op = "run locally"
	paths := map[string]string{}
	var read, written []localFile
	for i := range p.Blocks {
		b := &p.Blocks[i]
		switch b.Kind {
		case plan.KindSource, plan.KindSink, plan.KindDLQ:
		default:
			continue
		}
		path, given, err := blockPath(b, dir, text, inputs)
		if err != nil {
			return nil, &errs.Error{Kind: errs.KindOf(err), Op: string(b.Kind) + " " + b.Name, Place: place(b, p), Hint: errs.HintOf(err), Err: err}
		}
		paths[b.Name] = path
		f, err := identify(b, path)
		if err != nil {
			return nil, errs.E(errs.Internal, op, "%w", err).At(place(b, p))
		}
		f.given = given
		if b.Kind == plan.KindSource {
			read = append(read, f)
		} else {
			written = append(written, f)
		}
	}
	for i, w := range written {
		for _, r := range read {
			if !w.same(r) {
				continue
			}
			e := errs.E(errs.Invalid, op, "%s %s would overwrite %s, which source %s (%s) reads%s",
				w.block.Kind, w.block.Name, w.path, r.block.Name, place(r.block, p), w.alias(r)).At(place(w.block, p))
			if r.given {
				e = e.WithField("--input " + r.block.Name)
			}
			return nil, e.WithHint("write another file: what a run reads must stay for the next one")
		}
		for _, o := range written[:i] {
			if w.same(o) {
				return nil, errs.E(errs.Invalid, op, "%s %s (%s) and %s %s both write %s%s",
					o.block.Kind, o.block.Name, place(o.block, p), w.block.Kind, w.block.Name, w.path, w.alias(o)).
					At(place(w.block, p)).WithHint("give one of them another file")
			}
		}
	}
	return paths, nil
}

// blockPath returns the file of a block, and whether it is another than its URI's.
func blockPath(b *plan.Block, dir string, text, inputs map[string]string) (path string, given bool, err error) {
	uri, err := expand(b.URI, text)
	if err == nil {
		path, err = FilePath(uri, dir)
	}
	if file, ok := inputs[b.Name]; ok && b.Kind == plan.KindSource {
		return file, err != nil || filepath.Clean(file) != path, nil
	}
	return path, false, err
}

// localFile is a file of a run, by all that tells it from others.
type localFile struct {
	block   *plan.Block
	path    string      // as the pipeline or --input has it
	given   bool        // by --input
	settled string      // absolute, without links
	info    os.FileInfo // nil where it is not there yet
}

func identify(b *plan.Block, path string) (localFile, error) {
	f := localFile{block: b, path: path}
	abs, err := filepath.Abs(path)
	if err != nil {
		return f, err
	}
	f.settled = settle(abs)
	// What cannot be looked at is told when it is opened; by name it is judged all the same.
	if info, err := os.Stat(abs); err == nil {
		f.info = info
	}
	return f, nil
}

// settle resolves the links of an absolute path as far as it exists.
func settle(abs string) string {
	rest := ""
	for at := abs; ; at = filepath.Dir(at) {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			return filepath.Join(real, rest)
		}
		if at == filepath.Dir(at) {
			return abs
		}
		rest = filepath.Join(filepath.Base(at), rest)
	}
}

func (f localFile) same(o localFile) bool {
	return f.settled == o.settled || f.info != nil && o.info != nil && os.SameFile(f.info, o.info)
}

// alias says by which other name o has the same file.
func (f localFile) alias(o localFile) string {
	if filepath.Clean(f.path) == filepath.Clean(o.path) {
		return ""
	}
	return " as " + o.path
}
