package fault

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

const childEnv = "RUNINK_FAULT_TEST_CHILD"

// TestMain is also the process that faults are injected into.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	if err := ArmFromEnv(); err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	for i := range 3 {
		began := time.Now()
		if err := Hit("p", "h"); err != nil {
			fmt.Println("error", i, err)
			os.Exit(1)
		}
		fmt.Println("passed", i, time.Since(began) > 200*time.Millisecond)
	}
}

func child(t *testing.T, faults string) *exec.Cmd {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), childEnv+"=1", Env+"="+faults)
	return c
}

func TestStopForAWhile(t *testing.T) {
	c := child(t, "p(h)=stop:300ms@2")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(c.Process.Pid, &ws, syscall.WUNTRACED, nil); err != nil || !ws.Stopped() || ws.StopSignal() != syscall.SIGSTOP {
		t.Fatalf("the process was to be stopped: %#x, %v", ws, err)
	}
	var lines []string
	for sc := bufio.NewScanner(out); sc.Scan(); {
		lines = append(lines, sc.Text())
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(lines, "; "); got != "passed 0 false; passed 1 true; passed 2 false" {
		t.Error(got)
	}
}

func TestActions(t *testing.T) {
	for _, tc := range []struct {
		name, faults string
		code         int
		out, stderr  string
	}{
		{"none", "q=exit", 0, "passed 0", ""},
		{"for everybody", "p=error@2", 1, "error 1 injected fault at p", "fault: p: error"},
		{"for one", "p(h)=error", 1, "error 0 injected fault at p(h)", "fault: p(h): error"},
		{"for another", "p(g)=error", 0, "passed 2", ""},
		{"exit", "p(h)=exit@3", 70, "passed 1", "fault: p(h): exit"},
		{"one after the other", "p=delay:250ms,error@2", 1, "passed 0 false\nerror 1", "fault: p: delay:250ms,error"},
		{"no action", "p", 2, `"p" is not point=action`, ""},
		{"unknown action", "p=explode", 2, `unknown action "explode"`, ""},
		{"no number", "p=exit@x", 2, "@N wants a number from 1", ""},
		{"no duration", "p=stop:soon", 2, "is no duration", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := child(t, tc.faults)
			var stderr strings.Builder
			c.Stderr = &stderr
			out, err := c.Output()
			var ee *exec.ExitError
			if err != nil && !errors.As(err, &ee) || c.ProcessState.ExitCode() != tc.code {
				t.Errorf("exit code %d, want %d: %v", c.ProcessState.ExitCode(), tc.code, err)
			}
			if !strings.Contains(string(out), tc.out) || !strings.Contains(stderr.String(), tc.stderr) {
				t.Errorf("output %q, standard error %q", out, stderr.String())
			}
		})
	}
}
