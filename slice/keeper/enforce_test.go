package keeper

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

const mappedEnv = "RUNINK_TEST_MAPPED"

// Root of a user namespace has only the users that were mapped into it.
func TestMapped(t *testing.T) {
	if os.Getenv(mappedEnv) != "" {
		ok, err := mapped(firstID, maxSlices*2)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			os.Exit(3)
		}
		os.Exit(4)
	}
	if ok, err := mapped(0, 1); !ok || err != nil {
		t.Errorf("uid 0 is not mapped: %v", err)
	}
	if ok, err := mapped(1<<32, 1); ok || err != nil {
		t.Errorf("2³² is mapped: %v", err)
	}
	for _, c := range []struct {
		name string
		size int
		want int
	}{
		{"nobody else", 1, 3},
		{"all but the last", firstID + maxSlices*2 - 1, 3},
		{"all", firstID + maxSlices*2, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestMapped$")
			cmd.Env = append(os.Environ(), mappedEnv+"=1")
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{Size: c.size}},
				GidMappings: []syscall.SysProcIDMap{{Size: c.size}},
			}
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != c.want {
				t.Errorf("%v, want exit status %d\n%s", err, c.want, strings.TrimSpace(string(out)))
			}
		})
	}
}
