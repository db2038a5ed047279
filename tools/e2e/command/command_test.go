//go:build cluster

package command

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runink/runink/tools/operator"
)

// root is the repository.
var root = filepath.Join("..", "..", "..")

// demonstration is one `make qemu-cluster`, of one node, in a folder of its own.
type demonstration struct {
	t   *testing.T
	dir string // the cluster's
	tmp string // $TMPDIR
}

func newDemonstration(t *testing.T) *demonstration {
	t.Helper()
	d := &demonstration{t: t, dir: filepath.Join(t.TempDir(), "cluster"), tmp: t.TempDir()}
	t.Cleanup(func() { d.command("down").Run() }) // of a test that failed; else nothing is there
	return d
}

func (d *demonstration) command(verb string, args ...string) *exec.Cmd {
	d.t.Helper()
	bin, err := filepath.Abs(filepath.Join(root, "bin", "qemu-cluster"))
	if err != nil {
		d.t.Fatal(err)
	}
	cmd := exec.Command(bin, append([]string{verb, "-dir", d.dir}, args...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "TMPDIR="+d.tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a shell starts a job
	return cmd
}

// mine lists the processes that have the cluster's folder in their command line, and the
// folders of their sockets.
func (d *demonstration) mine() (procs, sockets []string) {
	d.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, p := range all {
		b, err := os.ReadFile(p)
		if err != nil || !bytes.Contains(b, []byte(d.dir)) {
			continue // it has ended, or is another's
		}
		line := string(bytes.ReplaceAll(b, []byte{0}, []byte{' '}))
		procs = append(procs, strings.TrimSuffix(strings.TrimPrefix(p, "/proc/"), "/cmdline")+": "+line)
		sockets = append(sockets, regexp.MustCompile(`/tmp/rq-[0-9]+`).FindAllString(line, -1)...)
	}
	return procs, sockets
}

// nothingLeft checks that no process, file or socket of the cluster is there.
func (d *demonstration) nothingLeft(sockets []string) {
	d.t.Helper()
	if procs, _ := d.mine(); len(procs) > 0 {
		d.t.Errorf("these are left:\n%s", strings.Join(procs, "\n"))
	}
	for _, f := range append(sockets, d.dir) {
		if _, err := os.Lstat(f); !errors.Is(err, fs.ErrNotExist) {
			d.t.Errorf("%s is left (%v)", f, err)
		}
	}
	entries, err := os.ReadDir(d.tmp)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, e := range entries {
		d.t.Errorf("%s is left in the temporary folder", e.Name())
	}
	open, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, s := range append(sockets, d.dir) {
		if bytes.Contains(open, []byte(s)) {
			d.t.Errorf("a socket in %s is open", s)
		}
	}
}

// TestCtrlCLeavesNothingBehind interrupts `make qemu-cluster` at several moments.
func TestCtrlCLeavesNothingBehind(t *testing.T) {
	const (
		flights = "examples/flights/flights.dsl"
		alone   = "tools/e2e/testdata/exits/exits.dsl" // runs on one node
	)
	for _, tc := range []struct{ name, example, line string }{ // interrupted after it has printed that
		{"at once", flights, ""},
		{"while a machine boots", flights, "n1: powering on"},
		{"while the cluster is founded", flights, "n1: waits for its operator"},
		{"while the pipeline is built", flights, "running " + flights},
		{"while a slice runs", alone, ": running on n1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDemonstration(t)
			cmd := d.command("up", "-nodes", "1", "-example", tc.example)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			defer context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) })()
			var sockets []string
			interrupt := func() {
				// A process that has not yet begun to listen for signals dies by this one;
				// it has a child, at the earliest, once it listens. A machine is the third.
				n := 3
				if tc.line == "" {
					n = 2
				}
				d.awaitProcesses(ctx, n)
				_, sockets = d.mine()
				if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
					t.Error(err)
				}
			}
			if tc.line == "" {
				interrupt()
			}
			seen := tc.line == ""
			sc := bufio.NewScanner(out)
			for sc.Scan() {
				t.Log(sc.Text())
				if !seen && strings.Contains(sc.Text(), tc.line) {
					seen = true
					interrupt()
				}
			}
			err = cmd.Wait()
			if !seen {
				t.Fatalf("it never printed %q: %v\n%s", tc.line, err, &stderr)
			}
			if cmd.ProcessState.ExitCode() != 130 || !strings.Contains(stderr.String(), "interrupted") {
				t.Errorf("it ended with %v, and said %q", err, &stderr)
			}
			d.nothingLeft(sockets)
		})
	}
}

// awaitProcesses returns once the cluster has n processes.
func (d *demonstration) awaitProcesses(ctx context.Context, n int) {
	d.t.Helper()
	for {
		if procs, _ := d.mine(); len(procs) >= n {
			return
		}
		select {
		case <-ctx.Done():
			d.t.Fatal(ctx.Err())
		case <-time.After(time.Millisecond): // a poll, not an assertion
		}
	}
}

// TestUpAndDown brings a cluster up as `make qemu-cluster` does, with a worker beside the
// control nodes, reads what that printed, and ends it, twice.
func TestUpAndDown(t *testing.T) {
	d := newDemonstration(t)
	b, err := d.command("up", "-nodes", "4").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	at := 0
	for _, want := range []string{
		"n1: cluster founded", "n4: ready", // in the order in which a reader wants them
		"running examples/flights/flights.dsl", ": running on n", ": succeeded",
		"Where each slice ran", "join-airport", "success",
		"The first rows of the result", `"origin":"JFK"`,
		"Rejected rows, by reason", "airports  contract  1336", "flights   contract  3",
		"Lineage", "late.jsonl  18 rows", "JoinAirport (step)  19997 rows", "airports.csv  2040 rows",
		"Go on with:", "bin/runink node list", "make qemu-down",
	} {
		i := bytes.Index(b[at:], []byte(want))
		if i < 0 {
			t.Fatalf("%q is not printed, or not after what comes before it:\n%s", want, b)
		}
		at += i + len(want)
	}
	cli := operator.CLI{Bin: filepath.Join(root, "bin", "runink"), Config: filepath.Join(d.dir, "operator", "config.json")}
	var list struct {
		Nodes []struct{ Name, Role, State string }
	}
	if err := cli.JSON(t.Context(), &list, "node", "list"); err != nil {
		t.Fatal(err)
	}
	if len(list.Nodes) != 4 || list.Nodes[3].Role != "worker" || list.Nodes[3].State != "ready" {
		t.Errorf("nodes are %+v; a fourth, which only works, is expected", list.Nodes)
	}
	procs, sockets := d.mine()
	if len(procs) < 5 {
		t.Errorf("the cluster is up, and these are its processes: %q", procs)
	}
	if b, err := d.command("up", "-nodes", "1").CombinedOutput(); err == nil || !strings.Contains(string(b), "make qemu-down") {
		t.Errorf("up of a cluster that is up: %v\n%s", err, b)
	}
	for _, want := range []string{"the cluster is down", "no cluster is up"} {
		if b, err := d.command("down").CombinedOutput(); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("down: %v\n%s", err, b)
		}
		d.nothingLeft(sockets)
	}
}
