//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/runink/runink/tools/harness"
)

// A node's agent is stopped (SIGSTOP) while it runs a slice, and its link is cut. The slice
// is dead before its replacement starts, by the harness's clock. The link is healed, and the
// agent goes on where it stopped: the region has one live attempt, and the run one output.
func TestLinkCutWithStoppedAgent(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c, time.Minute)
	if _, err := c.CLI.Run(ctx, "herd", "put", "fencing"); err != nil {
		t.Fatal(err)
	}
	if leader(ctx, t, c) == "n3" {
		// Not needed, but with it a new leader's wait would be the older one's and its own.
		if _, err := c.CLI.Run(ctx, "cluster", "transfer-leadership", "n1"); err != nil {
			t.Fatal(err)
		}
	}
	bundle := bundled(ctx, t, c, "wide")
	from := marks(c)
	n3 := c.Machine("n3").Console
	// The first attempt lives beyond its lease, and the second is still at work when the
	// stopped agent goes on.
	id, err := start(ctx, c, bundle, "fencing", untilIn(c.Scaled(22*time.Second)))
	if err != nil {
		t.Fatal(err)
	}
	stopped, _, err := n3.Wait(ctx, from["n3"], regexp.MustCompile(`agent: fault: agent\.slice\.running\(fencing\): delay:3s,stop`))
	if err != nil {
		t.Fatal(err)
	}
	r, err := ps(ctx, c, id)
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for _, s := range r.Regions[0].Slices {
		if s.Node == "n3" {
			lost++
		}
	}
	if lost == 0 || lost == len(r.Regions[0].Slices) {
		t.Fatalf("%d of %d slices are on n3", lost, len(r.Regions[0].Slices))
	}
	c.Port("n3").Cut(true)
	healed := false
	t.Cleanup(func() {
		if !healed {
			c.Port("n3").Cut(false)
		}
	})

	// The replacements start, all of them, and only then the link is healed.
	replaced := awaitLives(ctx, t, c, id, "the second attempt", func(all []life) bool {
		return count(all, true, 2) == len(r.Regions[0].Slices)
	})
	healing := n3.Mark()
	c.Port("n3").Cut(false)
	healed = true
	firstStart, lastEnd, fenced := time.Duration(-1), time.Duration(-1), 0
	for _, l := range replaced {
		switch {
		case l.epoch == 2 && l.started && firstStart < 0:
			firstStart = l.at
		case l.epoch == 1 && !l.started:
			lastEnd = max(lastEnd, l.at)
			if l.node == "n3" && l.reason == "fenced" {
				fenced++
			}
		}
		if l.epoch == 2 && l.node == "n3" {
			t.Errorf("a replacement started on the node that is cut off: %+v", l)
		}
	}
	if fenced != lost {
		t.Errorf("%d of %d slices on n3 died by their deadline before the replacements started: %+v", fenced, lost, replaced)
	}
	if count(replaced, false, 1) != len(r.Regions[0].Slices) || lastEnd > firstStart {
		t.Errorf("the first attempt was seen dead at %s, the second started at %s: %+v", lastEnd, firstStart, replaced)
	}
	// The order that agents were told is the same as the one in which keepers acted.
	assigned := regexp.MustCompile(`agent: .*msg="slice assigned" slice=` + id + `/\S+@2`)
	for _, n := range c.Names() {
		for _, l := range c.Machine(n).Console.Since(from[n]) {
			if assigned.MatchString(l.Text) && l.At < lastEnd {
				t.Errorf("%s was given a replacement at %s, before all was dead at %s", n, l.At, lastEnd)
			}
		}
	}
	t.Logf("stopped %s, all dead %s, replaced %s", stopped.At, lastEnd, firstStart)

	// The agent goes on with all it knew, and gets a session again.
	if _, _, err := n3.Wait(ctx, healing, regexp.MustCompile(`agent: .*msg=agent state=ready `)); err != nil {
		t.Fatal(err)
	}
	done := until(ctx, t, c, id, "success", finished)
	if done.Regions[0].Epoch != "2" {
		t.Errorf("it succeeded in attempt %s, want the second", done.Regions[0].Epoch)
	}
	all := awaitLives(ctx, t, c, id, "the end of all", func(all []life) bool {
		return count(all, false, 2) == len(r.Regions[0].Slices)
	})
	if len(all) != 4*len(r.Regions[0].Slices) {
		t.Errorf("every slice has two attempts, each with a start and an end; the keepers say %+v", all)
	}
	if dead := slices.IndexFunc(all, func(l life) bool { return l.epoch == 2 && l.started }); count(all[:dead], false, 1) != len(r.Regions[0].Slices) {
		t.Errorf("two attempts lived at once: %+v", all)
	}
	thrice(ctx, t, c, id)
}

// untilIn is the parameter that has a slice wait for d from now.
func untilIn(d time.Duration) string {
	return fmt.Sprintf("until:%d", time.Now().Add(d).UnixMilli())
}

// thrice checks a run's output: the three rows of its input, once each.
func thrice(ctx context.Context, t *testing.T, c *harness.Cluster, id string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "done.jsonl")
	if _, err := c.CLI.Run(ctx, "artifact", "get", id+"/done", "-o", out); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if want := "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n"; string(got) != want {
		t.Errorf("output %q, want %q", got, want)
	}
}

func count(all []life, started bool, epoch int) int {
	n := 0
	for _, l := range all {
		if l.started == started && l.epoch == epoch {
			n++
		}
	}
	return n
}

// awaitLives reads the consoles until ok.
func awaitLives(ctx context.Context, t *testing.T, c *harness.Cluster, id, what string, ok func([]life) bool) []life {
	t.Helper()
	for {
		all := lives(c, id)
		if ok(all) {
			return all
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %v; the keepers said %+v", what, ctx.Err(), all)
		case <-time.After(100 * time.Millisecond): // a poll, not an assertion
		}
	}
}

// Two runs, each of which needs sixty per cent of the cluster's processors: one waits, and
// can say why; both finish; neither ever holds a part of what it needs.
func TestTwoRunsOfSixtyPercent(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c, 40*time.Second)
	if _, err := c.CLI.Run(ctx, "herd", "put", "wide"); err != nil {
		t.Fatal(err)
	}
	share(ctx, t, c, 4*810)
	bundle := bundled(ctx, t, c, "wide")
	how := untilIn(c.Scaled(4 * time.Second))
	var ids [2]string
	for i := range ids {
		var err error
		if ids[i], err = start(ctx, c, bundle, "wide", how); err != nil {
			t.Fatal(err)
		}
	}
	waited, samples := "", 0
	for over := 0; over < len(ids); {
		over = 0
		for _, id := range ids {
			r, err := ps(ctx, c, id)
			if err != nil {
				t.Fatal(err)
			}
			samples++
			placed := 0
			for _, s := range r.Regions[0].Slices {
				if s.Node != "" {
					placed++
				}
			}
			if placed != 0 && placed != len(r.Regions[0].Slices) {
				t.Errorf("run %s is half placed: %+v", id, r)
			}
			switch r.State {
			case "succeeded":
				over++
			case "failed", "cancelled":
				t.Fatalf("run %s is %s: %s", id, r.State, r.Reason)
			case "pending":
				if placed == 0 && waited == "" {
					waited = explained(ctx, t, c, id)
				}
			}
		}
	}
	t.Logf("%d samples; the one that waited said: %s", samples, waited)
	if waited == "" {
		t.Error("neither run was seen waiting with a reason")
	}
	for _, id := range ids {
		thrice(ctx, t, c, id)
	}
}

// share checks that so many thousandths of a processor are about sixty per cent.
func share(ctx context.Context, t *testing.T, c *harness.Cluster, milli int) {
	t.Helper()
	var list struct {
		Nodes []struct {
			Capacity struct {
				MilliCPU string `json:"milli_cpu"`
			} `json:"capacity"`
		} `json:"nodes"`
	}
	if err := c.CLI.JSON(ctx, &list, "node", "list"); err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, n := range list.Nodes {
		m, err := strconv.Atoi(n.Capacity.MilliCPU)
		if err != nil {
			t.Fatal(err)
		}
		total += m
	}
	if p := float64(milli) / float64(total); p < 0.58 || p > 0.62 {
		t.Fatalf("a run needs %.0f %% of the cluster's %d thousandths", 100*p, total)
	}
}

// explained returns what the cluster says a run waits for, "" if it does not wait (any more).
func explained(ctx context.Context, t *testing.T, c *harness.Cluster, id string) string {
	t.Helper()
	var why struct {
		Summary string `json:"summary"`
		Reasons []struct {
			Slice, Node, Dimension, Wanted, Available string
		} `json:"reasons"`
	}
	if err := c.CLI.JSON(ctx, &why, "explain", id); err != nil {
		t.Fatal(err)
	}
	if len(why.Reasons) == 0 {
		return ""
	}
	nodes := map[string]bool{}
	for _, r := range why.Reasons {
		if r.Dimension != "cpu" || r.Wanted == "" || r.Available == "" {
			t.Errorf("a reason that does not name processors, wanted and available: %+v", r)
		}
		nodes[r.Node] = true
	}
	if len(nodes) != len(c.Names()) || !strings.Contains(why.Summary, "cpu") {
		t.Errorf("the reason is to name each node, and what it lacks: %+v", why)
	}
	return why.Summary
}
