package confine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// confined tells this test's binary how to confine itself.
const confined = "RUNINK_TEST_CONFINED"

func TestMain(m *testing.M) {
	how := os.Getenv(confined)
	if how == "" {
		os.Exit(m.Run())
	}
	if err := confine(how); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// confine confines this process, which has several threads, and prints what each is then.
func confine(how string) error {
	var threads sync.WaitGroup
	stay := make(chan struct{})
	var started sync.WaitGroup
	for range 4 {
		started.Add(1)
		threads.Go(func() {
			runtime.LockOSThread()
			started.Done()
			<-stay
		})
	}
	started.Wait()
	defer threads.Wait()
	defer close(stay)
	file, err := os.Open("/etc/shadow") // root's alone
	if err != nil {
		return err
	}
	defer file.Close()
	if how == "user" {
		err = Become(12345)
	} else {
		err = Capabilities(unix.CAP_NET_ADMIN, unix.CAP_SYS_TIME)
	}
	if err != nil {
		return err
	}
	statuses, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return err
	}
	fmt.Println("threads", len(statuses) > 4)
	said := map[string]bool{}
	for _, s := range statuses {
		text, err := os.ReadFile(s)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			switch key {
			case "Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb", "NoNewPrivs":
				if fact := key + " " + strings.Join(strings.Fields(value), " "); !said[fact] {
					said[fact] = true
					fmt.Println(fact)
				}
			}
		}
	}
	_, err = file.Read(make([]byte, 1))
	fmt.Println("reads what it has open", err == nil)
	_, err = os.ReadFile("/etc/shadow")
	fmt.Println("opens a file of root's", !errors.Is(err, os.ErrPermission))
	return nil
}

func TestConfine(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root: it gives up root's rights")
	}
	for how, want := range map[string][]string{
		"user": {
			"threads true", "Uid 12345 12345 12345 12345", "Gid 12345 12345 12345 12345", "Groups ", "CapInh 0000000000000000", "CapPrm 0000000000000000",
			"CapEff 0000000000000000", "CapBnd 0000000000000000", "CapAmb 0000000000000000", "NoNewPrivs 1", "reads what it has open true", "opens a file of root's false",
		},
		"capabilities": {
			"threads true", "Uid 0 0 0 0", "Gid 0 0 0 0", "CapInh 0000000000000000", "CapPrm 0000000002001000", "CapEff 0000000002001000",
			"CapBnd 0000000002001000", "CapAmb 0000000000000000", "NoNewPrivs 1", "reads what it has open true", "opens a file of root's true",
		},
	} {
		t.Run(how, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
			cmd.Env = append(os.Environ(), confined+"="+how)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			for _, w := range want {
				if !strings.Contains("\n"+string(out), "\n"+w+"\n") {
					t.Errorf("it lacks %q", w)
				}
			}
			if extra := strings.Count(string(out), "\n") - len(want); how == "user" && extra != 0 {
				t.Errorf("%d lines more: threads are not alike", extra)
			}
			if t.Failed() {
				t.Logf("it says\n%s", out)
			}
		})
	}
}
