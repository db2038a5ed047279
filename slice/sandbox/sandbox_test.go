package sandbox

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/slice/internal/probe"
)

func TestMain(m *testing.M) {
	probe.Hook()
	os.Exit(m.Run())
}

const testID = 3_000_000 // far from a keeper's pool

// guest is one run of the probe.
type guest struct {
	out, err string
	status   unix.WaitStatus
}

// box is a folder with a bundle and a launcher.
type box struct {
	t      *testing.T
	l      *Launcher
	bundle string
}

func newBox(t *testing.T) *box {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root")
	}
	// A folder nobody else may enter: the bundle must be reachable all the same.
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(dir, "bundle")
	if err := os.Mkdir(bundle, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := probe.Bundle(bundle); err != nil {
		t.Fatal(err)
	}
	l, err := NewLauncher()
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, l: l, bundle: bundle}
	t.Cleanup(b.l.Close)
	return b
}

func (b *box) spec(args ...string) *Spec {
	return &Spec{
		Hostname: "guest", ID: testID, Bundle: b.bundle,
		Args: append([]string{BundleDir + "/" + probe.Name}, args...),
		Env:  []string{"HERD=a"}, TmpBytes: 1 << 20, Pids: 64, CgroupFD: -1,
	}
}

// run starts the spec, waits for its end and returns what it printed.
func (b *box) run(s *Spec) guest {
	b.t.Helper()
	outR, outW, errR, errW := pipes(b.t)
	s.Stdout, s.Stderr = outW, errW
	p, err := b.l.Start(s)
	outW.Close()
	errW.Close()
	if err != nil {
		b.t.Fatal(err)
	}
	defer unix.Close(p.PidFD)
	if err := p.Release(30 * time.Second); err != nil {
		_ = unix.Kill(p.PID, unix.SIGKILL)
		_, _ = unix.Wait4(p.PID, nil, 0, nil)
		b.t.Fatal(err)
	}
	g := guest{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		x, _ := io.ReadAll(errR)
		g.err = string(x)
	}()
	x, _ := io.ReadAll(outR)
	<-done
	g.out = string(x)
	if _, err := unix.Wait4(p.PID, &g.status, 0, nil); err != nil {
		b.t.Fatal(err)
	}
	return g
}

// try runs attempts inside and returns their results.
func (b *box) try(change func(*Spec), attempts ...string) map[string]probe.Result {
	b.t.Helper()
	s := b.spec(append([]string{"try"}, attempts...)...)
	if change != nil {
		change(s)
	}
	g := b.run(s)
	var res map[string]probe.Result
	if err := json.Unmarshal([]byte(g.out), &res); err != nil {
		b.t.Fatalf("%v; stdout %q, stderr %q, status %v", err, g.out, g.err, g.status)
	}
	return res
}

func pipes(t *testing.T) (outR, outW, errR, errW *os.File) {
	t.Helper()
	var err error
	if outR, outW, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	if errR, errW, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outR.Close(); errR.Close() })
	return outR, outW, errR, errW
}

func TestExitStatusAndStreams(t *testing.T) {
	b := newBox(t)
	g := b.run(b.spec("lines", "2", "x", "7"))
	if g.out != "x 0\nx 1\n" || g.status.ExitStatus() != 7 {
		t.Fatalf("stdout %q, status %v", g.out, g.status)
	}
	if g := b.run(b.spec("crash")); !g.status.Signaled() || g.status.Signal() != unix.SIGSEGV {
		t.Fatalf("crash: status %v, stderr %s", g.status, g.err)
	}
}

// Every attempt fails inside, and succeeds where its guard is off.
func TestGuards(t *testing.T) {
	b := newBox(t)
	dir, err := os.MkdirTemp("", "open") // unlike t.TempDir's, made to be entered by others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("s3cret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		attempt string
		// control takes guards away; the attempt is then control ("" means the same one).
		leave   []string
		control string
	}{
		{"node's files", "read=" + secret, []string{"root", "identity"}, "read=/host" + secret},
		{"node's key folder", "list=/var", []string{"root"}, "list=/host/var"},
		{"node's devices", "list=/sys", []string{"root"}, "list=/host/sys"},
		{"kernel command line", "read=/proc/cmdline", []string{"proc"}, ""},
		{"kernel's keys", "read=/proc/keys", []string{"proc"}, ""},
		{"system controls", "list=/proc/sys", []string{"proc"}, ""},
		{"memory of the machine", "read=/proc/meminfo", []string{"proc"}, ""},
		{"write to the root", "write=/x", []string{"root", "identity"}, ""},
		{"write to /dev", "write=/dev/x", []string{"root", "identity"}, ""},
		{"mount", "mount", []string{"identity", "seccomp"}, ""},
		{"new user namespace", "unshare", []string{"seccomp"}, ""},
		{"new user namespace by clone", "newuser", []string{"seccomp"}, ""},
		{"chroot", "chroot", []string{"identity", "seccomp"}, ""},
		{"host name", "hostname", []string{"identity", "seccomp"}, ""},
		{"keys", "keyctl", []string{"seccomp"}, ""},
		{"userfaultfd", "userfault", []string{"seccomp"}, ""},
		{"vsock", "vsock", []string{"seccomp"}, ""},
		{"netlink", "netlink", []string{"seccomp"}, ""},
		{"raw socket", "raw", []string{"identity"}, ""},
		{"packet socket", "packet", []string{"identity", "seccomp"}, ""},
		{"become root", "setuid=0", []string{"identity"}, ""},
		{"capabilities", "caps", []string{"identity"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := &box{t: t, l: b.l, bundle: b.bundle}
			if r := b.try(nil, tc.attempt)[tc.attempt]; r.OK {
				t.Errorf("%s succeeded inside: %q", tc.attempt, r.Text)
			}
			control := tc.control
			if control == "" {
				control = tc.attempt
			}
			r := b.try(func(s *Spec) { s.Leave = tc.leave }, control)[control]
			if !r.OK {
				t.Errorf("control: %s without %v fails too: %s", control, tc.leave, r.Text)
			}
		})
	}
}

// What needs privileges a user namespace never gives: outside, root can; inside not.
func TestNeverGiven(t *testing.T) {
	b := newBox(t)
	control := []string{"bpf", "dmesg", "reboot"} // calls of no effect, the same on every kernel
	out, err := exec.Command(filepath.Join(b.bundle, probe.Name), append([]string{"try"}, control...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var outside map[string]probe.Result
	if err := json.Unmarshal(out, &outside); err != nil {
		t.Fatal(err)
	}
	for name, r := range outside {
		if !r.OK {
			t.Errorf("control: %s outside: %s", name, r.Text)
		}
	}
	calls := append(control, "module", "kexec", "clock", "mknod", "perf", "uring", "ptrace")
	for name, r := range b.try(nil, calls...) {
		if r.OK || !strings.Contains(r.Text, "not permitted") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestWhatASliceSees(t *testing.T) {
	b := newBox(t)
	extra, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	res := b.try(func(s *Spec) {
		s.Secrets = map[string][]byte{"token": []byte("t0k")}
		s.Files = []*os.File{extra}
	}, "uid", "list=/", "list=/dev", "list=/secrets", "read=/secrets/token", "write=/secrets/x", "write=/tmp/x",
		"write=/bundle/x", "processes", "status=NoNewPrivs", "status=Seccomp", "read=/proc/self/environ",
		"read=/proc/self/cgroup", "read=/proc/self/mountinfo", "fds", "status=Groups", "exec=/bundle/probe", "list=/proc/1/task", "status=SigBlk", "loopback")
	for name, want := range map[string]string{
		"uid": "1", "list=/": "bundle dev proc secrets tmp", "list=/dev": "fd full null random urandom zero",
		"list=/secrets": "token", "read=/secrets/token": "t0k", "status=NoNewPrivs": "1", "status=Seccomp": "2",
		"read=/proc/self/environ": "HERD=a\x00", "status=Groups": "", "status=SigBlk": "0000000000000000", "loopback": "",
	} {
		if r := res[name]; !r.OK || r.Text != want {
			t.Errorf("%s: %+v, want %q", name, r, want)
		}
	}
	for name, ok := range map[string]bool{
		"write=/secrets/x": false, "write=/tmp/x": true, "write=/bundle/x": false, "exec=/bundle/probe": true,
	} {
		if r := res[name]; r.OK != ok {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if p := res["processes"].Text; strings.Count(p, "\n") != 0 || !strings.HasPrefix(p, "/bundle/probe try") {
		t.Errorf("processes in sight: %q", p)
	}
	var mounts []string
	for line := range strings.Lines(res["read=/proc/self/mountinfo"].Text) {
		mounts = append(mounts, strings.Fields(line)[4])
	}
	slices.Sort(mounts)
	if got := strings.Join(mounts, " "); got != "/ /bundle /dev/full /dev/null /dev/random /dev/urandom /dev/zero /proc /secrets /tmp" {
		t.Errorf("mounts: %s", got)
	}
	for _, fd := range strings.Fields(res["fds"].Text) {
		n, kind, _ := strings.Cut(fd, "=")
		switch n {
		case "0", "3":
			if kind != "/dev/null" {
				t.Errorf("descriptor %s", fd)
			}
		case "1", "2":
			if kind != "pipe" {
				t.Errorf("descriptor %s", fd)
			}
		default:
			if kind != "anon_inode" && kind != "/proc/1/fd" && !strings.HasPrefix(kind, "/proc/") { // the runtime's own
				t.Errorf("descriptor %s was inherited", fd)
			}
		}
	}
}

func TestFullTmp(t *testing.T) {
	b := newBox(t)
	if g := b.run(b.spec("filltmp")); g.status.ExitStatus() != int(unix.ENOSPC) {
		t.Fatalf("status %v, stdout %q", g.status, g.out)
	}
}

func TestFileSizeLimit(t *testing.T) {
	b := newBox(t)
	for size, want := range map[string]bool{"4096": true, "8193": false} {
		f, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		s := b.spec("bigfile", size)
		s.FileBytes, s.Files = 8192, []*os.File{null, f}
		g := b.run(s)
		if ok := g.status.ExitStatus() == 0; ok != want {
			t.Errorf("%s bytes: status %v, stdout %q", size, g.status, g.out)
		}
		if st, err := f.Stat(); err != nil || st.Size() > 8192 {
			t.Errorf("file has %d bytes, %v", st.Size(), err)
		}
	}
}

// A failed step is named, and nothing was executed.
func TestSetupFailureIsNamed(t *testing.T) {
	b := newBox(t)
	s := b.spec()
	s.Args = []string{BundleDir + "/none"}
	outR, outW, _, errW := pipes(t)
	s.Stdout, s.Stderr = outW, errW
	p, err := b.l.Start(s)
	outW.Close()
	errW.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p.PidFD)
	err = p.Release(30 * time.Second)
	if err == nil || !strings.Contains(err.Error(), "execute /bundle/none: no such file") {
		t.Errorf("got %v", err)
	}
	if _, err := unix.Wait4(p.PID, nil, 0, nil); err != nil {
		t.Error(err)
	}
	if out, _ := io.ReadAll(outR); len(out) > 0 {
		t.Errorf("printed %q", out)
	}
}
