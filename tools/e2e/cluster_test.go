//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runink/runink/image"
	"github.com/runink/runink/tools/e2e/topology"
	"github.com/runink/runink/tools/harness"
)

// root is the repository.
var root = filepath.Join("..", "..")

// shared is three nodes, Ready, with herd analytics, and two more machines that are off.
var shared = topology.Shared{
	Name: "e2e",
	Config: harness.Config{
		Bin: filepath.Join(root, "bin", "runink"), Image: filepath.Join(root, "build", "image"),
		Nodes: 3, Spare: 2, Words: armed,
	},
	Needs: []string{filepath.Join(root, "build", "image", image.VmlinuzFile)},
	Set: func(ctx context.Context, c *harness.Cluster) error {
		_, err := c.CLI.Run(ctx, "herd", "put", "analytics")
		return err
	},
}

func TestMain(m *testing.M) { shared.Main(m) }

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
	program, err := filepath.Abs(filepath.Join(shared.Dir(), "verify"))
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
