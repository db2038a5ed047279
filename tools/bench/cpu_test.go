package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestTicksOf(t *testing.T) {
	for _, tc := range []struct {
		name, stat  string
		own, waited float64
		bad         bool
	}{
		{"a plain one", "7 (runink) S 1 7 7 0 -1 4194304 1 2 3 4 11 22 33 44 20 0 9", 33, 77, false},
		{"a name of anything", "7 (a) b (c) 1) S 1 7 7 0 -1 4194304 1 2 3 4 1 2 3 4 20 0 9", 3, 7, false},
		{"cut short", "7 (runink) S 1 7 7", 0, 0, true},
		{"no number", "7 (runink) S 1 7 7 0 -1 4194304 1 2 3 4 x 22 33 44 20 0 9", 0, 0, true},
		{"empty", "", 0, 0, true},
	} {
		own, waited, err := ticksOf([]byte(tc.stat))
		if own != tc.own || waited != tc.waited || (err != nil) != tc.bad {
			t.Errorf("%s: %v %v %v", tc.name, own, waited, err)
		}
	}
}

func TestCPUOfATree(t *testing.T) {
	proc := t.TempDir()
	for pid, p := range map[string][2]string{
		"10": {"(dev) S 1 7 7 0 -1 4194304 1 2 3 4 100 0 50 0 20 0 9", "dev"},
		"11": {"(runink) S 10 7 7 0 -1 4194304 1 2 3 4 200 100 0 0 20 0 9", "runink\x00server\x00--dir"},
		"12": {"(runink) S 10 7 7 0 -1 4194304 1 2 3 4 20 10 300 400 20 0 9", "runink\x00keeper\x00"},
		"13": {"(runink) S 11 7 7 0 -1 4194304 1 2 3 4 50 0 0 0 20 0 9", "runink\x00agent\x00"},
		"20": {"(other) S 1 7 7 0 -1 4194304 1 2 3 4 5000 0 0 0 20 0 9", "runink\x00agent\x00"},
	} {
		if err := os.Mkdir(filepath.Join(proc, pid), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"stat": pid + " " + p[0], "cmdline": p[1]} {
			if err := os.WriteFile(filepath.Join(proc, pid, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	c, err := cpuOf(proc, 10)
	want := map[string]float64{"server": 3, "agent": 0.5, "keeper": 0.3, "slices": 7}
	if err != nil || c.all != 12.3 || !reflect.DeepEqual(c.byRole, want) {
		t.Errorf("%+v, %v", c, err)
	}
	if d := c.minus(cpuTime{all: 10, byRole: map[string]float64{"server": 1}}); d.byRole["server"] != 2 || d.all < 2.2 || d.all > 2.4 {
		t.Errorf("difference %+v", d)
	}
}

func TestQueueSizes(t *testing.T) {
	for _, tc := range []struct {
		list string
		want []int
		bad  bool
	}{
		{"", []int{0, 10_000, 100_000}, false},
		{"0, 5,7", []int{0, 5, 7}, false},
		{"7,7", nil, true},
		{"9,5", nil, true},
		{"-1", nil, true},
		{"many", nil, true},
	} {
		got, err := queueSizes(tc.list, false)
		if !reflect.DeepEqual(got, tc.want) || (err != nil) != tc.bad {
			t.Errorf("%q: %v, %v", tc.list, got, err)
		}
	}
}

// reapEnv makes this test binary be the reaper.
const reapEnv = "RUNINK_BENCH_TEST_REAPS"

func TestMain(m *testing.M) {
	if argv := os.Getenv(reapEnv); argv != "" {
		status, err := reap(strings.Split(argv, " "))
		if err != nil {
			os.Stderr.WriteString(err.Error())
		}
		os.Exit(status)
	}
	os.Exit(m.Run())
}

// TestReapReturnsTheStatus: also after a child that was left behind and ended meanwhile.
func TestReapReturnsTheStatus(t *testing.T) {
	script := filepath.Join(t.TempDir(), "leave")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n( ( exit 3 ) & )\nexit 5\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), reapEnv+"="+script)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestManyDSLIsOnePipelineOfManySlices says what the bench's text means: so many sources and
// sinks, and one place for what is rejected.
func TestManyDSLIsOnePipelineOfManySlices(t *testing.T) {
	text := manyDSL(3)
	for what, n := range map[string]int{"@source(": 3, `@step("filter"`: 3, `@step("derive"`: 3, "@sink(": 3, "@dlq(": 1, `name="s2"`: 1, `from="s2"`: 1} {
		if got := strings.Count(text, what); got != n {
			t.Errorf("%d × %s, should be %d", got, what, n)
		}
	}
}
