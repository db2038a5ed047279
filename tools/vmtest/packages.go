package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// pkg is a package with tests that only the tag vm turns on.
type pkg struct {
	ImportPath string
	Dir        string
	Tests      []string // their names
}

type listed struct {
	ImportPath                string
	Dir                       string
	TestGoFiles, XTestGoFiles []string
}

func moduleRoot(ctx context.Context) (string, error) {
	out, err := goList(ctx, "-m", "-f", "{{.Dir}}")
	return strings.TrimSpace(string(out)), err
}

func goList(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, stderr.Bytes())
	}
	return out, nil
}

func listPackages(ctx context.Context, tags string, patterns []string) (map[string]listed, error) {
	args := append([]string{"-e", "-tags=" + tags, "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles", "--"}, patterns...)
	out, err := goList(ctx, args...)
	if err != nil {
		return nil, err
	}
	all := map[string]listed{}
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var l listed
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all[l.ImportPath] = l
	}
}

// taggedPackages compares the test files with and without the tag.
func taggedPackages(ctx context.Context, o options) ([]pkg, error) {
	filter, err := nameFilter(o.run, o.skip)
	if err != nil {
		return nil, err
	}
	with, err := listPackages(ctx, "vm", o.patterns)
	if err != nil {
		return nil, err
	}
	without, err := listPackages(ctx, "", o.patterns)
	if err != nil {
		return nil, err
	}
	var pkgs []pkg
	for path, l := range with {
		p := pkg{ImportPath: path, Dir: l.Dir}
		plain := without[path]
		for _, f := range append(l.TestGoFiles, l.XTestGoFiles...) {
			if slices.Contains(plain.TestGoFiles, f) || slices.Contains(plain.XTestGoFiles, f) {
				continue
			}
			names, err := testNames(filepath.Join(l.Dir, f))
			if err != nil {
				return nil, err
			}
			for _, n := range names {
				if filter(n) {
					p.Tests = append(p.Tests, n)
				}
			}
		}
		if len(p.Tests) > 0 {
			pkgs = append(pkgs, p)
		}
	}
	slices.SortFunc(pkgs, func(a, b pkg) int { return strings.Compare(a.ImportPath, b.ImportPath) })
	return pkgs, nil
}

// nameFilter matches top-level names as go test does: the first element of the pattern.
func nameFilter(run, skip string) (func(string) bool, error) {
	runFirst, _, _ := strings.Cut(run, "/")
	in, err := regexp.Compile(runFirst)
	if err != nil {
		return nil, fmt.Errorf("-run: %w", err)
	}
	if skip == "" || strings.Contains(skip, "/") { // the binary itself skips subtests
		return in.MatchString, nil
	}
	out, err := regexp.Compile(skip)
	if err != nil {
		return nil, fmt.Errorf("-skip: %w", err)
	}
	return func(name string) bool { return in.MatchString(name) && !out.MatchString(name) }, nil
}

func testNames(file string) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || len(fn.Type.Params.List) != 1 {
			continue
		}
		rest, ok := strings.CutPrefix(fn.Name.Name, "Test")
		first, _ := utf8.DecodeRuneInString(rest)
		if ok && fn.Name.Name != "TestMain" && (rest == "" || !unicode.IsLower(first)) {
			names = append(names, fn.Name.Name)
		}
	}
	return names, nil
}

// runPattern is the -test.run value that selects exactly the package's tests, narrowed to
// what the user asked for below the top level.
func (p pkg) runPattern(run string) string {
	pattern := "^(" + strings.Join(p.Tests, "|") + ")$"
	if _, sub, ok := strings.Cut(run, "/"); ok {
		pattern += "/" + sub
	}
	return pattern
}

// hasTestdata reports whether the package has a testdata folder.
func (p pkg) hasTestdata() bool {
	info, err := os.Stat(filepath.Join(p.Dir, "testdata"))
	return err == nil && info.IsDir()
}
