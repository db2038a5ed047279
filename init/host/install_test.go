package host

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func someUnits() []Unit {
	return Units(UnitOptions{Binary: "/usr/local/bin/runink", Engine: "/usr/local/bin/runink-engine", TimeScale: 1})
}

// fake is a systemd that writes down what it is asked, and refuses what begins with refuse.
type fake struct {
	Systemd
	asked  []string
	refuse string
	on     bool
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{}
	f.Dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(f.Dir, "multi-user.target.wants"), 0o755); err != nil {
		t.Fatal(err)
	}
	f.Run = func(_ context.Context, args ...string) error {
		args = slices.DeleteFunc(args, func(s string) bool { return strings.HasPrefix(s, "--quiet") })
		f.asked = append(f.asked, strings.Join(args, " "))
		switch {
		case f.refuse != "" && strings.HasPrefix(strings.Join(args, " "), f.refuse):
			return errors.New("no")
		case args[0] == "is-enabled" && !f.on:
			return errors.New("disabled")
		case args[0] == "enable":
			f.on = true
		}
		return nil
	}
	return f
}

// files are the names of units that are there.
func (f *fake) files(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(f.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if !e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}

func TestInstallTwiceAndRemoveTwice(t *testing.T) {
	f := newFake(t)
	did, err := f.Install(t.Context(), someUnits())
	if err != nil || len(did) != 5 { // four files, and enabled
		t.Fatalf("%q, %v", did, err)
	}
	want := []string{
		"daemon-reload", "is-enabled runink-watchdog.service runink-keeper.service runink-agent.service",
		"enable runink-watchdog.service runink-keeper.service runink-agent.service",
		"start --no-block runink-watchdog.service runink-keeper.service runink-agent.service",
	}
	if !slices.Equal(f.asked, want) {
		t.Errorf("asked %q", f.asked)
	}
	f.asked = nil
	if did, err = f.Install(t.Context(), someUnits()); err != nil || len(did) != 0 {
		t.Errorf("again: %q, %v", did, err)
	}
	if slices.Contains(f.asked, "daemon-reload") || strings.Contains(strings.Join(f.asked, ";"), "restart") {
		t.Errorf("again: asked %q", f.asked)
	}
	f.asked = nil
	if did, err = f.Remove(t.Context()); err != nil || len(did) != 4 || len(f.files(t)) != 0 {
		t.Errorf("removed %q, %v; left %q", did, err, f.files(t))
	}
	want = []string{
		"disable --now runink-agent.service", "disable --now runink-keeper.service", "disable --now runink-watchdog.service",
		"stop runink.slice", "daemon-reload",
	}
	if !slices.Equal(f.asked, want) {
		t.Errorf("removing asked %q", f.asked)
	}
	f.asked = nil
	if did, err = f.Remove(t.Context()); err != nil || len(did) != 0 || len(f.asked) != 0 {
		t.Errorf("again: %q, %v, asked %q", did, err, f.asked)
	}
}

// A changed unit is written and said; nothing is restarted for it, which would end slices.
func TestInstallChanged(t *testing.T) {
	f := newFake(t)
	if _, err := f.Install(t.Context(), someUnits()); err != nil {
		t.Fatal(err)
	}
	f.asked = nil
	units := someUnits()
	units[2].Text += "# another\n"
	did, err := f.Install(t.Context(), units)
	if err != nil || len(did) != 2 || !strings.HasPrefix(did[0], "changed ") || !strings.Contains(did[1], "systemctl restart "+units[2].Name+" ") {
		t.Errorf("%q, %v", did, err)
	}
	for _, a := range f.asked {
		if strings.HasPrefix(a, "restart") || strings.HasPrefix(a, "stop") {
			t.Errorf("asked %q", a)
		}
	}
}

// What fails half-way leaves the files as they were.
func TestInstallThatFails(t *testing.T) {
	for _, refuse := range []string{"daemon-reload", "enable", "start"} {
		t.Run(refuse, func(t *testing.T) {
			f := newFake(t)
			const other = "# an administrator's\n"
			if err := os.WriteFile(filepath.Join(f.Dir, KeeperUnit), []byte(other), 0o644); err != nil {
				t.Fatal(err)
			}
			f.refuse = refuse
			if did, err := f.Install(t.Context(), someUnits()); err == nil {
				t.Errorf("no error, did %q", did)
			}
			got, err := os.ReadFile(filepath.Join(f.Dir, KeeperUnit))
			if err != nil || string(got) != other || len(f.files(t)) != 1 {
				t.Errorf("left %q; the keeper's unit is %q, %v", f.files(t), got, err)
			}
			if asked := strings.Join(f.asked, ";"); strings.Contains(asked, ";enable ") != strings.Contains(asked, ";disable ") {
				t.Errorf("asked %q", asked)
			}
		})
	}
}

// What differs between hosts is in the units, quoted, and no unit kills what it must not.
func TestUnits(t *testing.T) {
	by := map[string]string{}
	for _, u := range Units(UnitOptions{
		Binary: "/opt/run ink%/runink", Engine: "/opt/e$/runink-engine", Advertise: []string{"10.0.0.7", "fd00::7"}, Unenforced: true, TimeScale: 3,
	}) {
		by[u.Name] = u.Text
	}
	for name, want := range map[string][]string{
		KeeperUnit: {
			`ExecStart="/opt/run ink%%/runink" keeper --delegated --config /var/lib/runink/config.json --unenforced`,
			"Delegate=cpu memory pids", "Slice=runink.slice", "TimeoutStopSec=45\n", "WatchdogSec=90\n", "TasksMax=infinity",
		},
		AgentUnit: {
			`--engine /opt/e$$/runink-engine --advertise 10.0.0.7,fd00::7 --unenforced`, "Slice=runink.slice", "TimeoutStopSec=60\n",
		},
		WatchdogUnit: {`watchdog --config /var/lib/runink/config.json`, "OOMScoreAdjust=-1000", "Restart=always"},
		SliceUnit:    {"MemoryMin=256M", "MemorySwapMax=0"},
	} {
		for _, w := range want {
			if !strings.Contains(by[name], w) {
				t.Errorf("%s lacks %q:\n%s", name, w, by[name])
			}
		}
	}
	for _, bad := range []string{"PartOf=", "BindsTo=", "Requires="} {
		if strings.Contains(by[AgentUnit]+by[KeeperUnit], bad) {
			t.Errorf("a unit takes another along: %s", bad)
		}
	}
}

// systemd itself reads them.
func TestUnitsAreWellFormed(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("no systemd-analyze here; the units are loaded by systemd in TestJoinUnderSystemd of tools/e2e/systemd")
		return
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no", "--recursive-errors=no"}
	for _, u := range Units(UnitOptions{Binary: "/bin/true", Engine: "/bin/true", TimeScale: 1}) {
		f := filepath.Join(dir, u.Name)
		if err := os.WriteFile(f, []byte(u.Text), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, f)
	}
	if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
