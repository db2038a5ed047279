//go:build cluster

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/runink/runink/qemu"
	"github.com/runink/runink/tools/harness"
	"github.com/runink/runink/tools/operator"
)

// hosts reports whether a slice of the run is placed on node.
func hosts(r *runState, node string) bool {
	for _, reg := range r.Regions {
		for _, s := range reg.Slices {
			if s.Node == node {
				return true
			}
		}
	}
	return false
}

// received reports whether one of the sinks got rows, in any slice.
func received(r *runState, sinks ...string) bool {
	for _, reg := range r.Regions {
		for _, s := range reg.Slices {
			for _, sink := range sinks {
				if n := s.Status.Counts[sink].In; n != "" && n != "0" {
					return true
				}
			}
		}
	}
	return false
}

func powerOn(ctx context.Context, t *testing.T, c *harness.Cluster, name string) qemu.Mark {
	t.Helper()
	mark, err := c.Machine(name).PowerOn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return mark
}

func ready(ctx context.Context, t *testing.T, c *harness.Cluster, name string, mark qemu.Mark) {
	t.Helper()
	if err := c.AwaitReady(ctx, name, mark); err != nil {
		t.Fatal(err)
	}
}

// The leader loses power while it hosts a slice of the run, after a sink received rows and
// before the commit. The run finishes, its output is what it would have been, nothing twice,
// no acknowledged write is lost, and the node comes back by itself.
//
// A seed chooses how long after which sink had rows (the dead letters fill from the first
// second, the aggregated sinks in the last) the power goes; the table beside it, that every
// node leads and each of the first two is met at both moments. The leader pauses before it
// commits runs of this test's herd, so that the last moment can be met.
//
// What else a dead leader must not take along is tried on the same cuts: a slice of another
// run, on another node, goes on in its first attempt, over as many of them as leave its node
// alone; the outputs of the run before can be fetched.
func TestLeaderPowerCutDuringRun(t *testing.T) {
	c := shared.Cluster(t)
	dsl := exampleOf(t, cutHerd)
	if _, err := c.CLI.Run(t.Context(), "herd", "put", cutHerd); err != nil {
		t.Fatal(err)
	}
	first, last := []string{"rejected"}, []string{"late", "rest"}
	var other *bystander
	for seed, at := range []struct {
		lead      string
		sinks     []string
		bystander string
	}{
		{"n1", first, "n3"},
		{"n2", last, "n3"},
		{"n1", last, "n3"},
		{"n2", first, "n3"},
		{"n3", first, "n1"},
	} {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			ctx := limit(t, c, 3*time.Minute)
			rnd := rand.New(rand.NewPCG(uint64(seed), 0))
			sinks, lead := at.sinks, at.lead
			pause := time.Duration(rnd.IntN(700)) * time.Millisecond
			if leader(ctx, t, c) != lead {
				if _, err := c.CLI.Run(ctx, "cluster", "transfer-leadership", lead); err != nil {
					t.Fatal(err)
				}
			}
			// Acknowledged just before the cut, and after it.
			early, late := fmt.Sprintf("before-%d", seed), fmt.Sprintf("during-%d", seed)
			if other == nil || other.node != at.bystander {
				other.stop(ctx, t, c)
				other = nil // a start that fails leaves none
				other = startBystander(ctx, t, c, at.bystander)
			}
			id, before, epoch := cutLeader(ctx, t, c, dsl, sinks, pause, func() {
				if _, err := c.CLI.Run(ctx, "herd", "put", early); err != nil {
					t.Fatal(err)
				}
			})
			if _, err := c.CLI.Run(ctx, "herd", "put", late); err != nil {
				t.Fatal(err)
			}
			if kept.run != "" {
				fetchWithout(ctx, t, c, before)
			}
			mark := powerOn(ctx, t, c, before)
			r := until(ctx, t, c, id, "success", finished)
			t.Logf("cut %s, leader, %v after %v had rows, in epoch %s; finished in epoch %s", before, pause, sinks, epoch, r.Regions[0].Epoch)
			verify(ctx, t, c, id)
			if kept.run == "" { // the same run then, whichever node is off
				kept.run = id
			}
			ready(ctx, t, c, before, mark)
			for _, name := range []string{early, late} {
				if _, err := c.CLI.Run(ctx, "herd", "get", name); err != nil {
					t.Errorf("an acknowledged write is lost: %v", err)
				}
			}
			other.works(ctx, t, c)
		})
	}
	other.stop(limit(t, c, time.Minute), t, c)
}

// bystander is a run of one slice that works until it is stopped, on a node of its test's
// choice.
type bystander struct{ run, node string }

func startBystander(ctx context.Context, t *testing.T, c *harness.Cluster, node string) *bystander {
	t.Helper()
	const herd = "bystanders"
	if _, err := c.CLI.Run(ctx, "herd", "put", herd); err != nil {
		t.Fatal(err)
	}
	id, err := start(ctx, c, boundTo(ctx, t, c, node), herd, untilIn(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	b := &bystander{id, node}
	until(ctx, t, c, id, "a bystander", func(r *runState) bool { return r.State == "running" && hosts(r, node) })
	b.works(ctx, t, c)
	return b
}

// works waits until the slice has printed another line, and fails if it was ever started
// again or ended.
func (b *bystander) works(ctx context.Context, t *testing.T, c *harness.Cluster) {
	t.Helper()
	lines := func() int {
		out, err := c.CLI.Run(ctx, "logs", b.run, "act")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(out, "waiting\n")
	}
	for before := lines(); lines() <= before; {
		select {
		case <-ctx.Done():
			t.Fatalf("the slice on %s prints nothing more: %v", b.node, ctx.Err())
		case <-time.After(300 * time.Millisecond): // a poll, not an assertion
		}
	}
	if all := lives(c, b.run); len(all) != 1 || !all[0].started || all[0].node != b.node || all[0].epoch != 1 {
		t.Errorf("the slice on %s, which nothing happened to, was ended or begun again: %+v", b.node, all)
	}
	if r, err := ps(ctx, c, b.run); err != nil || r.State != "running" || r.Regions[0].Epoch != "1" {
		t.Errorf("the run on %s, which nothing happened to: %+v, %v", b.node, r, err)
	}
}

// stop ends a bystander, if there is one.
func (b *bystander) stop(ctx context.Context, t *testing.T, c *harness.Cluster) {
	t.Helper()
	if b == nil {
		return
	}
	if _, err := c.CLI.Run(ctx, "stop", b.run); err != nil {
		t.Error(err)
	}
}

// cutHerd is the herd whose commits wait.
const cutHerd = "cut"

// exampleOf copies the example into a folder of its own, for another herd.
func exampleOf(t *testing.T, herd string) (dsl string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "flights")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, "examples", "flights"))); err != nil {
		t.Fatal(err)
	}
	dsl = filepath.Join(dir, "flights.dsl")
	replace(t, dsl, `@herd("analytics")`, fmt.Sprintf("@herd(%q)", herd))
	return dsl
}

// cutLeader submits the example and cuts the leader's power at the moment named, right after
// last returned. A run that committed before it was seen there proves nothing; another is submitted.
func cutLeader(ctx context.Context, t *testing.T, c *harness.Cluster, dsl string, sinks []string, pause time.Duration, last func()) (id, node, epoch string) {
	t.Helper()
	for range 4 {
		out, err := c.CLI.Run(ctx, "run", dsl)
		if err != nil {
			t.Fatal(err)
		}
		id := strings.TrimSpace(out)
		var at *runState
		until(ctx, t, c, id, fmt.Sprintf("rows in %v, or the end", sinks), func(r *runState) bool {
			at = r
			return received(r, sinks...) || finished(r)
		})
		node := leader(ctx, t, c)
		time.Sleep(pause) // chosen by the seed: where in the window the power goes
		last()
		r, err := ps(ctx, c, id)
		if err != nil {
			t.Fatal(err)
		}
		if r.State != "running" && r.State != "committing" || !hosts(r, node) {
			t.Logf("run %s is %s, and leader %s hosts a slice of it: %v; once more", id, r.State, node, hosts(r, node))
			continue
		}
		c.Machine(node).PowerCut()
		return id, node, at.Regions[0].Epoch
	}
	t.Fatal("no run was seen between its first rows and its commit")
	return "", "", ""
}

// With any one control node gone, the bundle and every output of one run can still be fetched.
// Nodes that earlier tests had off were gone enough.
func TestOutputsSurviveAnyControlNode(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c, 4*time.Minute)
	if kept.run == "" {
		kept.run = submit(ctx, t, c, "--wait")
	}
	for _, n := range c.Names() {
		if kept.without[n] {
			continue
		}
		c.Machine(n).PowerCut()
		fetchWithout(ctx, t, c, n)
		ready(ctx, t, c, n, powerOn(ctx, t, c, n))
	}
	for _, n := range c.Names() {
		if !kept.without[n] {
			t.Errorf("nothing was fetched without %s", n)
		}
	}
}

// kept is a run of the example that has ended, and the nodes that were off while its bundle
// and its outputs were fetched.
var kept struct {
	run     string
	without map[string]bool
}

// fetchWithout fetches all that is kept of a run while a node is off.
func fetchWithout(ctx context.Context, t *testing.T, c *harness.Cluster, node string) {
	t.Helper()
	verify(ctx, t, c, kept.run)
	if _, err := c.CLI.Run(ctx, "artifact", "get", kept.run, "--bundle", "-o", filepath.Join(t.TempDir(), "bundle")); err != nil {
		t.Fatal(err)
	}
	if kept.without == nil {
		kept.without = map[string]bool{}
	}
	kept.without[node] = true
}

// A wiped first node with its old command line waits: it never founds a second cluster.
func TestWipedNodeWaits(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c, 2*time.Minute)
	m := c.Machine("n1")
	before := clusterID(ctx, t, c)
	m.PowerCut()
	if err := os.Remove(m.Disk(0)); err != nil {
		t.Fatal(err)
	}
	mark := powerOn(ctx, t, c, "n1")
	fp, err := c.AwaitFingerprint(ctx, "n1", mark)
	if err != nil {
		t.Fatal(err)
	}
	// Even the operator's own command, typed again, founds nothing.
	var ee *operator.Error
	if err := c.Bootstrap(ctx, fp); !errors.As(err, &ee) || !strings.Contains(ee.Stderr, "was founded on node n1") {
		t.Fatalf("bootstrap of a wiped node: %v; a refusal is expected", err)
	}
	// It goes on waiting while the others are the cluster, and tells nobody of another one.
	if now := clusterID(ctx, t, c); now != before {
		t.Errorf("the cluster was %s and is %s", before, now)
	}
	for _, l := range m.Console.Since(mark) {
		if strings.Contains(l.Text, "status agent: ready") || strings.Contains(l.Text, "replica of cluster") {
			t.Errorf("the wiped node says: %s", l.Text)
		}
	}
	m.PowerCut()
	// It comes back as any other node does: with a token.
	if err := c.Rejoin(ctx, "n1"); err != nil {
		t.Fatal(err)
	}
	if now := clusterID(ctx, t, c); now != before {
		t.Errorf("the cluster was %s and is %s", before, now)
	}
}

// clusterID is the identity a cluster was given when it was founded.
func clusterID(ctx context.Context, t *testing.T, c *harness.Cluster) string {
	t.Helper()
	var st struct {
		ID string `json:"cluster_id"`
	}
	if err := c.CLI.JSON(ctx, &st, "cluster", "status"); err != nil {
		t.Fatal(err)
	}
	if st.ID == "" {
		t.Fatal("the cluster has no id")
	}
	return st.ID
}

// A node is drained: its work goes on elsewhere, from its beginning and with the output it
// would have had, the node gets no more, and does once it is resumed.
func TestDrainMovesWork(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c, time.Minute)
	const herd = "drained"
	if _, err := c.CLI.Run(ctx, "herd", "put", herd); err != nil {
		t.Fatal(err)
	}
	id, err := start(ctx, c, bundled(ctx, t, c, "exits"), herd, untilIn(c.Scaled(10*time.Second)))
	if err != nil {
		t.Fatal(err)
	}
	r := until(ctx, t, c, id, "a slice", func(r *runState) bool { return r.State == "running" })
	was := r.Regions[0].Slices[0].Node
	if _, err := c.CLI.Run(ctx, "node", "drain", was, "--reason", "test"); err != nil {
		t.Fatal(err)
	}
	state := func() string {
		for _, n := range nodes(ctx, t, c) {
			if n.Name == was {
				return n.State
			}
		}
		return ""
	}
	resume := func() {
		if _, err := c.CLI.Run(ctx, "node", "resume", was); err != nil {
			t.Error(err)
		}
	}
	defer func() {
		if s := state(); s != "ready" {
			resume()
		}
	}()
	until(ctx, t, c, id, "another node", func(r *runState) bool {
		return r.State == "running" && r.Regions[0].Slices[0].Node != was
	})
	for state() != "drained" {
		select {
		case <-ctx.Done():
			t.Fatalf("node %s is %s", was, state())
		case <-time.After(300 * time.Millisecond): // a poll, not an assertion
		}
	}
	until(ctx, t, c, id, "success", finished)
	thrice(ctx, t, c, id)
	all := lives(c, id)
	if len(all) != 4 || all[0].node != was || all[1].started || all[2].node == was || all[1].at > all[2].at {
		t.Errorf("one attempt on %s, then one elsewhere, is expected: %+v", was, all)
	}
	resume()
	if s := state(); s != "ready" {
		t.Errorf("the node is %s after it was resumed", s)
	}
}
