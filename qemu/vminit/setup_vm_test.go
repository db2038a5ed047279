//go:build vm

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary play the child of TestPivotRoot.
func TestMain(m *testing.M) {
	if dir := os.Getenv("VMINIT_PIVOT_TO"); dir != "" {
		if err := pivotTo(dir); err != nil {
			println(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func pivotTo(dir string) error {
	for _, step := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "") },
		func() error { return os.Chdir(dir) },
		func() error { return unix.PivotRoot(".", ".") },
		func() error { return unix.Unmount(".", unix.MNT_DETACH) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// What every in-VM test may rely on; the guest is what a sandbox needs.
func TestPivotRoot(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = []string{"VMINIT_PIVOT_TO=" + t.TempDir()}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestCgroupControllers(t *testing.T) {
	data, err := os.ReadFile(cgroupRoot + "/cgroup.subtree_control")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cpu", "memory", "pids", "io"} {
		if !strings.Contains(" "+strings.TrimSpace(string(data))+" ", " "+want+" ") {
			t.Errorf("controller %s is not enabled: %s", want, data)
		}
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(self)); got != "0::/system/test" {
		t.Errorf("the test runs in %q", got)
	}
	group := filepath.Join(cgroupRoot, "herds-of-a-test")
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(group+"/memory.max", []byte("1048576"), 0); err != nil {
		t.Error(err)
	}
	if err := unix.Rmdir(group); err != nil {
		t.Error(err)
	}
}

func TestModulesAreLoaded(t *testing.T) {
	loaded, err := os.ReadFile("/proc/modules")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"nf_tables", "nft_masq", "veth", "overlay", "wireguard", "virtio_net"} {
		if !strings.Contains("\n"+string(loaded), "\n"+want+" ") {
			t.Errorf("%s is not loaded", want)
		}
	}
}

// An orphan must not stay a zombie while the test that made it runs.
func TestOrphansAreReaped(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The child is told to pivot to a folder that is not there, and fails at once.
	attr := &os.ProcAttr{Env: []string{"VMINIT_PIVOT_TO=/nonexistent"}, Sys: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_PARENT}}
	p, err := os.StartProcess(self, []string{self}, attr)
	if err != nil {
		t.Fatal(err)
	}
	for range 2000 {
		if err := unix.Kill(p.Pid, 0); err == unix.ESRCH {
			return
		}
		unix.Poll(nil, 10)
	}
	t.Fatal("the first process did not reap it within 20 s")
}
