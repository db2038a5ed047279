package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/runink/runink/slice/sandbox/stage"
)

// Every slice's start executes this whole binary once more, for the set-up of its sandbox.
// That must not wait for the initialization of what the set-up does not need: only the core
// of the standard library, and the few packages that import nothing at all, come before it.
func TestStageRunsEarly(t *testing.T) {
	c := exec.Command("/proc/self/exe")
	c.Args[0] = stage.Name
	c.Env = []string{stage.Env + "=0", "GODEBUG=inittrace=1"}
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
	}
	trace, err := c.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 125 { // it has no control socket
		t.Fatalf("%v\n%s", err, trace)
	}
	var before []string
	for line := range strings.Lines(string(trace)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "init" {
			before = append(before, f[1])
		}
	}
	if len(before) == 0 {
		t.Fatalf("no trace: %s", trace)
	}
	for _, p := range before {
		switch p {
		case "os", "fmt", "reflect", "net", "google.golang.org/protobuf/proto", "google.golang.org/grpc":
			t.Errorf("%s initializes before the stage", p)
		}
	}
	if len(before) > 40 { // 22 when this was written, of 288
		t.Errorf("%d packages initialize before the stage: %v", len(before), before)
	}
}
