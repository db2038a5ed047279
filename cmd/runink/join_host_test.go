package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/cobra"

	"github.com/runink/runink/init/host"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
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

// A join without flags does what the one before it was told; each flag counts for more, and a
// join that says which node this is forgets all of it.
func TestJoinRemembers(t *testing.T) {
	node := []string{"--node", "n4"}
	first := []string{"--advertise", "10.0.0.7,10.0.0.8", "--engine", "/opt/engine", "--unenforced"}
	for _, tt := range []struct {
		name     string
		earlier  []string // nil: there was none
		again    []string
		want     nodecfg.HostJoin
		engineIs string // of the units; empty: where it is looked for
	}{
		{"the first", nil, nil, nodecfg.HostJoin{}, ""},
		{"without flags", first, nil, nodecfg.HostJoin{Advertise: []string{"10.0.0.7", "10.0.0.8"}, Engine: "/opt/engine", Unenforced: true}, "/opt/engine"},
		{"another address", first, []string{"--advertise", "10.0.0.9"}, nodecfg.HostJoin{Advertise: []string{"10.0.0.9"}, Engine: "/opt/engine", Unenforced: true}, "/opt/engine"},
		{"no address any more", first, []string{"--advertise", ""}, nodecfg.HostJoin{Engine: "/opt/engine", Unenforced: true}, "/opt/engine"},
		{"enforced again", first, []string{"--unenforced=false"}, nodecfg.HostJoin{Advertise: []string{"10.0.0.7", "10.0.0.8"}, Engine: "/opt/engine"}, "/opt/engine"},
		{"as another node", first, node, nodecfg.HostJoin{}, ""},
		{"nothing was told", []string{}, nil, nodecfg.HostJoin{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "join.json")
			// join is what `runink join` does with its flags, up to the units.
			join := func(args []string) (nodecfg.HostJoin, host.UnitOptions) {
				t.Helper()
				var f nodeFlags
				var h hostFlags
				c := &cobra.Command{}
				f.add(c)
				h.add(c)
				err := c.ParseFlags(args)
				if err == nil {
					err = h.recall(c, &f, file)
				}
				var o host.UnitOptions
				if err == nil {
					o, err = h.options(&f, 1)
				}
				if err == nil {
					err = nodecfg.SaveHostJoin(file, h.told(o))
				}
				if err != nil {
					t.Fatal(err)
				}
				return h.told(o), o
			}
			if tt.earlier != nil {
				join(append(node, tt.earlier...))
			}
			for range 2 { // what was remembered stays so
				got, o := join(tt.again)
				if d := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); d != "" {
					t.Error(d)
				}
				if !slices.Equal(o.Advertise, tt.want.Advertise) || o.Unenforced != tt.want.Unenforced || tt.engineIs != "" && o.Engine != tt.engineIs {
					t.Errorf("the units are of %+v", o)
				}
			}
		})
	}
	t.Run("a file of somebody's", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "join.json")
		if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		err := (&hostFlags{}).recall(&cobra.Command{}, &nodeFlags{}, file)
		if !errors.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), file) || errs.HintOf(err) == "" {
			t.Errorf("got %v", err)
		}
	})
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

// A host whose node left is told what of it is still there.
func TestNoNode(t *testing.T) {
	for kept, want := range map[bool]string{true: "runink leave --purge", false: "nothing is to be removed"} {
		if err := noNode(kept); !errors.Is(err, errs.NotFound) || !strings.Contains(errs.HintOf(err), want) {
			t.Errorf("%t: %v; %s", kept, err, errs.HintOf(err))
		}
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
