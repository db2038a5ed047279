package main

import (
	"os"
	"strings"
	"testing"

	"github.com/runink/runink/init/host"
)

// What would be installed can be read first; nothing is asked for that.
func TestPrintUnits(t *testing.T) {
	out, stderr, status := runink(t, "", "join", "--print-units", "--engine", "/opt/engine", "--advertise", "10.0.0.7", "--timescale", "2")
	if status != exitOK {
		t.Fatalf("%d %s", status, stderr)
	}
	for _, want := range []string{
		"# /etc/systemd/system/" + host.KeeperUnit, "# /etc/systemd/system/" + host.SliceUnit, "Delegate=cpu memory pids",
		"--engine /opt/engine --advertise 10.0.0.7\n", "TimeoutStopSec=30\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// Each of these is refused before anything is looked at or changed.
func TestJoinHostRefusals(t *testing.T) {
	good := []string{"join", "--cluster", "c", "--node", "n", "--join", "127.0.0.1:1", "--ca", "sha256:" + strings.Repeat("a", 64)}
	for _, tc := range []struct {
		name string
		args []string
		want string
		root bool
	}{
		{"no node yet", []string{"join"}, "/var/lib/runink/config.json", false},
		{"a control node", append(good, "--role", "control+worker", "--token", "x"), "an ordinary host can only be a worker yet", true},
		{"another folder", append(good, "--state-dir", "/srv/runink"), "the units' state is in", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := tc.want
			if tc.root && os.Geteuid() != 0 {
				want = "this user is not root"
			}
			if _, stderr, status := runink(t, "", tc.args...); status == exitOK || !strings.Contains(stderr, want) {
				t.Errorf("%d %s, want %q", status, stderr, want)
			}
		})
	}
}

// A machine that is no node has nothing to leave.
func TestLeaveNothing(t *testing.T) {
	want, code := "this host is no node", exitNotFound
	if os.Geteuid() != 0 {
		want, code = "this user is not root", exitDenied
	}
	if _, stderr, status := runink(t, "", "leave"); status != code || !strings.Contains(stderr, want) {
		t.Errorf("%d %s", status, stderr)
	}
}

// What doctor says of a host has a next step wherever it is not ok.
func TestDoctorsHost(t *testing.T) {
	lack := host.Lack{Name: "clock", Sentence: "nobody keeps it", Hint: "start chrony"}
	all := hostChecks(nil, []host.Lack{lack})
	if len(all) != 2 || all[0].Result != checkOK || all[1].Result != checkUnknown || all[1].Why != lack.Sentence || all[1].Next != lack.Hint {
		t.Errorf("%+v", all)
	}
	all = hostChecks([]host.Lack{{Name: "cgroup v2", Sentence: "it has v1", Hint: "boot with v2"}}, nil)
	if len(all) != 1 || all[0].Result != checkLacking || all[0].Why != "it has v1" || all[0].Next != "boot with v2" {
		t.Errorf("%+v", all)
	}
}
