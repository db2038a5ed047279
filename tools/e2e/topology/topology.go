// Package topology boots one cluster for all the tests of a package, because a boot costs more
// than most tests do: the first test that asks boots it, Main closes it. What the tests leave
// behind in it is theirs to mend.
package topology

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/runink/runink/tools/harness"
)

// patience is how long a cluster may take to be Ready on a machine that is busy with others.
const patience = 10 * time.Minute

// Shared is a cluster that its package's tests have together. The zero value has none yet.
type Shared struct {
	// Name is part of the name of its folder.
	Name string
	// Config says what it consists of. Dir and Progress are set here.
	Config harness.Config
	// Needs are files that must be there, each made by `make image metal`.
	Needs []string
	// Set puts in it, once it is Ready, what all tests expect; nil: nothing.
	Set func(context.Context, *harness.Cluster) error

	once sync.Once
	c    *harness.Cluster
	dir  string
	err  error
}

// Main runs the tests, as a TestMain does, closes the cluster and ends the process. The folder
// with the consoles stays when a test failed.
func (s *Shared) Main(m *testing.M) {
	code := m.Run()
	if s.c != nil {
		if err := s.c.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close the cluster:", err)
			code = 1
		}
	}
	switch {
	case s.dir == "":
	case code == 0:
		if err := os.RemoveAll(s.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	default:
		fmt.Fprintln(os.Stderr, "consoles are kept in", s.dir)
	}
	os.Exit(code)
}

// Cluster is the cluster, Ready. The first call boots it; when that failed, every call ends
// its test.
func (s *Shared) Cluster(t *testing.T) *harness.Cluster {
	t.Helper()
	s.once.Do(func() { s.c, s.err = s.boot() })
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.c
}

// Dir is a folder for files that tests share. It is there once Cluster returned.
func (s *Shared) Dir() string { return s.dir }

func (s *Shared) boot() (*harness.Cluster, error) {
	cfg := s.Config
	bin, err := filepath.Abs(cfg.Bin)
	if err != nil {
		return nil, err
	}
	cfg.Bin = bin
	for _, f := range append([]string{bin}, s.Needs...) {
		if _, err := os.Stat(f); err != nil {
			return nil, fmt.Errorf("%w: run `make image metal` first", err)
		}
	}
	if s.dir, err = os.MkdirTemp("", "runink-"+s.Name+"-"); err != nil {
		return nil, err
	}
	cfg.Dir, cfg.Progress = s.dir, Progress()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := harness.New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := c.Up(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, c.Describe(30)), c.Close())
	}
	if s.Set != nil {
		if err := s.Set(ctx, c); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// Progress prints what a cluster reports, with the seconds since this call.
func Progress() func(string) {
	start := time.Now()
	return func(line string) { fmt.Printf("[%5.1f s] %s\n", time.Since(start).Seconds(), line) }
}
