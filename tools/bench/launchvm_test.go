package main

import (
	"strings"
	"testing"
	"time"
)

func TestReadGuest(t *testing.T) {
	const good = "starting\nresults: [{\"name\":\"launch/limits/gone\",\"value\":2,\"unit\":\"ms\"}]\nend\n"
	for name, c := range map[string]struct {
		out string
		bad string
	}{
		"results": {good, ""},
		"none":    {"runc: no such file\n", "runc: no such file"},
		"empty":   {"results: []\n", "no results"},
		"cut":     {"results: [{\"name\":\n", "results of the machine"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readGuest(c.out)
			if c.bad == "" {
				if err != nil || len(got) != 1 || got[0].Name != "launch/limits/gone" || got[0].Value != 2 {
					t.Errorf("%+v, %v", got, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestProcessorTime(t *testing.T) {
	for name, c := range map[string]struct {
		stat string
		want time.Duration
	}{
		"with a name of words": {"7 (a) b) S 1 7 7 0 -1 4194560 100 200 0 0 11 22 33 44 20 0", 1100 * time.Millisecond},
		"cut":                  {"7 (a) S 1 7 7 0 -1 4194560 100 200 0 0 11 22 33", -1},
		"no number":            {"7 (a) S 1 7 7 0 -1 4194560 100 200 0 0 11 x 33 44 20 0", -1},
		"empty":                {"", -1},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := processorTime([]byte(c.stat))
			if c.want < 0 && err == nil || c.want >= 0 && (err != nil || got != c.want) {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
}

func TestSpecWithLimits(t *testing.T) {
	out, err := forProgram([]byte(`{"process":{},"linux":{"resources":{"devices":[{"allow":false}]}}}`), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"memory":{"limit":67108864}`, `"period":100000`, `"quota":100000`, `"pids":{"limit":256}`, `"cgroupsPath":"/runink-bench-peer"`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s lacks %s", out, want)
		}
	}
	if strings.Contains(string(out), "devices") {
		t.Errorf("%s has device rules", out)
	}
}

func TestIsolationWithLimits(t *testing.T) {
	for name, c := range map[string]struct {
		missing []string
		limits  bool
		end     string
	}{
		"nothing missing":   {nil, true, "limits of memory, CPU and processes by cgroup v2"},
		"only the watchdog": {[]string{"fencing past the keeper"}, true, "not enforced here: fencing past the keeper"},
		"no memory limit":   {[]string{"memory limits of slices: no controller at " + cgroupMount + "/x"}, false, "not enforced here: memory limits of slices: no controller"},
	} {
		t.Run(name, func(t *testing.T) {
			got := isolation(c.missing)
			if !strings.HasSuffix(got, c.end) || strings.Contains(got, "limits of memory, CPU and processes") != c.limits {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestLibraries(t *testing.T) {
	if path, err := findLibrary("libc.so.6"); err != nil || !strings.HasSuffix(path, "/libc.so.6") {
		t.Errorf("%q, %v", path, err)
	}
	if _, err := findLibrary("libnone.so.0"); err == nil || !strings.Contains(err.Error(), "libnone.so.0") {
		t.Errorf("%v", err)
	}
}
