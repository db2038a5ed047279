package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// fuzzTime is what each target gets, on one processor.
	fuzzTime = 2 * time.Second
	// fuzzPatience is how long after its time a target may still be busy: on a machine
	// with other work, or with many inputs in its cache.
	fuzzPatience = 2 * time.Minute
)

// fuzzPackage is a package with fuzz targets.
type fuzzPackage struct {
	module, dir string // as in modules; relative to the repository's root
	targets     []string
	binary      string // set by buildFuzz
}

// fuzz runs every target of every module. `go test -fuzz` takes one package and one target
// at a time, and instruments all their dependencies, which costs minutes of compiling; so
// binaries are built first, many at once, in which only the project's own packages are
// instrumented: what the targets are about. They then run one to a processor.
func fuzz(ctx context.Context, t *tally) error {
	pkgs, err := fuzzPackages()
	if err != nil {
		return err
	}
	bin, err := os.MkdirTemp("", "fuzz-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	started := time.Now()
	if err := buildFuzz(ctx, pkgs, bin); err != nil {
		return err
	}
	fmt.Fprintf(t.out, "built %d packages in %s\n", len(pkgs), time.Since(started).Round(time.Second))
	cache, err := exec.CommandContext(ctx, "go", "env", "GOCACHE").Output()
	if err != nil {
		return err
	}

	free := make(chan struct{}, runtime.NumCPU())
	var wg sync.WaitGroup
	var mu sync.Mutex // one result at a time goes into the tally
	var failed []error
	for _, p := range pkgs {
		for _, target := range p.targets {
			free <- struct{}{}
			wg.Go(func() {
				defer func() { <-free }()
				events, err := fuzzTarget(ctx, p, target, strings.TrimSpace(string(cache)))
				for again := 0; again < 2 && endedLate(events, err); again++ {
					events, err = fuzzTarget(ctx, p, target, strings.TrimSpace(string(cache)))
				}
				mu.Lock()
				defer mu.Unlock()
				before := t.failed
				if readErr := t.read(bytes.NewReader(events), "(fuzz) "); readErr != nil {
					failed = append(failed, readErr)
				}
				if err != nil && t.failed == before {
					failed = append(failed, fmt.Errorf("%s %s: %w", p.dir, target, err))
				}
			})
		}
	}
	wg.Wait()
	return errors.Join(failed...)
}

// fuzzTarget runs one target and returns its events as `go test -json` would write them.
// An input that fails is kept in the package's testdata, as `go test -fuzz` does.
func fuzzTarget(ctx context.Context, p *fuzzPackage, target, cache string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fuzzTime+fuzzPatience)
	defer cancel()
	cmd := command(ctx, p.dir, "go", "tool", "test2json", "-t", "-p", p.importPath(), p.binary,
		"-test.v=test2json", "-test.paniconexit0", "-test.run=^$", "-test.fuzz=^"+target+"$",
		"-test.fuzztime="+fuzzTime.String(), "-test.parallel=1",
		"-test.fuzzcachedir="+filepath.Join(cache, "fuzz", p.importPath()))
	var events bytes.Buffer
	cmd.Stdout, cmd.Stderr = &events, os.Stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("it did not end in time: %w", context.Cause(ctx))
	}
	return events.Bytes(), err
}

// endedLate recognizes a race in Go's fuzzing engine (golang/go#75804, mended in Go 1.27): at
// the end of its time a target may fail with the engine's own deadline, and no input.
func endedLate(events []byte, err error) bool {
	return err != nil && bytes.Contains(events, []byte("context deadline exceeded")) && !bytes.Contains(events, []byte("Failing input"))
}

// buildFuzz builds the test binaries of pkgs and notes where they are.
func buildFuzz(ctx context.Context, pkgs []*fuzzPackage, bin string) error {
	type group struct{ module, out string }
	var groups []group
	members := map[group][]string{}
	for _, p := range pkgs {
		rel, err := filepath.Rel(p.module, p.dir)
		if err != nil {
			return err
		}
		// One command builds many, into a folder where each has its package's last name.
		g := group{p.module, filepath.Join(bin, strings.ReplaceAll(p.module, "/", "-"))}
		name := filepath.Base(p.dir) + ".test"
		for slices.ContainsFunc(pkgs, func(o *fuzzPackage) bool { return o.binary == filepath.Join(g.out, name) }) {
			g.out += "-"
		}
		p.binary = filepath.Join(g.out, name)
		if members[g] == nil {
			groups = append(groups, g)
		}
		members[g] = append(members[g], "./"+rel)
	}
	for _, g := range groups {
		if err := os.MkdirAll(g.out, 0o755); err != nil {
			return err
		}
		args := []string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-gcflags=" + modulePath + "/...=-d=libfuzzer", "-o", g.out + "/"}
		if out, err := command(ctx, g.module, "go", append(args, members[g]...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("build fuzz targets: %w\n%s", err, out)
		}
	}
	return nil
}

var fuzzFunc = regexp.MustCompile(`^(.*_test\.go):func (Fuzz[A-Za-z0-9_]+)\(`)

// fuzzPackages finds the targets in what git knows or could know.
func fuzzPackages() ([]*fuzzPackage, error) {
	out, err := exec.Command("git", "grep", "--untracked", "-E", `^func Fuzz[A-Za-z0-9_]+\(`, "--", "*_test.go").Output()
	if err != nil {
		return nil, fmt.Errorf("look for fuzz targets: %w", err)
	}
	var pkgs []*fuzzPackage
	for line := range strings.Lines(string(out)) {
		m := fuzzFunc.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("look for fuzz targets: %q is none", line)
		}
		dir := filepath.Dir(m[1])
		i := slices.IndexFunc(pkgs, func(p *fuzzPackage) bool { return p.dir == dir })
		if i < 0 {
			pkgs = append(pkgs, &fuzzPackage{module: owner(m[1]), dir: dir})
			i = len(pkgs) - 1
		}
		pkgs[i].targets = append(pkgs[i].targets, m[2])
	}
	return pkgs, nil
}

// owner is the module a file belongs to.
func owner(file string) string {
	best := "."
	for _, m := range modules {
		if m != "." && strings.HasPrefix(file, m+"/") {
			best = m
		}
	}
	return best
}

func (p *fuzzPackage) importPath() string { return modulePath + "/" + filepath.ToSlash(p.dir) }
