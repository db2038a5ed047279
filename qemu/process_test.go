package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

// TestMain lets the test binary play the harness that dies, and the machine it started.
func TestMain(m *testing.M) {
	switch os.Getenv("QEMU_TEST_PLAYS") {
	case "harness":
		os.Exit(playHarness())
	case "machine":
		fmt.Println("machine", os.Getpid())
		forever()
	}
	os.Exit(m.Run())
}

func playHarness() int {
	self, err := os.Executable()
	if err != nil {
		return 1
	}
	if err := os.Setenv("QEMU_TEST_PLAYS", "machine"); err != nil {
		return 1
	}
	_, err = startProcess(self, nil, func(r *os.File) error {
		_, err := io.Copy(os.Stdout, r)
		return err
	})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	forever()
	return 0
}

// forever sleeps until it is killed. With an empty select, Go's runtime ends a process
// without cgo itself: all its goroutines wait, and for nothing.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

// What a harness started dies with it, even when it is killed without a chance to clean up.
func TestMachineDiesWithHarness(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "QEMU_TEST_PLAYS=harness")
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscanf(line, "machine %d", &pid); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The pipe ends when the last holder of its other end, the machine included, is gone;
	// Wait would close it under us, so the machine is watched first.
	n, err := 0, unix.EINTR // by a signal of Go's own runtime
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20_000)
	}
	if err != nil || n != 1 {
		t.Errorf("the machine outlives its harness (%v)", err)
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) {
		t.Errorf("the harness was to be killed, it ended with %v", err)
	}
}

func TestProcessThatCannotStart(t *testing.T) {
	if _, err := startProcess("/nonexistent/qemu", nil, func(*os.File) error { return nil }); err == nil {
		t.Fatal("no error")
	}
}

// A machine whose arguments QEMU refuses says why, and leaves nothing behind.
func TestPowerOnSaysWhatQEMUDislikes(t *testing.T) {
	m, err := NewMachine(MachineConfig{Name: "m", Kernel: "/nonexistent/kernel", Initrd: "/nonexistent/initrd", Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.PowerOn(t.Context())
	if !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "/nonexistent/kernel") {
		t.Errorf("got %v", err)
	}
	if m.Running() {
		t.Error("it counts as running")
	}
	m.PowerCut() // of a machine that is off: nothing
	if err := m.Pause(t.Context()); !errors.Is(err, errs.Conflict) {
		t.Errorf("pause of a machine that is off: %v", err)
	}
	if err := m.Wait(t.Context()); err != nil {
		t.Errorf("wait for a machine that is off: %v", err)
	}
}

func TestNewMachineRefuses(t *testing.T) {
	for name, cfg := range map[string]MachineConfig{
		"no name":     {Kernel: "k", Initrd: "i"},
		"name with /": {Name: "a/b", Kernel: "k", Initrd: "i"},
		"no kernel":   {Name: "a", Initrd: "i"},
		"no MAC":      {Name: "a", Kernel: "k", Initrd: "i", Port: &Port{}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := NewMachine(cfg); !errors.Is(err, errs.Invalid) {
				t.Errorf("got %v, want kind invalid", err)
			}
		})
	}
}

func TestConsole(t *testing.T) {
	var log strings.Builder
	c := newConsole("n1", NewJournal(), &log)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	drained := make(chan error, 1)
	c.set(func() { c.ended = false })
	go func() { drained <- c.drain(r) }()
	write := func(text string) {
		t.Helper()
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	wait := func(from Mark, re string) (Line, []string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return c.Wait(ctx, from, regexp.MustCompile(re))
	}
	write("\x1bc\x1b[?7l\x1b[2J[    0.1] boot\r\nready: n1 10.77.0.11\r\npart")
	line, m, err := wait(0, `^ready: (\S+) (\S+)$`)
	if err != nil || m[2] != "10.77.0.11" {
		t.Fatalf("%v %q", err, m)
	}
	if first := c.Since(0)[0].Text; first != "[    0.1] boot" {
		t.Errorf("control sequences stay: %q", first)
	}
	mark := c.Mark()
	write("ial line\n")
	again, _, err := wait(mark, `^partial line$`)
	if err != nil || again.At < line.At {
		t.Errorf("%v, %v after %v", err, again.At, line.At)
	}
	if _, _, err := wait(0, `^ready`); err != nil {
		t.Errorf("a wait from the start must see old lines: %v", err)
	}

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = c.Wait(gone, 0, regexp.MustCompile("never"))
	if !errors.Is(err, errs.Timeout) || !strings.Contains(err.Error(), "partial line") {
		t.Errorf("want kind timeout with the last lines, got %v", err)
	}

	write(strings.Repeat("x", maxLine+10) + "\n")
	if _, _, err := wait(0, `^x{10}$`); err != nil {
		t.Errorf("a line without end is not broken: %v", err)
	}
	write("last words")
	w.Close()
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	if _, _, err := wait(0, `^last words$`); err != nil {
		t.Errorf("what has no line end is lost: %v", err)
	}
	if _, _, err := wait(0, "never"); !errors.Is(err, errs.Unavailable) {
		t.Errorf("the machine is off, want kind unavailable, got %v", err)
	}
	if !strings.Contains(log.String(), "n1 ready: n1 10.77.0.11\n") {
		t.Errorf("log: %q", log.String())
	}
}

// A reset ends the line that the guest was writing, wherever its bytes are: already read,
// or still in the pipe.
func TestConsoleAcrossReset(t *testing.T) {
	c := newConsole("n1", NewJournal(), nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c.set(func() { c.ended = false })
	drained := make(chan error, 1)
	go func() { drained <- c.drain(r) }()
	const boots = 500
	for i := range boots {
		if _, err := fmt.Fprintf(w, "BOOT %d\nFOU", i); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		// The reader runs once a line was seen, so that cut has a pipe to look into.
		if _, _, err := c.Wait(ctx, Mark(max(0, 2*i)), regexp.MustCompile(fmt.Sprintf(`^BOOT %d$`, i))); err != nil {
			t.Fatal(err)
		}
		cancel()
		if _, err := io.WriteString(w, "ND n"); err != nil {
			t.Fatal(err)
		}
		c.cut()
	}
	c.cut() // nothing was begun: nothing to end
	w.Close()
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	lines := c.Since(0)
	if len(lines) != 2*boots {
		t.Fatalf("%d lines, want %d", len(lines), 2*boots)
	}
	for i, l := range lines {
		want := "FOUND n"
		if i%2 == 0 {
			want = fmt.Sprintf("BOOT %d", i/2)
		}
		if l.Text != want {
			t.Fatalf("line %d is %q, want %q", i, l.Text, want)
		}
	}
	c.cut() // off: nothing
}
