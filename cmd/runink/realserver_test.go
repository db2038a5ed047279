package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/nodecfg"
)

// The tests in badinput_test.go run the program itself, as processes: this test binary is
// the program when asBinary is set, and then everything from main on is what ships.
const (
	asBinary = "RUNINK_TEST_AS_BINARY"
	onTmpfs  = "RUNINK_TEST_TMPFS" // DIR=SIZE to mount before main, in a mount namespace of its own
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(onANode); dir != "" {
		serveOnANode(dir)
		return
	}
	if os.Getenv(asBinary) == "" {
		os.Exit(m.Run())
	}
	if dir, size, ok := strings.Cut(os.Getenv(onTmpfs), "="); ok {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
			fmt.Fprintln(os.Stderr, "mount tmpfs:", err)
			os.Exit(1)
		}
	}
	main()
	os.Exit(0)
}

// realCluster is a control node that runs as a process, and an operator of it.
type realCluster struct {
	t      *testing.T
	pid    int
	addr   string
	state  string // folder of the node's state, as the server sees it
	home   string // of the operator: configuration
	work   string // where commands are typed; they see it as .
	tmp    string // $TMPDIR of commands
	stderr *bytes.Buffer
}

// files is where the node's state is seen from outside its mount namespace.
func (c *realCluster) files(name string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", c.pid), c.state, name)
}

// startRealCluster founds a cluster of one control node with its state on a disk of its
// own, of that size.
func startRealCluster(t *testing.T, diskSize string) *realCluster {
	t.Helper()
	dir := t.TempDir()
	c := &realCluster{
		t: t, state: filepath.Join(dir, "state"), home: filepath.Join(dir, "home"), work: filepath.Join(dir, "work"),
		tmp: filepath.Join(dir, "tmp"), stderr: &bytes.Buffer{},
	}
	status := filepath.Join(dir, "status")
	for _, d := range []string{c.state, c.home, c.work, c.tmp, status} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.addr = ln.Addr().String()
	ln.Close()
	c.ok("cluster", "init", "test", "--reach", "n1="+c.addr)
	t.Setenv(envConfig, filepath.Join(c.home, "config.json"))
	cfg, err := loadClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	cc := cfg.Contexts["test"]

	server := exec.Command("/proc/self/exe", "server", "--cluster", "test", "--node", "n1", "--role", "control+worker",
		"--ca", cc.CA, "--operator", cc.Operator, "--state-dir", c.state, "--status-dir", status, "--net", filepath.Join(dir, "none"),
		"--advertise", "127.0.0.1", "--listen", c.addr, "--raft-listen", "127.0.0.1:0")
	server.Env = append(os.Environ(), asBinary+"=1", onTmpfs+"="+c.state+"="+diskSize)
	server.Stdout, server.Stderr = c.stderr, c.stderr
	server.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, // whose mounts end with it, root or not
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	c.pid = server.Process.Pid
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	t.Cleanup(func() {
		if err := server.Process.Signal(os.Interrupt); err != nil {
			t.Errorf("the server has ended: %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the server wrote:\n%s", c.stderr)
		}
	})
	for {
		st, err := nodecfg.ReadStatus(status, "server")
		if err == nil && st.Detail[nodecfg.DetailFingerprint] != "" {
			c.ok("cluster", "bootstrap", "--node", "n1", "--address", c.addr, "--fingerprint", st.Detail[nodecfg.DetailFingerprint])
			return c
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the server ended: %v\n%s", err, c.stderr)
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(20 * time.Millisecond): // a poll, not an assertion
		}
	}
}

// command is the program as a user would start it.
func (c *realCluster) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(c.t.Context(), "/proc/self/exe", args...)
	cmd.Dir = c.work
	cmd.Env = append(os.Environ(), asBinary+"=1", envConfig+"="+filepath.Join(c.home, "config.json"), "TMPDIR="+c.tmp)
	return cmd
}

// typed runs the program as a user does, and returns what it printed and its exit status.
func (c *realCluster) typed(args ...string) (out, stderr string, status int) {
	c.t.Helper()
	cmd := c.command(args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

func (c *realCluster) ok(args ...string) string {
	c.t.Helper()
	out, stderr, status := c.typed(args...)
	if status != 0 {
		c.t.Fatalf("runink %s: exit status %d\n%s", strings.Join(args, " "), status, stderr)
	}
	return out
}

// everything is all that a command could have changed: every table of the control plane
// (its backup holds them with their revisions), the runs as users see them, the blobs and
// what uploads left, and the user's own files.
func (c *realCluster) everything() map[string]string {
	c.t.Helper()
	all := map[string]string{}
	all["runink ps --all"] = c.ok("ps", "--all", "-o", "json")
	backup := filepath.Join(c.home, "backup")
	c.ok("cluster", "snapshot", backup)
	data, err := os.ReadFile(backup)
	if err != nil {
		c.t.Fatal(err)
	}
	c.tables(all, data)
	c.walk(all, "blobs", c.files("blobs"))
	c.walk(all, "work", c.work)
	c.walk(all, "tmp", c.tmp)
	return all
}

// tables adds every value of a backup, which barn/snapshot.go describes. That a command was
// refused may be on record, and its answer kept for its request id; an audit record of
// anything else is a change.
func (c *realCluster) tables(all map[string]string, data []byte) {
	c.t.Helper()
	const header = len("RKBARN\x00\x01") + 8
	r := bytes.NewReader(data[header:])
	field := func() []byte {
		n, err := binary.ReadUvarint(r)
		if err != nil || n > uint64(r.Len()) {
			c.t.Fatalf("a backup with a field of %d bytes: %v", n, err)
		}
		b := make([]byte, n)
		_, _ = r.Read(b) // there are as many
		return b
	}
	for key := field(); len(key) > 0; key = field() {
		value := field()
		switch {
		case key[0] == 0: // answers by request id
			continue
		case bytes.HasPrefix(key, []byte("/audit/")):
			if !bytes.Contains(value, []byte(`"outcome":"ok"`)) {
				continue
			}
		}
		all["table "+string(key)] = string(value)
	}
}

// walk adds the files below dir with their contents.
func (c *realCluster) walk(all map[string]string, name, dir string) {
	c.t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := name + strings.TrimPrefix(path, dir)
		if e.IsDir() {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		all[at] = fmt.Sprintf("%s, %x", info.Mode(), sha256.Sum256(data))
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// unchanged reports what is not as it was before, and returns how everything is now.
func (c *realCluster) unchanged(before map[string]string) map[string]string {
	c.t.Helper()
	now := c.everything()
	for _, d := range differences(before, now) {
		c.t.Errorf("changed: %s", d)
	}
	return now
}

// client is a connection as the operator.
func (c *realCluster) client() *apiclient.Client {
	c.t.Helper()
	cfg, err := loadClientConfig()
	if err != nil {
		c.t.Fatal(err)
	}
	api, err := cfg.dial(newRootCmd(), "test", cfg.Contexts["test"])
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { api.Close() })
	return api
}

// differences names what is not the same.
func differences(before, after map[string]string) []string {
	var out []string
	both := maps.Clone(before)
	maps.Copy(both, after)
	for _, k := range slices.Sorted(maps.Keys(both)) {
		b, hadBefore := before[k]
		a, hasAfter := after[k]
		switch {
		case !hadBefore:
			out = append(out, k+" is new")
		case !hasAfter:
			out = append(out, k+" is gone")
		case a != b:
			out = append(out, fmt.Sprintf("%s was\n%s\nis\n%s", k, b, a))
		}
	}
	return out
}
