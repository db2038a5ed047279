// Command testnode is a node for tests of PID 1: its PID 1 and its netd are the real
// ones; keeper, join, server and agent are stand-ins that do what the test says in words
// of the kernel command line, which the kernel puts into the environment:
//
//	TEST_KEEPER=die      the first keeper kills itself while a slice runs
//	TEST_KEEPER=deadman  the keeper exits as one whose deadman failed
//	TEST_AGENT=reboot    the agent asks PID 1 for a reboot
//	TEST_AGENT=busy      the agent ignores SIGTERM and holds a file of the state disk
//	TEST_JOIN=refuse     join fails, as with a token that has expired
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	pid1 "github.com/runink/runink/init"
	"github.com/runink/runink/init/netd"
	"github.com/runink/runink/internal/nodecfg"
)

func main() {
	if pid1.Appliance() {
		pid1.Main()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	run := map[string]func(context.Context) error{
		"netd": runNetd, "keeper": runKeeper, "join": runJoin, "server": runServer, "agent": runAgent,
		"slice": runSlice, "pivot": runPivot,
	}[os.Args[1]]
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runNetd(ctx context.Context) error {
	cfg, err := nodecfg.Load(nodecfg.ConfigFile)
	if err != nil {
		return err
	}
	if err := netd.DropPrivileges(); err != nil {
		return err
	}
	return netd.Run(ctx, netd.Options{Config: cfg})
}

func status(name string, s nodecfg.Status) error {
	return nodecfg.WriteStatus(nodecfg.StatusDir, name, s)
}

func runKeeper(ctx context.Context) error {
	mode := os.Getenv("TEST_KEEPER")
	herd := filepath.Join(nodecfg.CgroupHerds, "h")
	_, err := os.Stat(herd)
	second := err == nil
	if err := os.MkdirAll(herd, 0o755); err != nil {
		return err
	}
	if second {
		procs, err := os.ReadFile(filepath.Join(herd, "cgroup.procs"))
		if err != nil {
			return err
		}
		fmt.Printf("started again, %d slices alive\n", len(strings.Fields(string(procs))))
	}
	dir, err := os.Open(herd)
	if err != nil {
		return err
	}
	defer dir.Close()
	slice := exec.Command("/proc/self/exe", "slice")
	slice.Stdout = os.Stdout
	slice.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	ready, err := slice.StderrPipe()
	if err != nil {
		return err
	}
	if err := slice.Start(); err != nil {
		return err
	}
	if _, err := ready.Read(make([]byte, 1)); err != nil { // it ignores SIGTERM from here
		return err
	}
	if err := status("keeper", nodecfg.Status{State: nodecfg.StateReady, Message: "one slice runs"}); err != nil {
		return err
	}
	switch {
	case mode == "die" && !second:
		return unix.Kill(os.Getpid(), unix.SIGKILL)
	case mode == "deadman":
		os.Exit(nodecfg.ExitDeadman)
	}
	<-ctx.Done()
	fmt.Println("keeper stops")
	return nil
}

func runSlice(context.Context) error {
	signal.Ignore(unix.SIGTERM)
	fmt.Println("slice runs")
	fmt.Fprint(os.Stderr, "r")
	select {}
}

func runJoin(context.Context) error {
	if os.Getenv("TEST_JOIN") == "refuse" {
		return errors.Join(
			status("join", nodecfg.Status{State: nodecfg.StateFailed, Message: "the token has expired", Hint: "make another"}),
			errors.New("join: the token has expired"))
	}
	return identity()
}

func identity() error {
	return os.WriteFile(nodecfg.CertFile, []byte("a certificate\n"), 0o600)
}

func runServer(ctx context.Context) error {
	boots := 1
	file := filepath.Join(nodecfg.StateDir, "boots")
	if data, err := os.ReadFile(file); err == nil {
		if boots, err = strconv.Atoi(string(data)); err != nil {
			return err
		}
		boots++
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprint(f, boots); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	generation, err := os.ReadFile(nodecfg.GenerationFile)
	if err != nil {
		return err
	}
	group, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	fmt.Printf("boots=%d generation=%s cgroup=%s host=%s\n", boots, strings.TrimSpace(string(generation)), strings.TrimSpace(string(group)), host)
	err = status("server", nodecfg.Status{State: nodecfg.StateWaiting, Message: "for bootstrap", Detail: map[string]string{
		nodecfg.DetailFingerprint: "sha256:fp", nodecfg.DetailCluster: "unbootstrapped",
	}})
	if err != nil {
		return err
	}
	if err := identity(); err != nil {
		return err
	}
	<-ctx.Done()
	fmt.Println("server stops")
	return nil
}

func runAgent(ctx context.Context) error {
	pivot := exec.Command("/proc/self/exe", "pivot")
	pivot.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if out, err := pivot.CombinedOutput(); err != nil {
		return fmt.Errorf("pivot_root: %w: %s", err, out)
	}
	fmt.Println("pivot_root works")
	// netd drops its capabilities as it starts, which may be now.
	caps := allCaps
	for caps == allCaps && ctx.Err() == nil {
		var err error
		if caps, err = capsOf("netd"); err != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Println("netd has", caps)
	if err := status("agent", nodecfg.Status{State: nodecfg.StateReady}); err != nil {
		return err
	}
	switch os.Getenv("TEST_AGENT") {
	case "reboot":
		if err := unix.Kill(1, nodecfg.SignalReboot); err != nil {
			return err
		}
	case "busy":
		signal.Ignore(unix.SIGTERM)
		f, err := os.Create(filepath.Join(nodecfg.StateDir, "busy"))
		if err != nil {
			return err
		}
		defer f.Close()
		select {}
	}
	<-ctx.Done()
	fmt.Println("agent drains")
	return nil
}

// runPivot does what a sandbox does first; from the kernel's own root it gives EINVAL.
func runPivot(context.Context) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	const root = "/run/newroot"
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, ""); err != nil {
		return err
	}
	if err := os.Mkdir(root+"/old", 0o755); err != nil {
		return err
	}
	return unix.PivotRoot(root, root+"/old")
}

// allCaps is what PID 1 has on Linux 6.1.
const allCaps = "000001ffffffffff"

// capsOf returns the mask of the capabilities that a component has.
func capsOf(name string) (string, error) {
	procs, err := os.ReadFile(filepath.Join(nodecfg.CgroupSystem, name, "cgroup.procs"))
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile("/proc/" + strings.TrimSpace(string(procs)) + "/status")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", errors.New("no CapEff")
}
