// Package compile turns the text of a .dsl and the Go package beside it into plans.
//
// It owns the meaning of the language: names, streams, routing, contracts, binding of
// steps to Go functions, expressions and their types, coverage of failures, fusion into
// slices and regions, and column lineage. Its output is plan.Plan.
//
// It promises: every diagnostic of every pass at once, each with its place; a broken Go
// package never hides what is wrong in the .dsl; a plan is returned only when nothing
// is wrong, and it passes plan.Validate; the same files give the same plan, byte for
// byte, wherever the folder lies.
//
// It reads the .dsl's folder and runs `go list` there; it never writes, never runs what
// it compiles, and never loads dependencies from source (their types come from export
// data).
package compile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/lang"
)

// Result is what a compilation found.
type Result struct {
	Dir   string // folder of the .dsl, absolute
	File  *lang.File
	Diags *lang.Diagnostics

	// Plans holds one plan per scenario, in order; nil when Diags has errors.
	Plans []*plan.Plan
	// Examples holds the examples of each scenario, parallel to Plans.
	Examples [][]engine.Example
}

// MaxSource bounds a .dsl, in bytes. Larger files are refused before they are read.
const MaxSource = 4 << 20

// Compile reads and compiles the .dsl at path. What is wrong in the pipeline is in
// Result.Diags; the error is for what kept the compiler from working: the file cannot be
// read (NotFound, Invalid), or ctx ended.
func Compile(ctx context.Context, path string) (*Result, error) {
	const op = "compile"
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	info, err := os.Stat(abs)
	switch {
	case os.IsNotExist(err):
		return nil, errs.E(errs.NotFound, op, "no file %s", path).WithHint("name a .dsl file")
	case err != nil:
		return nil, errs.Wrap(op, err)
	case info.IsDir():
		return nil, errs.E(errs.Invalid, op, "%s is a folder", path).WithHint("name the .dsl file in it")
	case info.Size() > MaxSource:
		return nil, errs.E(errs.Invalid, op, "%s has %d bytes, the limit is %d", path, info.Size(), MaxSource).WithHint("name a .dsl file")
	}
	src, err := os.ReadFile(abs)
	if err != nil {
		return nil, errs.Wrap(op, err)
	}
	return Source(ctx, filepath.Dir(abs), filepath.Base(abs), src)
}

// Source compiles the text of a .dsl named name that belongs to the folder dir, whatever
// the file there holds: what an editor shows while it is not saved.
func Source(ctx context.Context, dir, name string, src []byte) (*Result, error) {
	r := &Result{Dir: dir, Diags: &lang.Diagnostics{}}
	r.File = lang.Parse(name, src, r.Diags)
	lang.CheckFile(r.File, r.Diags)
	world := newGoWorld(ctx, dir, hasGoSteps(r.File), r.Diags)
	var scenarios []*scenario
	for _, sc := range r.File.Scenarios {
		if len(sc.Blocks) == 0 {
			d := r.Diags.Add(lang.CodeBlock, headerPos(r.File, sc), 1, "a pipeline without blocks")
			d.WithHint("begin with a @source")
			continue
		}
		s := newScenario(r.File, sc, world, r.Diags)
		s.resolve()
		scenarios = append(scenarios, s)
	}
	world.reportErrors()
	if err := ctx.Err(); err != nil {
		return nil, errs.Wrap("compile", err)
	}
	if r.Diags.HasErrors() {
		return r, nil
	}
	for _, s := range scenarios {
		p := s.plan()
		p.Name = planName(name, s.ast, len(scenarios) > 1)
		p.CodeDigest = codeDigest(name, src, world)
		if err := p.Validate(); err != nil {
			return nil, errs.E(errs.Internal, "compile", "%s: the plan is inconsistent: %w", name, err).
				WithHint("this is a defect of the compiler; report it with the .dsl")
		}
		r.Plans = append(r.Plans, p)
		r.Examples = append(r.Examples, s.examples)
	}
	return r, nil
}

func headerPos(f *lang.File, sc *lang.Scenario) plan.Pos {
	if sc.Header != nil {
		return sc.Header.Pos
	}
	return plan.Pos{File: f.Name, Line: 1, Col: 1}
}

func planName(file string, sc *lang.Scenario, several bool) string {
	stem := strings.TrimSuffix(file, filepath.Ext(file))
	if several {
		return slug(stem + " " + sc.Title())
	}
	return slug(stem)
}

// slug makes a DNS label of a name: JoinAirport gives join-airport. It is at most 40
// bytes, so that prefixes fit beside it in 63.
func slug(s string) string {
	var b strings.Builder
	lower := false
	for _, r := range s {
		switch {
		case 'A' <= r && r <= 'Z':
			if lower {
				b.WriteByte('-')
			}
			b.WriteRune(r - 'A' + 'a')
			lower = false
		case 'a' <= r && r <= 'z' || '0' <= r && r <= '9':
			b.WriteRune(r)
			lower = true
		default:
			b.WriteByte('-')
			lower = false
		}
	}
	out := strings.Join(strings.FieldsFunc(b.String(), func(r rune) bool { return r == '-' }), "-")
	if len(out) > 40 {
		out = strings.TrimRight(out[:40], "-")
	}
	if out == "" {
		out = "x"
	}
	return out
}

// codeDigest covers the .dsl and the Go files it binds, by name and content.
func codeDigest(name string, src []byte, w *goWorld) string {
	files := map[string][]byte{name: src}
	for _, p := range w.packages {
		for f, b := range p.sources {
			files[f] = b
		}
	}
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	sort.Strings(names)
	h := sha256.New()
	for _, n := range names {
		fmt.Fprintf(h, "%s %d\n", n, len(files[n]))
		h.Write(files[n])
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}
