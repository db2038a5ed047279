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

// Who only asks gets the same answer as who starts, and leaves nothing behind.
func TestExamineOnlyLooks(t *testing.T) {
	root := "/sys/fs/cgroup/runink-examined"
	lacks, err := Examine(Config{CgroupRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root); err == nil {
		t.Errorf("%s was made", root)
	}
	what := map[string]bool{}
	for _, l := range lacks {
		if l.Sentence == "" || l.Hint == "" || what[l.What] {
			t.Errorf("%+v does not say enough, or again", l)
		}
		what[l.What] = true
	}
	if !what["watchdog"] {
		t.Error("without a watchdog nothing is lacking")
	}
	if lacks, err = Examine(Config{CgroupRoot: root, Watchdog: true}); err != nil {
		t.Fatal(err)
	}
	for _, l := range lacks {
		if l.What == "watchdog" {
			t.Errorf("with one: %+v", l)
		}
	}
	can, err := examine(Config{CgroupRoot: t.TempDir()})
	if err != nil || can.tree != nil || len(can.missing) == 0 || can.missing[0].What != "cgroup" {
		t.Errorf("in a folder that is no cgroup2: %+v, %v", can, err)
	}
	looked, err := Examine(Config{CgroupRoot: t.TempDir()})
	if err != nil || len(looked) != len(can.missing) || looked[0].What != "cgroup" {
		t.Errorf("looked at only: %+v, %v", looked, err)
	}
}
