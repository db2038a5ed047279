//go:build cluster

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/runink/runink/qemu"
	"github.com/runink/runink/tools/harness"
)

// armed gives the machines of the shared cluster their faults. Each is armed for a herd of
// one test, so no other test meets it.
//
//   - retry: a server dies after it has committed its second submission.
//   - exits: servers die after some submissions, agents while they move log lines, or before
//     or after they wrote down an exit. PID 1 starts them again, armed again.
//   - cut: a leader waits before it commits.
//   - fencing: on n3, the agent is stopped a while after a slice began to run, for longer
//     than it takes to replace the slice, and then goes on as if nothing had happened.
func armed(node string, timeScale float64) string {
	stop := time.Duration(18 * timeScale * float64(time.Second)) // (L+K)(1+ε) is 15.15 s
	agent := map[string]string{
		"n1": "agent.log.moved(exits)=exit@350",
		"n2": "agent.exit.known(exits)=exit@16",
		"n3": "agent.exit.recorded(exits)=exit@18;agent.slice.running(fencing)=delay:3s,stop:" + stop.String() + "@1",
	}
	return "RUNINK_FAULT=runs.commit.before(" + cutHerd + ")=delay:5s;runs.submit.committed(retry)=exit@2;runs.submit.committed(exits)=exit@12;" + agent[node]
}

var built struct {
	sync.Mutex
	bundles map[string]string
}

// bundled builds testdata/exits/NAME.dsl, once.
func bundled(ctx context.Context, t *testing.T, c *harness.Cluster, name string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if b := built.bundles[name]; b != "" {
		return b
	}
	return build(ctx, t, c, name, filepath.Join("testdata", "exits", name+".dsl"))
}

// boundTo builds testdata/exits/exits.dsl for one node, without a time limit, once.
func boundTo(ctx context.Context, t *testing.T, c *harness.Cluster, node string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	name := "exits-" + node
	if b := built.bundles[name]; b != "" {
		return b
	}
	dir := filepath.Join(t.TempDir(), name)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "exits"))); err != nil {
		t.Fatal(err)
	}
	sdk, err := filepath.Abs(filepath.Join(root, "sdk"))
	if err != nil {
		t.Fatal(err)
	}
	replace(t, filepath.Join(dir, "go.mod"), "../../../../sdk", sdk)
	dsl := filepath.Join(dir, "exits.dsl")
	replace(t, dsl, "time=40s", fmt.Sprintf(`label=["node=%s"]`, node))
	return build(ctx, t, c, name, dsl)
}

// replace replaces a text that is in a file.
func replace(t *testing.T, file, text, with string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(text)) {
		t.Fatalf("%s lacks %q", file, text)
	}
	if err := os.WriteFile(file, bytes.ReplaceAll(b, []byte(text), []byte(with)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// build builds a pipeline and remembers the bundle; built is locked.
func build(ctx context.Context, t *testing.T, c *harness.Cluster, name, dsl string) string {
	t.Helper()
	out := filepath.Join(shared.Dir(), name+".bundle")
	if _, err := c.CLI.Run(ctx, "build", dsl, "--out", out); err != nil {
		t.Fatal(err)
	}
	if built.bundles == nil {
		built.bundles = map[string]string{}
	}
	built.bundles[name] = out
	return out
}

// start submits a bundle of testdata/exits and returns the run's id.
func start(ctx context.Context, c *harness.Cluster, bundle, herd, how string, args ...string) (string, error) {
	out, err := c.CLI.Run(ctx, append([]string{
		"run", bundle, "--herd", herd, "--param", "how=" + how,
		"--input", "orders=" + filepath.Join("testdata", "exits", "orders.jsonl"),
	}, args...)...)
	return strings.TrimSpace(out), err
}

// ended is what a test reads of a run and its slices, beyond runState.
type ended struct {
	State   string `json:"state"`
	Reason  string `json:"reason"`
	Regions []struct {
		Epoch   string `json:"epoch"`
		Retries int    `json:"retries"`
		Slices  []struct {
			Name   string `json:"name"`
			Node   string `json:"node"`
			Status struct {
				Phase string `json:"phase"`
				Exit  struct {
					Reason  string `json:"reason"`
					Code    int    `json:"code"`
					Signal  int    `json:"signal"`
					Message string `json:"message"`
				} `json:"exit"`
			} `json:"status"`
		} `json:"slices"`
	} `json:"regions"`
}

// awaitEnd polls a run until it is over, however it ends.
func awaitEnd(ctx context.Context, c *harness.Cluster, id string) (*ended, error) {
	for {
		var r ended
		err := c.CLI.JSON(ctx, &r, "ps", id)
		if err == nil && (r.State == "succeeded" || r.State == "failed" || r.State == "cancelled") {
			return &r, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("run %s is %s: %w", id, r.State, errors.Join(ctx.Err(), err))
		case <-time.After(500 * time.Millisecond): // a poll, not an assertion
		}
	}
}

// life is one line of a keeper's about an attempt.
type life struct {
	at      time.Duration // the harness's clock
	node    string
	started bool // else ended
	slice   string
	epoch   int
	reason  string
}

var lifeLine = regexp.MustCompile(`keeper: .*msg="slice (starts|ended)".* slice=([a-z0-9]+)/(\S+)@(\d+)(?: .*reason=(\w+))?`)

// lives reads from all consoles what the keepers said of a run, in the order of the
// harness's clock.
func lives(c *harness.Cluster, run string) []life {
	var all []life
	for _, n := range c.Names() {
		for _, l := range c.Machine(n).Console.Since(0) {
			m := lifeLine.FindStringSubmatch(l.Text)
			if m == nil || m[2] != run {
				continue
			}
			epoch, err := strconv.Atoi(m[4])
			if err != nil {
				continue // \d+ beyond an int: no keeper writes that
			}
			all = append(all, life{l.At, n, m[1] == "starts", m[3], epoch, m[5]})
		}
	}
	slices.SortStableFunc(all, func(a, b life) int { return int(a.at - b.at) })
	return all
}

// marks remembers where all consoles are.
func marks(c *harness.Cluster) map[string]qemu.Mark {
	m := map[string]qemu.Mark{}
	for _, n := range c.Names() {
		m[n] = c.Machine(n).Console.Mark()
	}
	return m
}

// since counts the lines of all consoles that match, after marks.
func since(c *harness.Cluster, from map[string]qemu.Mark, re *regexp.Regexp) int {
	n := 0
	for name, m := range from {
		for _, l := range c.Machine(name).Console.Since(m) {
			if re.MatchString(l.Text) {
				n++
			}
		}
	}
	return n
}

// ending is one way to end a slice and how it must be reported.
type ending struct {
	how          string
	reason       string
	code, signal int
	message      string
	attempts     int
}

// endings are thirty, no two alike. What may succeed another time is tried four times.
func endings() []ending {
	const tries = 4
	all := []ending{
		{how: "ok", reason: "success", attempts: 1},
		{how: "forever", reason: "time_limit", code: -1, signal: 9, attempts: 1},
		{how: "oom", reason: "oom", code: -1, signal: 9, attempts: tries},
		{how: "threads", reason: "pids_limit", code: 2, attempts: tries},
	}
	for _, code := range []int{0, 3, 42, 127, 255} {
		all = append(all, ending{how: fmt.Sprintf("exit:%d", code), reason: "exit", code: code, attempts: tries})
	}
	for _, sig := range []int{4, 5, 7, 9, 11, 31} {
		all = append(all, ending{how: fmt.Sprintf("signal:%d", sig), reason: "signal", code: -1, signal: sig, attempts: tries})
	}
	for i := range 15 {
		text := fmt.Sprintf("refusal %d", i)
		all = append(all, ending{how: "fail:" + text, reason: "exit", code: 1, message: text, attempts: 1})
	}
	return all
}

// Thirty slices end in thirty ways while agents and servers die: each exit is told apart and
// counted once, each line they printed is there once and in order.
func TestThirtyExitsWhileAgentsAndServersDie(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c, 80*time.Second)
	if _, err := c.CLI.Run(ctx, "herd", "put", "exits"); err != nil {
		t.Fatal(err)
	}
	bundle := bundled(ctx, t, c, "exits")
	from := marks(c)
	all := endings()
	if len(all) != 30 {
		t.Fatalf("%d endings", len(all))
	}
	ids, ends := make([]string, len(all)), make([]*ended, len(all))
	const followed = 5 // exits with 3, four times
	var live *follower
	var g errgroup.Group
	g.SetLimit(3) // clients at a time
	for i, e := range all {
		g.Go(func() (err error) {
			if ids[i], err = start(ctx, c, bundle, "exits", e.how); err == nil && i == followed {
				live = follow(ctx, c, ids[i])
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		var err error
		if ends[i], err = awaitEnd(ctx, c, ids[i]); err != nil {
			t.Fatal(err)
		}
	}
	agents := since(c, from, regexp.MustCompile(`agent: fault: agent\.\S+\(exits\): exit`))
	servers := since(c, from, regexp.MustCompile(`server: fault: runs\.\S+\(exits\): exit`))
	t.Logf("%d agents and %d servers died on the way", agents, servers)
	if agents < 3 || servers < 1 {
		t.Errorf("only %d agents and %d servers died", agents, servers)
	}
	live.end(ctx, t, c, ids[followed], all[followed].how)
	seen := map[string]string{}
	for i, e := range all {
		t.Run(e.how, func(t *testing.T) {
			r := ends[i]
			if want := map[bool]string{true: "succeeded", false: "failed"}[e.reason == "success"]; r.State != want {
				t.Errorf("the run is %s: %s; want %s", r.State, r.Reason, want)
			}
			reg := r.Regions[0]
			x := reg.Slices[0].Status.Exit
			if x.Reason != e.reason || x.Code != e.code || x.Signal != e.signal || !strings.Contains(x.Message, e.message) {
				t.Errorf("exit %+v, want %+v", x, e)
			}
			// An exit that was counted twice would have used up a try; one that was lost would
			// have left the run waiting, or made one more.
			tries := e.attempts
			if e.reason == "success" {
				tries = 0
			}
			if reg.Retries != tries {
				t.Errorf("%d failures were counted, want %d", reg.Retries, tries)
			}
			b, err := json.Marshal(x)
			if err != nil {
				t.Fatal(err)
			}
			if other, dup := seen[string(b)]; dup {
				t.Errorf("reported like %s: %s", other, b)
			}
			seen[string(b)] = e.how
			onceEach(t, c, ids[i], e)
			for _, l := range lives(c, ids[i]) {
				if !l.started {
					linesOnce(ctx, t, c, ids[i], e.how, l, 40)
				}
			}
		})
	}
}

// lost is a node that the leader gave up, by the harness's clock.
type lost struct {
	at   time.Duration
	node string
}

var lostLine = regexp.MustCompile(`server: .*msg="node lost" node=(\S+)`)

// losses reads from all consoles which nodes were given up, and when.
func losses(c *harness.Cluster) []lost {
	var all []lost
	for _, n := range c.Names() {
		for _, l := range c.Machine(n).Console.Since(0) {
			if m := lostLine.FindStringSubmatch(l.Text); m != nil {
				all = append(all, lost{l.At, m[1]})
			}
		}
	}
	return all
}

// onceEach checks with the keepers' own words that no attempt ran twice, that each ended
// before the next began, and that as many ended by themselves as were counted.
//
// A busy node may lose its lease meanwhile. That ends attempts, which count for nothing; and
// an attempt that ended by itself there may have been given up before its node could say so,
// and counts for nothing either. Only of a node that was given up before the next attempt
// began is that accepted.
func onceEach(t *testing.T, c *harness.Cluster, id string, e ending) {
	t.Helper()
	all, gone := lives(c, id), losses(c)
	counted, unheard, last := 0, 0, 0
	var began time.Duration
	for i, l := range all {
		if l.started != (i%2 == 0) || l.started && l.epoch <= last || !l.started && l.epoch != last || l.slice != "act" {
			t.Fatalf("attempts overlap or ran twice: %+v", all)
		}
		last = l.epoch
		if l.started {
			began = l.at
			continue
		}
		if l.reason == "fenced" || l.reason == "killed" {
			continue
		}
		counted++
		if i+1 < len(all) && slices.ContainsFunc(gone, func(g lost) bool { return g.node == l.node && g.at > began && g.at < all[i+1].at }) {
			unheard++
		}
	}
	if counted < e.attempts || counted > e.attempts+unheard || len(all)%2 != 0 {
		t.Errorf("%d exits, of which the leader may not have heard %d; want %d: %+v", counted, unheard, e.attempts, all)
	}
}

// linesOnce checks the lines of an attempt that ended as l says: all of them if it ended by
// itself, and the first ones if it was ended, in order and once.
func linesOnce(ctx context.Context, t *testing.T, c *harness.Cluster, id, how string, l life, lines int) {
	t.Helper()
	out, err := c.CLI.Run(ctx, "logs", id, "act", "--epoch", strconv.Itoa(l.epoch))
	if err != nil {
		t.Error(err)
		return
	}
	n := 0
	for _, text := range printed(out, how) {
		if n++; text != fmt.Sprintf("%s line %d", how, n) {
			t.Errorf("attempt %d: line %d is %q", l.epoch, n, text)
			return
		}
	}
	ended := l.reason == "fenced" || l.reason == "killed"
	if n != lines && (!ended || n > lines) {
		t.Errorf("attempt %d, which ended %s: %d lines, want %d:\n%s", l.epoch, l.reason, n, lines, out)
	}
}

// printed are the lines of a log that Act printed; the others are the runtime's own.
func printed(log, how string) []string {
	var all []string
	for line := range strings.Lines(log) {
		if text := strings.TrimSuffix(line, "\n"); strings.HasPrefix(text, how+" line ") {
			all = append(all, text)
		}
	}
	return all
}

// follower is a `runink logs -f` of one slice.
type follower struct {
	out  bytes.Buffer
	done chan error
}

func follow(ctx context.Context, c *harness.Cluster, id string) *follower {
	f := &follower{done: make(chan error, 1)}
	cmd := c.CLI.Cmd(ctx, "logs", "-f", id, "act")
	cmd.Stdout, cmd.Stderr = &f.out, &f.out
	go func() { f.done <- cmd.Run() }()
	return f
}

// end checks what was followed over restarts of slice, agents and servers: it is what the
// attempts' logs hold, of one that was the newest when it was asked for and of all after it,
// once and in order.
func (f *follower) end(ctx context.Context, t *testing.T, c *harness.Cluster, id, how string) {
	t.Helper()
	if err := <-f.done; err != nil {
		t.Fatalf("logs -f: %v\n%s", err, &f.out)
	}
	var want []string
	var begins []int // in want, of each attempt
	for _, l := range lives(c, id) {
		if l.started {
			continue
		}
		out, err := c.CLI.Run(ctx, "logs", id, "act", "--epoch", strconv.Itoa(l.epoch))
		if err != nil {
			t.Fatal(err)
		}
		begins = append(begins, len(want))
		want = append(want, printed(out, how)...)
	}
	got := printed(f.out.String(), how)
	from := slices.IndexFunc(begins, func(b int) bool { return slices.Equal(got, want[b:]) })
	if from < 0 || from == len(begins)-1 {
		t.Errorf("logs -f printed %d lines, and the logs of %d attempts hold %d:\n%s", len(got), len(begins), len(want), &f.out)
	}
}

// The leader's server dies between the commit of a submission and its answer: the client
// asks again by itself and gets the run that was committed, and there is one.
func TestServerDiesBetweenCommitAndReply(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c, time.Minute)
	if _, err := c.CLI.Run(ctx, "herd", "put", "retry"); err != nil {
		t.Fatal(err)
	}
	bundle := bundled(ctx, t, c, "exits")
	died := regexp.MustCompile(`server: fault: runs\.submit\.committed\(retry\): exit`)
	want := map[string]bool{}
	for i := 0; ; i++ {
		if i == 6 {
			t.Fatal("no server died at its second submission")
		}
		from := marks(c)
		request := fmt.Sprintf("e2e-retry-%d-%d", os.Getpid(), i)
		id, err := start(ctx, c, bundle, "retry", "ok", "--request-id", request)
		if err != nil {
			t.Fatal(err)
		}
		if want[id] {
			t.Errorf("run %s was returned for two requests", id)
		}
		want[id] = true
		if since(c, from, died) == 0 {
			continue // the first of its server
		}
		again, err := start(ctx, c, bundle, "retry", "ok", "--request-id", request)
		if err != nil {
			t.Fatal(err)
		}
		if again != id {
			t.Errorf("the same request gave run %s, then %s", id, again)
		}
		break
	}
	var list struct {
		Runs []struct {
			ID string `json:"id"`
		} `json:"runs"`
	}
	if err := c.CLI.JSON(ctx, &list, "ps", "--all", "--herd", "retry"); err != nil {
		t.Fatal(err)
	}
	if len(list.Runs) != len(want) {
		t.Errorf("%d runs, want %d", len(list.Runs), len(want))
	}
	for id := range want {
		until(ctx, t, c, id, "success", finished)
	}
}
