package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/runink/runink/netpol"
)

// world is what of a running program could be left behind: its processes, namespaces, the
// cgroup, the host's links, tables and mounts.
type world struct {
	root    int
	self    map[string]string // namespaces of this process, by kind
	seen    map[int]proc      // the program's descendants, by pid
	spaces  map[string]string // namespaces they were in, of their own: "net:[123]" → who
	cgroups []string          // folders
	address string            // of the API on this host

	tables []string // nftables of the host, while it ran
}

type proc struct {
	start string // in clock ticks since boot: with the pid it names a process for ever
	ppid  int
	uid   uint32
	argv  []string
}

// firstSliceID is where the uids of slices begin (slice/keeper).
const firstSliceID = 2_000_000

// look takes down what a program has.
func look(t *testing.T, d *dev) *world {
	t.Helper()
	w := &world{
		root: d.cmd.Process.Pid, seen: map[int]proc{}, spaces: map[string]string{}, self: spacesOf(os.Getpid()),
		address: regexp.MustCompile(`its API is at (\S+)`).FindStringSubmatch(d.output())[1],
	}
	for _, m := range mounts(t) {
		if m[1] == "cgroup2" {
			w.cgroups = append(w.cgroups, filepath.Join(m[0], cgroupName(d.dir)))
		}
	}
	w.tables = nftTables(t, 0)
	w.again(t)
	return w
}

// again adds what has come since.
func (w *world) again(t *testing.T) {
	t.Helper()
	all := processes(t)
	for pid, p := range all {
		for up := p.ppid; up > 1; up = all[up].ppid {
			if up != w.root {
				continue
			}
			w.seen[pid] = p
			for kind, id := range spacesOf(pid) {
				if id != w.self[kind] && w.spaces[id] == "" && w.pin(t, pid, kind, id) {
					w.spaces[id] = fmt.Sprint(pid, " ", p.argv)
				}
			}
			break
		}
	}
}

// pin keeps a namespace's number from being given to another while the test looks: a new
// namespace gets the lowest number that is free.
func (w *world) pin(t *testing.T, pid int, kind, id string) bool {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		return false // the process has just ended
	}
	t.Cleanup(func() { f.Close() })
	now, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	return err == nil && now == id
}

// slices counts the processes that run as users of slices.
func (w *world) slices() int {
	n := 0
	for _, p := range w.seen {
		if p.uid >= firstSliceID {
			n++
		}
	}
	return n
}

// find returns the pid of `runink name`.
func (w *world) find(t *testing.T, name string) int {
	t.Helper()
	for pid, p := range w.seen {
		if len(p.argv) > 1 && p.argv[1] == name {
			return pid
		}
	}
	t.Fatalf("no process %s among %v", name, w.seen)
	return 0
}

// mustBeUp is the control: what is looked for at the end can be found now, in namespaces
// that are not the host's.
func (w *world) mustBeUp(t *testing.T) {
	t.Helper()
	agent := w.find(t, "agent")
	for _, kind := range []string{"net", "mnt", "pid"} {
		if id := spacesOf(agent)[kind]; id == "" || id == w.self[kind] {
			t.Errorf("the agent has the host's %s namespace", kind)
		}
	}
	if !slices.Contains(nftTables(t, agent), netpol.TableName) {
		t.Error("no policy in the tree's network")
	}
	if slices.Contains(w.tables, netpol.TableName) {
		t.Error("a policy in the host's network")
	}
	if len(w.cgroups) > 0 && !slices.ContainsFunc(w.cgroups, exists) {
		t.Errorf("no cgroup of the tree among %v", w.cgroups)
	}
	if c, err := net.Dial("tcp", w.address); err != nil {
		t.Errorf("the API's port: %v", err)
	} else {
		c.Close()
	}
	if len(w.left(t)) == 0 {
		t.Error("nothing of a running program was found")
	}
}

func (w *world) mustBeGone(t *testing.T) {
	t.Helper()
	for _, l := range w.left(t) {
		t.Error("left behind: " + l)
	}
}

// left lists what is there.
func (w *world) left(t *testing.T) []string {
	t.Helper()
	var out []string
	all := processes(t)
	for pid, p := range w.seen {
		if now, ok := all[pid]; ok && now.start == p.start {
			out = append(out, fmt.Sprintf("process %d %v", pid, p.argv))
		}
	}
	for pid, p := range all {
		for _, id := range spacesOf(pid) {
			if who, ok := w.spaces[id]; ok {
				out = append(out, fmt.Sprintf("namespace %s of process %s, held by %d %v", id, who, pid, p.argv))
			}
		}
	}
	for _, m := range mounts(t) {
		if m[1] == "nsfs" && w.spaces[m[2]] != "" {
			out = append(out, "namespace mounted at "+m[0])
		}
		if strings.Contains(m[0], "runink-dev") || strings.HasPrefix(m[0], "/run/runink") {
			out = append(out, "mount "+m[0])
		}
	}
	for _, dir := range w.cgroups {
		if exists(dir) {
			out = append(out, "cgroup "+dir)
		}
	}
	for _, name := range hostLinks(t) {
		if strings.HasPrefix(name, netpol.SlicePrefix) || name == netpol.WireGuardDevice {
			out = append(out, "link "+name)
		}
	}
	if slices.Contains(nftTables(t, 0), netpol.TableName) {
		out = append(out, "nftables table "+netpol.TableName)
	}
	return out
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// processes reads /proc; zombies count, for somebody has to wait for them.
func processes(t *testing.T) map[int]proc {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	out := map[int]proc{}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(dir + "/stat")
		if err != nil {
			continue // it has ended
		}
		// proc_pid_stat(5): after the name in parentheses come state, ppid, …; 22 is starttime.
		_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')'):]), " ")
		f := strings.Fields(rest)
		ppid, err := strconv.Atoi(f[1])
		if err != nil {
			t.Fatalf("%s/stat: %s", dir, stat)
		}
		p := proc{ppid: ppid, start: f[19]}
		argv, err := os.ReadFile(dir + "/cmdline")
		if err == nil {
			p.argv = strings.Split(strings.TrimRight(string(argv), "\x00"), "\x00")
		}
		status, err := os.ReadFile(dir + "/status")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "Uid:" {
				uid, err := strconv.ParseUint(f[1], 10, 32)
				if err != nil {
					t.Fatal(err)
				}
				p.uid = uint32(uid)
			}
		}
		out[pid] = p
	}
	return out
}

// spacesOf reads a process's namespaces: kind → "net:[4026531840]".
func spacesOf(pid int) map[string]string {
	out := map[string]string{}
	for _, kind := range []string{"net", "mnt", "pid", "ipc", "uts", "user", "cgroup"} {
		id, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err == nil {
			out[kind] = id
		}
	}
	return out
}

// mounts are this host's: mount point, type, source.
func mounts(t *testing.T) [][3]string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var out [][3]string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 {
			out = append(out, [3]string{f[1], f[2], f[0]})
		}
	}
	return out
}

func hasController(t *testing.T, name string) bool {
	t.Helper()
	for _, m := range mounts(t) {
		if m[1] != "cgroup2" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(m[0], "cgroup.controllers"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return slices.Contains(strings.Fields(string(b)), name)
	}
	return false
}

func hostLinks(t *testing.T) []string {
	t.Helper()
	all, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range all {
		out = append(out, l.Attrs().Name)
	}
	return out
}

// nftTables lists the tables in a process's network, 0: the host's.
func nftTables(t *testing.T, pid int) []string {
	t.Helper()
	var opts []nftables.ConnOption
	if pid != 0 {
		ns, err := netns.GetFromPid(pid)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		opts = append(opts, nftables.WithNetNSFd(int(ns)))
	}
	c, err := nftables.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	all, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, table := range all {
		out = append(out, table.Name)
	}
	return out
}
