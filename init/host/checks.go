package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

// Lack is something that a host does not give, and what to do about it.
type Lack struct {
	Name     string // of the check, in a word or three
	Sentence string // what is lacking, or what is not kept and why
	Hint     string // the next step
}

// Refusals say why the host below root ("/") cannot be a node. It reads files only.
func Refusals(root string) []Lack {
	var out []Lack
	add := func(name, hint, format string, args ...any) {
		out = append(out, Lack{name, fmt.Sprintf(format, args...), hint})
	}
	at := func(name string) string { return filepath.Join(root, name) }

	if _, err := os.Stat(at("/run/systemd/system")); err != nil {
		add("systemd", "start agent, keeper and watchdog by what there is instead, after `runink join --units=false`",
			"the first process of this host is not systemd (sd_booted(3))")
	}
	if b, err := os.ReadFile(at("/run/systemd/container")); err == nil {
		add("machine", "join the machine itself, or run a virtual machine",
			"this is a container (%s): it cannot reboot its machine, which fencing rests on", strings.TrimSpace(string(b)))
	}
	out = append(out, cgroupRefusals(at)...)
	release := line(at("/proc/sys/kernel/osrelease"))
	if old, err := OldKernel(release); err != nil || old {
		add("kernel", fmt.Sprintf("boot Linux %d.%d or later: Debian 12 has one", oldestKernel[0], oldestKernel[1]),
			"its kernel is %q, and cgroup.kill, which kills a slice whole, came with %d.%d", release, oldestKernel[0], oldestKernel[1])
	}
	if n := line(at("/proc/sys/user/max_user_namespaces")); n == "0" {
		add("user namespaces", "sysctl user.max_user_namespaces=15000, and in /etc/sysctl.d for the next boot",
			"user namespaces are switched off (user.max_user_namespaces is 0)")
	} else if _, err := os.Lstat(at("/proc/self/ns/user")); err != nil {
		add("user namespaces", "boot a kernel with CONFIG_USER_NS", "the kernel has no user namespaces")
	}
	if v := line(at("/proc/sys/net/ipv6/conf/all/disable_ipv6")); v != "0" {
		add("IPv6", "sysctl net.ipv6.conf.all.disable_ipv6=0, and no ipv6.disable=1 on the kernel command line",
			"IPv6 is switched off, and slices have no other addresses")
	}
	return out
}

func cgroupRefusals(at func(string) string) []Lack {
	const name, hint = "cgroup v2", "boot with systemd.unified_cgroup_hierarchy=1 and without SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE on the kernel command line"
	have, err := os.ReadFile(at("/sys/fs/cgroup/cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(at("/sys/fs/cgroup/unified/cgroup.controllers")); err == nil {
			return []Lack{{name, "cgroup v1 holds the controllers, and v2 is beside it without (hybrid): slices would have no limits", hint}}
		}
		return []Lack{{name, "this host has cgroup v1: a slice can neither be limited nor killed whole", hint}}
	}
	if err != nil {
		return []Lack{{name, "it cannot be read: " + err.Error(), hint}}
	}
	var missing []string
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !slices.Contains(strings.Fields(string(have)), c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return []Lack{{name, "cgroup v2 has no controller " + strings.Join(missing, ", "), "take cgroup_disable= off the kernel command line; a cgroup v1 mount may hold them too"}}
	}
	return nil
}

// oldestKernel has cgroup.kill, without which a slice that forks cannot be killed for sure.
var oldestKernel = [2]int{5, 14}

// OldKernel reports whether a release (uname -r) is older than what slices need. Errors: it is
// no release.
func OldKernel(release string) (bool, error) {
	first, rest, ok := strings.Cut(release, ".")
	major, err := strconv.Atoi(first)
	if err != nil || !ok {
		return false, errs.E(errs.Invalid, "read kernel release", "%q is no number", release)
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		rest = rest[:end]
	}
	minor, err := strconv.Atoi(rest)
	if err != nil {
		return false, errs.E(errs.Invalid, "read kernel release", "%q is no number", release)
	}
	return major < oldestKernel[0] || major == oldestKernel[0] && minor < oldestKernel[1], nil
}

// Flags say what a node on the host below root keeps only in part. Each is true now; it may
// change while the node runs.
func Flags(root string, clockKept bool) []Lack {
	at := func(name string) string { return filepath.Join(root, name) }
	out := []Lack{{
		"a machine of its own",
		"a machine of its own: on an ordinary host other processes of root see and stop slices, and share memory and processors with them",
		"boot the appliance image where that matters (docs/boot.md)",
	}}
	if !hardwareWatchdog(at("/sys/class/watchdog")) {
		out = append(out, Lack{
			"hardware watchdog",
			"reset of a machine that hangs: no hardware watchdog is armed",
			"RuntimeWatchdogSec=60 in /etc/systemd/system.conf has systemd arm it; a machine without one needs the driver of its chipset",
		})
	}
	if !clockKept {
		out = append(out, Lack{
			"clock",
			"time of day: no time service keeps this host's clock, and certificates are judged by it",
			"start systemd-timesyncd or chrony",
		})
	}
	if flushes(at) {
		out = append(out, Lack{
			"firewall",
			"default deny without a gap: this host's nftables.service flushes the whole ruleset when it is reloaded, and the policy is back only with the next heartbeat",
			"in /etc/nftables.conf replace \"flush ruleset\" by \"destroy table\" of the tables that it makes",
		})
	}
	return out
}

// hardwareWatchdog reports whether some watchdog device is armed (watchdog-api: state).
func hardwareWatchdog(class string) bool {
	states, err := filepath.Glob(filepath.Join(class, "*", "state"))
	if err != nil {
		return false
	}
	for _, f := range states {
		if line(f) == "active" {
			return true
		}
	}
	return false
}

// flushes reports whether the host's firewall is nft's own service with a file that begins by
// flushing everything, ours included.
func flushes(at func(string) string) bool {
	enabled, err := filepath.Glob(at("/etc/systemd/system/*.wants/nftables.service"))
	if err != nil || len(enabled) == 0 {
		return false
	}
	text, err := os.ReadFile(at("/etc/nftables.conf"))
	if err != nil {
		return false
	}
	for l := range strings.Lines(string(text)) {
		if words := strings.Fields(l); len(words) >= 2 && words[0] == "flush" && strings.TrimSuffix(words[1], ";") == "ruleset" {
			return true
		}
	}
	return false
}

// ClockKept asks the kernel whether a time service keeps its clock (adjtimex(2), STA_UNSYNC).
func ClockKept() bool {
	var tx unix.Timex // modes 0: it only reads
	state, err := unix.Adjtimex(&tx)
	return err == nil && state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0
}

// Sentences are what a node says of lacks.
func Sentences(ls []Lack) []string {
	var out []string
	for _, l := range ls {
		out = append(out, l.Sentence)
	}
	return out
}

// CheckProgram refuses a program for root's units that somebody else could replace: file and
// each folder above must be root's own, and writable by no other (folders with the sticky bit
// do not suffice, for files of others can be put there).
func CheckProgram(file string) error {
	const op = "check program"
	real, err := filepath.EvalSymlinks(file)
	if err != nil {
		return errs.E(errs.NotFound, op, "%w", err).WithHint("put runink, runink-engine and runink-engine-net into /usr/local/bin")
	}
	for p := real; ; p = filepath.Dir(p) {
		info, err := os.Stat(p)
		if err != nil {
			return errs.E(errs.NotFound, op, "%w", err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || st.Uid != 0 || info.Mode().Perm()&0o022 != 0 {
			return errs.E(errs.Denied, op, "others than root may change %s, and root's units would run it", p).
				WithHint("install -o root -m 0755 runink runink-engine runink-engine-net /usr/local/bin, and run it from there")
		}
		if p == "/" {
			return nil
		}
	}
}

// line reads a file of one line; "" where there is none.
func line(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
