package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/init/host"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/kconfig"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/netpol"
	"github.com/runink/runink/slice/keeper"
)

// checkNode asks those who would enforce the isolation of slices, and about the kernel.
func checkNode(_ context.Context, _ *cobra.Command) []finding {
	release := kernelRelease()
	out := []finding{checkKernel(release), checkKernelConfig("/", release)}
	out = append(out, checkIsolation()...)
	out = append(out, checkNetwork()...)
	out = append(out, checkClock())
	if !keeper.OnAppliance() {
		out = append(out, hostChecks(host.Refusals("/"), host.Flags("/", true))...)
	}
	return out
}

// hostChecks are what an ordinary host gives, or not, beyond what is looked at already: kernel,
// cgroups and clock. What it keeps in part only is no reason not to join.
func hostChecks(refused, flagged []host.Lack) []finding {
	out := []finding{{Name: "join under systemd", Result: checkOK, Why: "`runink join` can make this host a node"}}
	var why []string
	for _, l := range refused {
		why = append(why, l.Sentence)
		out[0].Next = l.Hint
	}
	if len(why) > 0 {
		out[0].Result, out[0].Why = checkLacking, strings.Join(why, "; ")
	}
	for _, l := range flagged {
		out = append(out, finding{Name: l.Name, Result: checkUnknown, Why: l.Sentence, Next: l.Hint})
	}
	return out
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func checkKernel(release string) finding {
	c := finding{Name: "kernel", Result: checkOK, Why: "Linux " + release}
	switch old, err := host.OldKernel(release); {
	case err != nil:
		c.Result, c.Why, c.Next = checkUnknown, err.Error(), "it must be Linux 5.14 or later"
	case old:
		c.Result, c.Next = checkLacking, "it must be Linux 5.14 or later: cgroup.kill came with it"
	}
	return c
}

// checkKernelConfig reads the kernel's configuration where distributions keep it, below root.
func checkKernelConfig(root, release string) finding {
	c := finding{Name: "kernel options", Result: checkUnknown, Next: "install the configuration of the running kernel as /boot/config-" + release}
	text, from, err := kernelConfig(root, release)
	if err != nil {
		c.Why = err.Error()
		return c
	}
	var host []kconfig.Option
	for _, o := range kconfig.Required() {
		if o.Host {
			host = append(host, o)
		}
	}
	if missing := kconfig.Missing(text, host); len(missing) > 0 {
		c.Result, c.Why, c.Next = checkLacking, strings.Join(missing, ", "), "boot a kernel with them: that of Debian 12 has all"
		return c
	}
	c.Result, c.Why = checkOK, fmt.Sprintf("the %d options that slices need are set in %s", len(host), from)
	return c
}

// maxKernelConfig bounds a configuration, some 300 KB in truth.
const maxKernelConfig = 8 << 20

func kernelConfig(root, release string) (text, from string, err error) {
	from = "/proc/config.gz"
	if f, err := os.Open(filepath.Join(root, from)); err == nil {
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			return "", "", errs.E(errs.Corrupt, "", "%s: %w", from, err)
		}
		data, err := io.ReadAll(io.LimitReader(z, maxKernelConfig))
		return string(data), from, err
	}
	from = "/boot/config-" + release
	data, err := os.ReadFile(filepath.Join(root, from))
	if errors.Is(err, fs.ErrNotExist) {
		err = errs.E(errs.NotFound, "", "neither /proc/config.gz nor %s is there", from)
	}
	return string(data), from, err
}

// checkIsolation has the keeper's own code look.
func checkIsolation() []finding {
	lacks, err := keeper.Examine(keeper.Config{CgroupRoot: nodecfg.CgroupHerds, Watchdog: keeper.OnAppliance(), WatchdogLock: nodecfg.WatchdogLock})
	if err != nil {
		return []finding{found("isolation of slices", "", err)}
	}
	return isolationChecks(lacks, os.Geteuid() == 0, systemd().Installed())
}

// isolationChecks says of each promise whether it is among what the keeper could not keep.
// joined is whether this is an ordinary host that joined a cluster.
func isolationChecks(lacks []keeper.Lack, root, joined bool) []finding {
	watched := "PID 1 is Runink"
	if joined {
		watched = "runink-watchdog.service runs"
	}
	out := []finding{{Name: "user namespaces", Result: checkOK, Why: "the kernel makes them"}}
	by := map[string]keeper.Lack{}
	for _, l := range lacks {
		by[l.What] = l
	}
	for _, p := range []struct{ name, what, ok string }{
		{"cgroup v2", "cgroup", "mounted, and this user may make groups"},
		{"CPU limits", "cpu", "controller cpu"},
		{"memory limits", "memory", "controller memory"},
		{"process limits", "pids", "controller pids"},
		{"killing a slice whole", "kill", "cgroup.kill"},
		{"a user for each slice", "users", "root, with the ids for them"},
		{"a network for each slice", "network", "root may make links"},
		{"fencing past the keeper", "watchdog", watched},
	} {
		c := finding{Name: p.name, Result: checkOK, Why: p.ok}
		_, noGroups := by["cgroup"]
		l, lacks := by[p.what]
		switch {
		case lacks && !root && (p.what == "users" || p.what == "network" || p.what == "cgroup"):
			c.Result, c.Why, c.Next = checkUnknown, "this user is not root, which a keeper is", "run doctor as root"
		case lacks && p.what == "watchdog" && !joined: // nothing is to be fenced here
			c.Result, c.Why, c.Next = checkUnknown, "this machine is no node", "`runink join` installs the watchdog with the node"
		case lacks:
			c.Result, c.Why, c.Next = checkLacking, l.Sentence, l.Hint
		case noGroups && (p.what == "cpu" || p.what == "memory" || p.what == "pids" || p.what == "kill"):
			c.Result, c.Why = checkUnknown, "there is no cgroup v2 to look at"
		}
		out = append(out, c)
	}
	return out
}

// checkNetwork tries what package netpol does, in a namespace of its own.
func checkNetwork() []finding {
	a, err := netpol.Probe()
	if err != nil {
		why, next := err.Error(), errs.HintOf(err)
		return []finding{
			{Name: "nftables", Result: checkUnknown, Why: why, Next: next},
			{Name: "WireGuard", Result: checkUnknown, Why: why, Next: next},
		}
	}
	nft := found("nftables", "the kernel has tables", a.NFTables)
	if nft.Result != checkOK {
		nft.Next = "load module nf_tables; slices cannot be kept apart without"
	}
	wg := found("WireGuard", "the kernel makes devices", a.WireGuard)
	if wg.Result != checkOK {
		wg.Next = "load module wireguard; without it no slice has an edge to another node"
	}
	return []finding{nft, wg}
}

// checkClock asks the kernel whether somebody keeps its clock (adjtimex(2), STA_UNSYNC). Only
// rates matter for fencing, but certificates are judged by the time of day.
func checkClock() finding {
	var tx unix.Timex // modes 0: it only reads
	state, err := unix.Adjtimex(&tx)
	return clockCheck(state, tx.Status, err, time.Now())
}

func clockCheck(state int, status int32, err error, now time.Time) finding {
	c := finding{Name: "clock", Result: checkUnknown, Next: "start a time service: systemd-timesyncd or chrony"}
	switch {
	case err != nil:
		c.Why = "adjtimex: " + err.Error()
	case state == unix.TIME_ERROR || status&unix.STA_UNSYNC != 0:
		c.Why = "the kernel does not know of anybody who keeps it; it shows " + now.UTC().Format(time.RFC3339)
	default:
		c.Result, c.Why, c.Next = checkOK, "kept by a time service", ""
	}
	return c
}

// oldestGo is what compiles bundles: the version that the sdk's module asks for.
var oldestGo = [2]int{1, 26}

// checkPipelines looks for what the compiler of pipelines calls.
func checkPipelines(ctx context.Context, _ *cobra.Command) []finding {
	goCheck := finding{Name: "Go", Result: checkLacking, Next: fmt.Sprintf("install Go %d.%d or later (https://go.dev/dl) and put it into $PATH", oldestGo[0], oldestGo[1])}
	switch out, err := output(ctx, "go", "env", "GOVERSION"); {
	case errors.Is(err, exec.ErrNotFound):
		goCheck.Why = "there is no go in $PATH; pipelines with steps of their own cannot be checked or built"
	case err != nil:
		goCheck.Why = err.Error()
	default:
		goCheck = goVersionCheck(goCheck, strings.TrimSpace(out))
	}
	engine := finding{Name: "engine", Result: checkOK}
	self, err := os.Executable()
	switch {
	case err != nil:
		engine.Result, engine.Why = checkUnknown, err.Error()
	default:
		engine.Why = filepath.Join(filepath.Dir(self), "runink-engine")
		for _, file := range []string{engine.Why, nodecfg.NetEngine(engine.Why)} {
			if _, err := os.Stat(file); err != nil {
				engine.Result, engine.Why = checkUnknown, "there is no "+filepath.Base(file)+" beside "+self
				engine.Next = "nodes have one of their own; `make build` makes them"
				break
			}
		}
	}
	return []finding{goCheck, engine}
}

func goVersionCheck(c finding, version string) finding {
	c.Why = version
	m := regexp.MustCompile(`^go(\d+)\.(\d+)`).FindStringSubmatch(version)
	if m == nil { // a development version
		c.Result, c.Why = checkUnknown, strconv.Quote(version)+" is no release"
		return c
	}
	major, err1 := strconv.Atoi(m[1])
	minor, err2 := strconv.Atoi(m[2])
	if err1 == nil && err2 == nil && (major > oldestGo[0] || major == oldestGo[0] && minor >= oldestGo[1]) {
		c.Result, c.Next = checkOK, ""
	}
	return c
}

// checkMachines looks for what the virtual machines of this project's make targets need.
func checkMachines(ctx context.Context, _ *cobra.Command) []finding {
	qemu := "qemu-system-x86_64"
	c := finding{Name: "QEMU", Result: checkLacking, Next: "apt-get install qemu-system-x86 (make setup does it)"}
	switch out, err := output(ctx, qemu, "--version"); {
	case errors.Is(err, exec.ErrNotFound):
		c.Why = "there is no " + qemu + " in $PATH"
	case err != nil:
		c.Why = err.Error()
	default:
		first, _, _ := strings.Cut(out, "\n")
		c.Result, c.Why, c.Next = checkOK, first, ""
	}
	return []finding{c, kvmCheck("/")}
}

// kvmCheck: emulation works, too, so that nothing is lacking without it.
func kvmCheck(root string) finding {
	c := finding{Name: "KVM", Result: checkUnknown, Next: "machines are emulated without it, and ten times slower"}
	cpu, err := os.ReadFile(filepath.Join(root, "/proc/cpuinfo"))
	switch {
	case err != nil:
		c.Why = err.Error()
	case !bytes.Contains(cpu, []byte("vmx")) && !bytes.Contains(cpu, []byte("svm")):
		c.Why = "the processor shows neither vmx nor svm"
	default:
		f, err := os.OpenFile(filepath.Join(root, "/dev/kvm"), os.O_RDWR, 0)
		if err != nil {
			c.Why = err.Error()
			break
		}
		f.Close()
		c.Result, c.Why, c.Next = checkOK, "/dev/kvm opens, and the processor has it ("+runtime.GOARCH+")", ""
	}
	return c
}

// output runs a program that only says what it is.
func output(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	return string(out), err
}
