//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runink/runink/tools/harness"
)

// root is the repository.
var root = filepath.Join("..", "..")

// shared is the cluster of all tests, booted by the first that asks.
var shared struct {
	once sync.Once
	c    *harness.Cluster
	err  error
	dir  string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.c != nil {
		if err := shared.c.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close the cluster:", err)
			code = 1
		}
	}
	if shared.dir != "" && code == 0 {
		os.RemoveAll(shared.dir)
	} else if shared.dir != "" {
		fmt.Fprintln(os.Stderr, "consoles are kept in", shared.dir)
	}
	os.Exit(code)
}

// demo returns the shared cluster, Ready, with herd analytics.
func demo(t *testing.T) *harness.Cluster {
	t.Helper()
	shared.once.Do(func() { shared.c, shared.err = boot() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.c
}

func boot() (*harness.Cluster, error) {
	bin, err := filepath.Abs(filepath.Join(root, "bin", "runink"))
	if err != nil {
		return nil, err
	}
	image, err := filepath.Abs(filepath.Join(root, "build", "image"))
	if err != nil {
		return nil, err
	}
	for _, f := range []string{bin, filepath.Join(image, "vmlinuz")} {
		if _, err := os.Stat(f); err != nil {
			return nil, fmt.Errorf("%w: run `make image` first", err)
		}
	}
	if shared.dir, err = os.MkdirTemp("", "runink-e2e-"); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	start := time.Now()
	c, err := harness.New(ctx, harness.Config{
		Dir: shared.dir, Bin: bin, Image: image, Nodes: 3, Spare: 2, Words: armed,
		Progress: func(s string) { fmt.Printf("[%5.1f s] %s\n", time.Since(start).Seconds(), s) },
	})
	if err != nil {
		return nil, err
	}
	if err := c.Up(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, c.Describe(30)), c.Close())
	}
	if _, err := c.CLI.Run(ctx, "herd", "put", "analytics"); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// limit bounds a test's waiting, in the machines' time.
func limit(t *testing.T, c *harness.Cluster, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), c.Scaled(d))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.Describe(40))
		}
		cancel()
	})
	return ctx
}

// runState is what the tests read of `runink ps ID -o json`.
type runState struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Reason  string `json:"reason"`
	Regions []struct {
		Epoch  string `json:"epoch"`
		Slices []struct {
			Name   string `json:"name"`
			Node   string `json:"node"`
			Status struct {
				Phase  string `json:"phase"`
				Counts map[string]struct {
					In string `json:"in"`
				} `json:"counts"`
			} `json:"status"`
		} `json:"slices"`
	} `json:"regions"`
}

func ps(ctx context.Context, c *harness.Cluster, id string) (*runState, error) {
	var r runState
	if err := c.CLI.JSON(ctx, &r, "ps", id); err != nil {
		return nil, err
	}
	return &r, nil
}

// submit starts the example and returns its id.
func submit(ctx context.Context, t *testing.T, c *harness.Cluster, args ...string) string {
	t.Helper()
	id := filepath.Join(t.TempDir(), "id")
	_, err := c.CLI.Run(ctx, append([]string{"run", filepath.Join(root, "examples/flights/flights.dsl"), "--herd", "analytics", "--id-file", id}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(id)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// until polls ps until ok is true. A control node that is down meanwhile is no failure: the
// client finds another.
func until(ctx context.Context, t *testing.T, c *harness.Cluster, id, what string, ok func(*runState) bool) *runState {
	t.Helper()
	var last string
	for {
		r, err := ps(ctx, c, id)
		switch {
		case err != nil:
			last = err.Error()
		case ok(r):
			return r
		default:
			b, merr := json.Marshal(r)
			if merr != nil {
				t.Fatal(merr)
			}
			last = string(b)
			if r.State == "failed" || r.State == "cancelled" || r.State == "succeeded" {
				t.Fatalf("waiting for %s: run %s is %s: %s", what, id, r.State, r.Reason)
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %v; last seen: %s", what, ctx.Err(), last)
		case <-time.After(300 * time.Millisecond): // a poll, not an assertion
		}
	}
}

func finished(r *runState) bool { return r.State == "succeeded" }

// verify fetches the outputs of a run and has an independent program compare them.
func verify(ctx context.Context, t *testing.T, c *harness.Cluster, id string) {
	t.Helper()
	out := t.TempDir()
	for _, sink := range []string{"late", "rest", "rejected"} {
		if _, err := c.CLI.Run(ctx, "artifact", "get", id+"/"+sink, "-o", filepath.Join(out, sink+".jsonl")); err != nil {
			t.Fatal(err)
		}
	}
	program, err := verifier()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, program, out)
	cmd.Dir = filepath.Join(root, "examples", "flights")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("verify: %v\n%s", err, b)
	}
}

// verifier builds the independent program, once.
var verifier = sync.OnceValues(func() (string, error) {
	program, err := filepath.Abs(filepath.Join(shared.dir, "verify"))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", program, "./verify")
	cmd.Dir = filepath.Join(root, "examples", "flights")
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build verify: %w\n%s", err, b)
	}
	return program, nil
})

// leader names the leading node.
func leader(ctx context.Context, t *testing.T, c *harness.Cluster) string {
	t.Helper()
	var st struct {
		Leader string `json:"leader"`
	}
	for {
		err := c.CLI.JSON(ctx, &st, "cluster", "status")
		if err == nil && st.Leader != "" {
			return st.Leader
		}
		select {
		case <-ctx.Done():
			t.Fatalf("no leader: %v", err)
		case <-time.After(300 * time.Millisecond):
		}
	}
}
