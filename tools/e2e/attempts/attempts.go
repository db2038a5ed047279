// Package attempts holds ways out of a slice: what a hostile step would try against its
// node, the cluster and other herds.
//
// It promises that one piece of code makes an attempt everywhere: the whole-cluster tests
// copy this package beside a pipeline whose steps call Try inside slices of the booted
// image, where every Case must fail; its own test calls Try as root in a virtual machine
// with the same kernel and no slice around it, where every Case must succeed. A way that
// is closed only because the attempt is wrong would fail there.
//
// It imports nothing but the standard library, since it becomes part of a user's module,
// and only tests may run it: some attempts leave things behind where they succeed.
package attempts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"
)

// Case is an attempt that must fail in every slice.
type Case struct {
	Try   string // as Try takes it
	Guard string // what stops it in a slice
}

// Cases are the attempts whose control is a process of root outside of any slice. Those
// that need a cluster around them (other nodes, other herds) are with its test.
func Cases() []Case {
	const (
		root    = "the slice's own root holds nothing of the node"
		proc    = "/proc is mounted with subset=pid"
		pids    = "pid namespace"
		net     = "network namespace"
		ro      = "read-only root"
		caps    = "no capabilities, and the system call filter"
		calls   = "the system call filter"
		noexec  = "/tmp is mounted noexec"
		ids     = "a uid of the slice's own"
		devices = "five harmless devices"
	)
	return []Case{
		{"read=/proc/cmdline", proc},
		{"read=/proc/kcore", proc},
		{"read=/proc/keys", proc},
		{"read=/proc/kallsyms", proc},
		{"read=/proc/meminfo", proc},
		{"read=/proc/net/tcp", proc + "; /proc/net of the slice shows its own network only"},
		{"write=/proc/sys/kernel/core_pattern", proc},
		{"write=/proc/sysrq-trigger", proc},
		{"open=/proc/kmsg", proc},
		{"list=/sys", root},
		{"list=/sys/fs/cgroup", root},
		{"open=/dev/kmsg", devices},
		{"open=/dev/mem", devices},
		{"open=/dev/vda", devices},
		{"list=/run/runink", root},
		{"read=/run/runink/config.json", root},
		{"read=/run/runink/net.json", root},
		{"list=/var/lib/runink", root},
		{"list=/var/lib/runink/agent", root + ", staging files of other slices included"},
		{"list=/var/lib/runink/blobs", root},
		{"read=/var/lib/runink/kek", root},
		{"read=/var/lib/runink/node/key.pem", root},
		{"unix=/run/runink/keeper.sock", root},
		{"abstract=runink-control", net},
		{"connect=127.0.0.1:7460", net},
		{"connect=127.0.0.1:7461", net},
		{"connect=127.0.0.1:7463", net},
		{"connect=[::1]:7460", net},
		{"processes", pids},
		{"kill", pids},
		{"write=/escaped", ro},
		{"write=/bundle/escaped", ro},
		{"write=/dev/escaped", ro},
		{"mkdir=/escaped.d", ro},
		{"exec=/tmp/escaped", noexec},
		{"reopen", ids + ": an input is the node's file, and shared by all slices that read it"},
		{"folder", "only files, sockets and pipes are inherited"},
		{"setuid-root", caps},
		{"setuid-other", caps},
		{"capabilities", caps},
		{"mount", calls},
		{"remount", calls},
		{"unshare", calls},
		{"clone-user", calls},
		{"clone-mount", calls},
		{"setns", calls},
		{"chroot", calls},
		{"pivot_root", calls},
		{"mknod", caps},
		{"sethostname", calls},
		{"settime", calls},
		{"ptrace", calls},
		{"process_vm_readv", calls},
		{"bpf", calls},
		{"perf", calls},
		{"userfaultfd", calls},
		{"io_uring", calls},
		{"kexec", calls},
		{"delete_module", calls},
		{"reboot", calls},
		{"syslog", calls},
		{"keyctl", calls},
		{"open_by_handle", calls},
		{"swapon", calls},
		{"raw-socket", caps},
		{"packet-socket", calls},
		{"netlink-socket", calls},
	}
}

// Try makes an attempt "NAME" or "NAME=ARGUMENT" and returns what it got. Success is the
// way out being open, an error that it is closed. Some of them take up to Patience.
func Try(s string) (string, error) {
	name, arg, _ := strings.Cut(s, "=")
	f := find(name)
	if f == nil {
		return "", fmt.Errorf("no attempt is called %q", name)
	}
	return f(arg)
}

// Patience is how long an attempt to connect waits. Where all is well a machine under
// emulation answers in a few milliseconds.
const Patience = 4 * time.Second

func find(name string) func(string) (string, error) {
	switch name {
	case "read":
		return read
	case "open":
		return open
	case "write":
		return func(p string) (string, error) { return "", write(p) }
	case "mkdir":
		return func(p string) (string, error) { return "", os.Mkdir(p, 0o755) }
	case "list":
		return list
	case "grep":
		return grep
	case "exec":
		return execute
	case "reopen":
		return reopen
	case "folder":
		return folder
	case "processes":
		return processes
	case "kill":
		return kill
	case "connect":
		return connect
	case "reach":
		return reach
	case "udp":
		return udp
	case "unix":
		return func(p string) (string, error) { return "", dialUnix(p) }
	case "abstract":
		return func(n string) (string, error) { return "", dialUnix("@" + n) }
	case "capabilities":
		return capabilities
	}
	return findCall(name)
}

func read(p string) (string, error) {
	f, err := os.Open(p)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, 120)
	n, err := f.Read(b)
	if err == io.EOF {
		err = nil // an empty file was read all the same
	}
	return string(b[:n]), err
}

func open(p string) (string, error) {
	f, err := os.Open(p)
	if err == nil {
		err = f.Close()
	}
	return "", err
}

// write writes one harmless byte.
func write(p string) error {
	flags := os.O_WRONLY | os.O_CREATE
	if strings.HasPrefix(p, "/proc/") {
		flags = os.O_WRONLY
	}
	f, err := os.OpenFile(p, flags, 0o600)
	if err != nil {
		return err
	}
	if p == "/proc/sysrq-trigger" || strings.HasPrefix(p, "/proc/sys/") {
		return f.Close() // being able to open it is enough
	}
	_, err = f.WriteString("x")
	return errors.Join(err, f.Close())
}

func list(p string) (string, error) {
	es, err := os.ReadDir(p)
	var names []string
	for _, e := range es {
		names = append(names, e.Name())
	}
	return strings.Join(names, " "), err
}

// grep looks below "FOLDER:WORD" for a readable file with the word, which is given
// backwards: the attempt itself must not be what it finds.
func grep(arg string) (string, error) {
	dir, back, _ := strings.Cut(arg, ":")
	word := []byte(back)
	for i, j := 0, len(word)-1; i < j; i, j = i+1, j-1 {
		word[i], word[j] = word[j], word[i]
	}
	found, seen := "", 0
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // what cannot be read is not found there
		}
		if strings.HasPrefix(p, "/proc/") && strings.Contains(p, "/task/") {
			return nil // the same files once more
		}
		f, err := os.Open(p)
		if err != nil {
			return nil
		}
		defer f.Close()
		b, _ := io.ReadAll(io.LimitReader(f, 1<<20)) // as much as can be read
		seen++
		if bytes.Contains(b, word) {
			found = p
			return filepath.SkipAll
		}
		return nil
	})
	if err == nil && found == "" {
		err = fmt.Errorf("in none of %d files", seen)
	}
	return found, err
}

// execute copies this program and runs the copy.
func execute(p string) (string, error) {
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(p, b, 0o700); err != nil {
		return "", err
	}
	defer os.Remove(p)
	proc, err := os.StartProcess(p, []string{p}, &os.ProcAttr{Env: []string{ChildEnv + "=exit"}})
	if err != nil {
		return "", err
	}
	_, err = proc.Wait()
	return "", err
}

// ChildEnv makes a program that calls Child first thing exit at once.
const ChildEnv = "RUNINK_ATTEMPTS_CHILD"

// Child ends a process that was started by an attempt or by Tick.
func Child() {
	if os.Getenv(ChildEnv) != "" {
		os.Exit(0)
	}
}

// reopen opens for writing an inherited regular file that was given for reading. Outside of
// a slice it is one of its own making.
func reopen(string) (string, error) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return "", err
	}
	files := 0
	for _, e := range fds {
		p := "/proc/self/fd/" + e.Name()
		st, err := os.Stat(p)
		if err != nil || !st.Mode().IsRegular() {
			continue
		}
		to, err := os.Readlink(p)
		if err != nil || strings.HasPrefix(to, "/proc/") {
			continue
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + e.Name())
		if err != nil || !readOnly(string(info)) {
			continue
		}
		files++
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err == nil {
			return to, f.Close()
		}
	}
	return "", fmt.Errorf("none of %d", files)
}

// readOnly reads the access mode out of /proc/self/fdinfo/N (proc(5)): octal flags whose
// last two bits are 0.
func readOnly(info string) bool {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, "flags:"); ok {
			v = strings.TrimSpace(v)
			return v != "" && (v[len(v)-1]-'0')&3 == 0
		}
	}
	return false
}

// folder looks for an inherited folder, from which ".." leads out.
func folder(string) (string, error) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return "", err
	}
	for _, e := range fds {
		p := "/proc/self/fd/" + e.Name()
		to, err := os.Readlink(p)
		if err != nil || strings.HasPrefix(to, "/proc/") {
			continue
		}
		if st, err := os.Stat(p); err == nil && st.IsDir() {
			return to, nil
		}
	}
	return "", errors.New("none")
}

// processes looks for one that is neither this process nor its child.
func processes(string) (string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return "", err
	}
	self := fmt.Sprint(os.Getpid())
	var others []string
	for _, d := range dirs {
		pid := filepath.Base(d)
		stat, err := os.ReadFile(filepath.Join(d, "stat"))
		if err != nil || pid == self {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ") // state, then the parent
		if f := strings.Fields(rest); len(f) > 1 && f[1] == self {
			continue
		}
		others = append(others, pid)
	}
	if len(others) == 0 {
		return "", errors.New("none but this one")
	}
	sort.Strings(others)
	return strings.Join(others, " "), nil
}

// kill looks for a process or thread of others that takes signals, by asking with signal 0.
func kill(string) (string, error) {
	mine := map[string]bool{}
	for _, d := range []string{"/proc/self/task", "/proc/thread-self/children"} {
		es, err := os.ReadDir(d)
		for _, e := range es {
			mine[e.Name()] = true
		}
		if err != nil && len(mine) == 0 {
			return "", err
		}
	}
	for pid := 1; pid < 1<<15; pid++ {
		if mine[fmt.Sprint(pid)] || syscall.Kill(pid, 0) != nil {
			continue
		}
		// A thread that began meanwhile is this process's own.
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", pid)); err == nil {
			continue
		}
		return fmt.Sprint(pid), nil
	}
	return "", errors.New("none takes a signal")
}

func connect(addr string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, Patience)
	if err != nil {
		return "", err
	}
	return "", c.Close()
}

// reach is connect, but a refusal counts as well: somebody there has answered.
func reach(addr string) (string, error) {
	_, err := connect(addr)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) {
		return err.Error(), nil
	}
	return "", err
}

// UDPMark is in every datagram that udp sends, so that a recording of the wire shows it.
const UDPMark = "runink-attempt-over-udp"

// udp sends a datagram and waits for an answer, or for word that nobody listens.
func udp(addr string) (string, error) {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(Patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, UDPMark); err != nil {
		return "", err
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return err.Error(), nil
	}
	return string(b[:n]), err
}

// dialUnix takes either kind of socket: that the kind is wrong says that it is there.
func dialUnix(name string) error {
	c, err := net.DialTimeout("unix", name, Patience)
	if errors.Is(err, syscall.EPROTOTYPE) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.Close()
}

// capabilities fails when the process has none and can get none.
func capabilities(string) (string, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "", err
	}
	var all []string
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		if strings.HasPrefix(k, "Cap") && strings.Trim(strings.TrimSpace(v), "0") != "" {
			all = append(all, k+" "+strings.TrimSpace(v))
		}
	}
	if len(all) == 0 {
		return "", errors.New("none")
	}
	return strings.Join(all, ", "), nil
}
