//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/tools/e2e/attempts"
	"github.com/runink/runink/tools/harness"
)

// The probe's steps and the nodes they are bound to (testdata/probe/probe.dsl).
var probeNodes = map[string]string{"here": "n3", "there": "n2", "elsewhere": "n1"}

// order is a row of the probe's input.
type order struct {
	Step string `json:"step"`
	Do   string `json:"do"`
}

// result is a line of a probe's log.
type result struct {
	Try   string `json:"try"`
	OK    bool   `json:"ok"`
	Got   string `json:"got"`
	Error string `json:"error"`
}

// probe is the built pipeline.
type probe struct{ bundle string }

// buildProbe builds testdata/probe with the package attempts beside it, as a user's module.
func buildProbe(ctx context.Context, t *testing.T, c *harness.Cluster) *probe {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "probe")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "probe"))); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, "attempts"), os.DirFS("attempts")); err != nil {
		t.Fatal(err)
	}
	p := &probe{bundle: filepath.Join(dir, "probe.bundle")}
	if _, err := c.CLI.Run(ctx, "build", filepath.Join(dir, "probe.dsl"), "--out", p.bundle); err != nil {
		t.Fatal(err)
	}
	return p
}

// run submits the probe in a herd with these orders, and returns the run's id.
func (p *probe) run(ctx context.Context, t *testing.T, c *harness.Cluster, herd string, orders ...order) string {
	t.Helper()
	dir := t.TempDir()
	var in []byte
	for _, o := range orders {
		b, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		in = append(append(in, b...), '\n')
	}
	input, id := filepath.Join(dir, "orders.jsonl"), filepath.Join(dir, "id")
	if err := os.WriteFile(input, in, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CLI.Run(ctx, "run", p.bundle, "--herd", herd, "--input", "attempts="+input, "--id-file", id); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(id)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// said returns what a slice of a probe has printed, by attempt.
func said(ctx context.Context, t *testing.T, c *harness.Cluster, run, slice string) map[string]result {
	t.Helper()
	out, err := c.CLI.Run(ctx, "logs", run, slice)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]result{}
	for line := range strings.Lines(out) {
		var r result
		if json.Unmarshal([]byte(line), &r) == nil && r.Try != "" { // the engine logs as well
			all[r.Try] = r
		}
	}
	return all
}

// ticks waits until a victim has ticked n times, and returns its tick count. A tick that
// failed is a failure of the test.
func ticks(ctx context.Context, t *testing.T, c *harness.Cluster, run string, n int) int {
	t.Helper()
	for {
		count := 0
		for name, r := range said(ctx, t, c, run, "there") {
			if strings.HasPrefix(name, "tick=") {
				count++
				if !r.OK {
					t.Fatalf("the victim was harmed: %s: %s", name, r.Error)
				}
			}
		}
		if count >= n {
			return count
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the victim ticked %d times, not %d", count, n)
		case <-time.After(300 * time.Millisecond): // a poll, not an assertion
		}
	}
}

// addresses maps the slices of a run to their addresses.
func addresses(ctx context.Context, t *testing.T, c *harness.Cluster, run string) map[string]string {
	t.Helper()
	var r struct {
		Regions []struct {
			Slices []struct {
				Name    string `json:"name"`
				Node    string `json:"node"`
				Address string `json:"address"`
			} `json:"slices"`
		} `json:"regions"`
	}
	if err := c.CLI.JSON(ctx, &r, "ps", run); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, g := range r.Regions {
		for _, s := range g.Slices {
			if probeNodes[s.Name] != s.Node {
				t.Fatalf("slice %s is on %s", s.Name, s.Node)
			}
			out[s.Name] = s.Address
		}
	}
	return out
}

// node is what the tests read of `runink node list -o json`.
type node struct {
	Name       string   `json:"name"`
	State      string   `json:"state"`
	BootID     string   `json:"boot_id"`
	LastChange string   `json:"last_change"`
	Prefix     string   `json:"prefix"`
	Addresses  []string `json:"addresses"`
}

func nodes(ctx context.Context, t *testing.T, c *harness.Cluster) []node {
	t.Helper()
	var list struct {
		Nodes []node `json:"nodes"`
	}
	if err := c.CLI.JSON(ctx, &list, "node", "list"); err != nil {
		t.Fatal(err)
	}
	return list.Nodes
}

const victimWord = "the-victims-own-word"

// ownFile is where a slice finds its secret probe/file.
const ownFile = "/secrets/probe.file"

// secretOf is a herd's value of one of the probe's secrets.
func secretOf(herd, name string) string { return "secret-" + name + "-of-" + herd }

// herdOf makes a herd with the secrets that slice there is given.
func herdOf(ctx context.Context, t *testing.T, c *harness.Cluster, herd string) {
	t.Helper()
	if _, err := c.CLI.Run(ctx, "herd", "put", herd); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"variable", "file"} {
		value := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(value, []byte(secretOf(herd, name)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := c.CLI.Run(ctx, "secret", "put", "--herd", herd, "--file", value, "probe/"+name); err != nil {
			t.Fatal(err)
		}
	}
}

// victim starts a run of another herd that goes on for good, on n2, and makes the controls:
// what its neighbour and itself may do, an attacker must not.
func (p *probe) victim(ctx context.Context, t *testing.T, c *harness.Cluster) (run, address string) {
	t.Helper()
	herdOf(ctx, t, c, "victims")
	run = p.run(ctx, t, c, "victims",
		order{"here", "peer"},
		order{"there", "serve=" + victimWord},
		order{"there", "self"},
		order{"there", "abstract=" + attempts.AbstractName + " read=" + attempts.SecretFile + " " + grepFor(victimWord)},
		order{"there", grepFor(secretOf("victims", "variable")) + " " + grepFor(secretOf("victims", "file"))},
		order{"there", "hold"})
	until(ctx, t, c, run, "the victim", func(r *runState) bool { return r.State == "running" })
	ticks(ctx, t, c, run, 2)
	address = addresses(ctx, t, c, run)["there"]
	here, there := said(ctx, t, c, run, "here"), said(ctx, t, c, run, "there")
	for _, control := range []struct {
		said map[string]result
		try  string
	}{
		// Its neighbour in the DAG reaches it, across nodes, at the edge's port.
		{here, "reach=" + hostPort(address, nodecfg.PortEdge)},
		// It reaches itself, and sees what is its own.
		{there, "reach=" + hostPort(address, attempts.VictimPort)},
		{there, "abstract=" + attempts.AbstractName},
		{there, "read=" + attempts.SecretFile},
		{there, grepFor(victimWord)},
		// Its secrets are with it, one as a variable and one as a file.
		{there, grepFor(secretOf("victims", "variable"))},
		{there, grepFor(secretOf("victims", "file"))},
	} {
		if r, ok := control.said[control.try]; !ok || !r.OK {
			t.Errorf("control %s: %+v", control.try, r)
		}
	}
	return run, address
}

func (p *probe) stop(ctx context.Context, t *testing.T, c *harness.Cluster, run string) {
	t.Helper()
	if _, err := c.CLI.Run(ctx, "stop", run); err != nil {
		t.Error(err)
	}
}

// grepFor looks through all files in sight for a word, which goes backwards: a slice reads
// its own orders.
func grepFor(word string) string {
	b := []byte(word)
	slices.Reverse(b)
	return "grep=/:" + string(b)
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

// A slice on each node of the booted image tries every way out; none is open.
//
// The controls, by attempt:
//   - attempts.Cases: the same code succeeds outside of a slice, as root with the same
//     kernel (TestVMWaysOutAreOpenOutside).
//   - nodes at their own addresses: this test dials them through the switch meanwhile.
//   - nodes at their overlay addresses, and UDP: open in a slice's network without the
//     policy (TestVMDefaultDeny, TestVMIsolation); the attempt itself is shown by
//     TestVMAttemptsWithArguments.
//   - secrets: the victim finds its own, as a variable and as a file, and the attacker has its
//     herd's in the slice that names them, and not in those beside it.
//   - the other herd's slice: its DAG neighbour and itself do the same (victim).
//   - writing: /tmp is writable, in the same slice.
//
// To reach is to be answered in any way, so that a refused connection counts as reached.
func TestWaysOutOfASlice(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c, 2*time.Minute)
	p := buildProbe(ctx, t, c)
	victim, address := p.victim(ctx, t, c)
	defer p.stop(ctx, t, c, victim)
	herdOf(ctx, t, c, "attackers")

	var orders []order
	guards := map[string]string{}
	for _, x := range attempts.Cases() {
		guards[x.Try] = x.Guard
		orders = append(orders, order{"all", x.Try})
	}
	var dials, controls []string
	dial := func(guard string, all ...string) {
		for _, d := range all {
			guards[d] = guard
			dials = append(dials, d)
		}
	}
	for _, n := range nodes(ctx, t, c) {
		gateway := strings.TrimSuffix(n.Prefix, "/64") + "1"
		for _, port := range []int{nodecfg.PortAPI, nodecfg.PortRaft, nodecfg.PortMetrics} {
			controls = append(controls, hostPort(n.Addresses[0], port))
			dial("no route out of the overlay", "reach="+hostPort(n.Addresses[0], port))
			dial("nftables: input from slices", "reach="+hostPort(gateway, port))
		}
		dial("no route out of the overlay", "udp="+hostPort(n.Addresses[0], nodecfg.PortWireGuard))
		dial("nftables: input from slices", "udp="+hostPort(gateway, nodecfg.PortWireGuard))
	}
	dial("nftables: only the DAG's edges are forwarded",
		"reach="+hostPort(address, nodecfg.PortEdge),
		"reach="+hostPort(address, attempts.VictimPort),
		"udp="+hostPort(address, attempts.VictimPort))
	dial("no egress", "reach="+hostPort(uplinkGateway, 53), "udp="+hostPort(uplinkGateway, 53))
	guards["abstract="+attempts.AbstractName], guards["read="+attempts.SecretFile] = "network namespace", "a /tmp of its own"
	var greps []string
	for _, word := range []string{victimWord, secretOf("victims", "variable"), secretOf("victims", "file")} {
		greps = append(greps, grepFor(word))
		guards[grepFor(word)] = "mounts and processes of its own"
	}
	const allowed = "write=/tmp/allowed"
	orders = append(orders, order{"all", strings.Join(dials, " ")}, order{"all", "abstract=" + attempts.AbstractName},
		order{"all", "read=" + attempts.SecretFile}, order{"all", strings.Join(greps, " ")}, order{"all", allowed},
		order{"all", "read=" + ownFile})

	run := p.run(ctx, t, c, "attackers", orders...)
	until(ctx, t, c, run, "the attacks", func(r *runState) bool { return r.State == "running" || finished(r) })
	for _, addr := range controls {
		conn, err := c.Dial(ctx, addr)
		if err != nil {
			t.Errorf("control: dial %s through the switch: %v", addr, err)
			continue
		}
		conn.Close()
	}
	until(ctx, t, c, run, "success", finished)
	for slice := range probeNodes {
		got := said(ctx, t, c, run, slice)
		for try, guard := range guards {
			switch r, ok := got[try]; {
			case !ok:
				t.Errorf("%s: %s was not tried", slice, try)
			case r.OK:
				t.Errorf("%s: %s succeeded (%q); it should be stopped by: %s", slice, try, r.Got, guard)
			case strings.HasPrefix(r.Error, "no attempt is called"), strings.HasPrefix(try, "exec=") && !strings.HasPrefix(r.Error, "fork/exec "):
				t.Errorf("%s: %s did not come as far as its guard: %s", slice, try, r.Error)
			}
		}
		if r := got[allowed]; !r.OK {
			t.Errorf("%s: control %s: %+v", slice, allowed, r)
		}
		// The slice whose step names the secret has its own herd's, its neighbours have none.
		switch r := got["read="+ownFile]; {
		case slice == "there" && (!r.OK || r.Got != secretOf("attackers", "file")):
			t.Errorf("control: %s reads its secret: %+v", slice, r)
		case slice != "there" && r.OK:
			t.Errorf("%s reads a secret of another slice: %+v", slice, r)
		}
	}
	// Nobody noticed.
	ticks(ctx, t, c, victim, ticks(ctx, t, c, victim, 0)+2)
}

// uplinkGateway is the host's end of the machines' network.
const uplinkGateway = "10.77.0.1"

// A fork bomb, a memory hog and a full /tmp are reported as what they are, and neither the
// slice beside them nor their node is harmed.
//
// The control is the victim: at every tick it starts a process, allocates and writes to
// /tmp, in measure, under the same limits.
func TestExcessIsReportedAndHarmsNobody(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c, 2*time.Minute)
	p := buildProbe(ctx, t, c)
	victim, _ := p.victim(ctx, t, c)
	defer p.stop(ctx, t, c, victim)
	herdOf(ctx, t, c, "attackers")
	before := nodes(ctx, t, c)
	cases := []struct{ do, reported string }{
		{"forkbomb", "slice there: too many processes"},
		{"memhog", "slice there: out of memory"},
		{"filltmp", "write /tmp/fill: no space left on device"},
	}
	runs := make([]string, len(cases))
	for i, x := range cases {
		runs[i] = p.run(ctx, t, c, "attackers", order{"there", x.do}) // all at once, on the victim's node
	}
	for i, x := range cases {
		r := until(ctx, t, c, runs[i], x.do, func(r *runState) bool { return r.State == "failed" })
		if !strings.Contains(r.Reason, x.reported) {
			t.Errorf("%s: the run failed for %q; expected is %q", x.do, r.Reason, x.reported)
		}
	}
	ticks(ctx, t, c, victim, ticks(ctx, t, c, victim, 0)+2)
	if r, err := ps(ctx, c, victim); err != nil || r.State != "running" || r.Regions[0].Epoch != "1" {
		t.Errorf("the victim: %+v, %v", r, err)
	}
	for i, n := range nodes(ctx, t, c) {
		if b := before[i]; n.Name != b.Name || n.State != "ready" || n.BootID != b.BootID || n.LastChange != b.LastChange {
			t.Errorf("node was %+v and is %+v", b, n)
		}
	}
}
