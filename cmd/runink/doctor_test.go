package main

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/kconfig"
	"github.com/runink/runink/slice/keeper"
)

func TestDoctorsKernel(t *testing.T) {
	for release, want := range map[string]string{
		"6.1.0-28-cloud-amd64": checkOK, "5.14.0": checkOK, "5.13.19": checkLacking, "4.19.0-27-amd64": checkLacking,
		"": checkUnknown, "next": checkUnknown, "99999999999999999999.1": checkUnknown,
	} {
		if got := checkKernel(release); got.Result != want || want != checkOK && got.Next == "" {
			t.Errorf("%q: %+v", release, got)
		}
	}
}

func TestDoctorsKernelOptions(t *testing.T) {
	var whole strings.Builder
	for _, o := range kconfig.Required() {
		if o.Host { // what only an image needs is not asked of a host
			whole.WriteString(o.Name + "=" + o.Value + "\n")
		}
	}
	zipped := func(text string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	without := strings.Replace(whole.String(), "CONFIG_USER_NS=y", "# CONFIG_USER_NS is not set", 1)
	for _, tc := range []struct {
		name, file, text, result, why string
	}{
		{"in /boot", "boot/config-6.1", whole.String(), checkOK, "/boot/config-6.1"},
		{"in /proc", "proc/config.gz", zipped(whole.String()), checkOK, "/proc/config.gz"},
		{"lacking", "boot/config-6.1", without, checkLacking, "CONFIG_USER_NS=y (is n, needed for slices)"},
		{"lacking in /proc", "proc/config.gz", zipped(without), checkLacking, "CONFIG_USER_NS"},
		{"of another kernel", "boot/config-5.10", whole.String(), checkUnknown, "neither"},
		{"no gzip", "proc/config.gz", "hello", checkUnknown, "config.gz"},
		{"cut off", "proc/config.gz", zipped(whole.String())[:40], checkUnknown, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			path := filepath.Join(root, tc.file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(tc.text), 0o644); err != nil {
				t.Fatal(err)
			}
			got := checkKernelConfig(root, "6.1")
			if got.Result != tc.result || !strings.Contains(got.Why, tc.why) || got.Result != checkOK && got.Next == "" {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestDoctorsIsolation(t *testing.T) {
	results := func(all []finding) map[string]string {
		out := map[string]string{}
		for _, f := range all {
			out[f.Name] = f.Result
		}
		return out
	}
	lack := func(what string) keeper.Lack {
		return keeper.Lack{What: what, Sentence: what + " is not kept", Hint: "mend " + what}
	}
	for _, tc := range []struct {
		name  string
		lacks []keeper.Lack
		root  bool
		node  bool
		want  map[string]string // of those that are not ok
	}{
		{"an appliance", nil, true, false, map[string]string{}},
		{"no controller", []keeper.Lack{lack("memory")}, true, false, map[string]string{"memory limits": checkLacking}},
		{"no cgroup v2", []keeper.Lack{lack("cgroup")}, true, false, map[string]string{
			"cgroup v2": checkLacking, "CPU limits": checkUnknown, "memory limits": checkUnknown, "process limits": checkUnknown, "killing a slice whole": checkUnknown,
		}},
		{"a plain user", []keeper.Lack{lack("users"), lack("network")}, false, false, map[string]string{"a user for each slice": checkUnknown, "a network for each slice": checkUnknown}},
		{"root of a container", []keeper.Lack{lack("users")}, true, false, map[string]string{"a user for each slice": checkLacking}},
		{"a host that is no node", []keeper.Lack{lack("watchdog")}, true, false, map[string]string{"fencing past the keeper": checkUnknown}},
		{"a host with its watchdog", nil, true, true, map[string]string{}},
		{"a host without", []keeper.Lack{lack("watchdog")}, true, true, map[string]string{"fencing past the keeper": checkLacking}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			all := isolationChecks(tc.lacks, tc.root, tc.node)
			for name, got := range results(all) {
				want, bad := tc.want[name]
				if !bad {
					want = checkOK
				}
				if got != want {
					t.Errorf("%s: %s, want %s", name, got, want)
				}
			}
			for _, f := range all {
				if f.Result == checkLacking && f.Next == "" {
					t.Errorf("%s has no next step", f.Name)
				}
			}
		})
	}
}

func TestDoctorsClocks(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		name   string
		state  int
		status int32
		err    error
		want   string
	}{
		{"kept", unix.TIME_OK, 0, nil, checkOK},
		{"kept, a leap second comes", unix.TIME_INS, 0, nil, checkOK},
		{"by nobody", unix.TIME_ERROR, unix.STA_UNSYNC, nil, checkUnknown},
		{"not allowed to ask", -1, 0, unix.EPERM, checkUnknown},
	} {
		if got := clockCheck(tc.state, tc.status, tc.err, now); got.Result != tc.want {
			t.Errorf("%s: %+v", tc.name, got)
		}
	}
	for _, tc := range []struct {
		name   string
		theirs time.Time
		offset string
		want   string
	}{
		{"the same", now, "", checkOK},
		{"within the question", now.Add(time.Second), "", checkOK},
		{"a little behind", now.Add(-30 * time.Second), "", checkOK},
		{"behind", now.Add(-2 * time.Minute), "", checkLacking},
		{"ahead", now.Add(time.Hour), "", checkLacking},
		{"ahead on purpose", now.Add(time.Hour), "1h", checkOK},
	} {
		if got := skewCheck(tc.theirs, now, now.Add(2*time.Second), tc.offset); got.Result != tc.want {
			t.Errorf("%s: %+v", tc.name, got)
		}
	}
	cert := &x509.Certificate{NotBefore: now, NotAfter: now.Add(24 * time.Hour)}
	for at, want := range map[time.Duration]string{-time.Hour: checkLacking, time.Hour: checkOK, 23 * time.Hour: checkUnknown, 25 * time.Hour: checkLacking} {
		if got := expiry("certificate", cert, now.Add(at), "renew it"); got.Result != want || want != checkOK && got.Next == "" {
			t.Errorf("after %s: %+v", at, got)
		}
	}
}

func TestDoctorsGo(t *testing.T) {
	for version, want := range map[string]string{"go1.26.0": checkOK, "go1.27rc1": checkOK, "go2.0": checkOK, "go1.9": checkLacking, "go1.25.4": checkLacking, "devel go1.27-abc": checkUnknown} {
		if got := goVersionCheck(finding{Result: checkLacking, Next: "install"}, version); got.Result != want {
			t.Errorf("%s: %+v", version, got)
		}
	}
	t.Setenv("PATH", t.TempDir())
	for _, f := range append(checkPipelines(t.Context(), nil), checkMachines(t.Context(), nil)...) {
		if (f.Name == "Go" || f.Name == "QEMU") && (f.Result != checkLacking || f.Next == "") {
			t.Errorf("without it: %+v", f)
		}
	}
}

func TestDoctorsNode(t *testing.T) {
	leader := &v1.ClusterStatusResponse{AnsweredBy: "n1", Version: "v1", ImageDigest: "sha256:aa"}
	well := func() *v1.Node {
		return &v1.Node{
			Name: "n2", Role: "worker", State: "ready", BootId: "b", Version: "v1", ImageDigest: "sha256:aa",
			Capacity: &v1.Resources{MilliCpu: 2000, Memory: 1 << 30}, Allocated: &v1.Resources{},
		}
	}
	for _, tc := range []struct {
		name   string
		change func(*v1.Node)
		check  string // the only one that is not ok
		result string
	}{
		{"well", func(*v1.Node) {}, "", ""},
		{"lost", func(n *v1.Node) { n.State = "lost" }, "state", checkLacking},
		{"drained", func(n *v1.Node) { n.State, n.DrainReason = "drained", "new disk" }, "state", checkLacking},
		{"unhealthy", func(n *v1.Node) { n.State = "unhealthy" }, "state", checkLacking},
		{"not enforced", func(n *v1.Node) { n.NotEnforced = []string{"memory limits of slices: no controller"} }, "memory limits of slices", checkLacking},
		{"boots nobody", func(n *v1.Node) { n.Failing = []string{"network boot: no medium"} }, "network boot", checkLacking},
		{"another image", func(n *v1.Node) { n.ImageDigest = "sha256:bb" }, "version", checkUnknown},
		{"no room", func(n *v1.Node) { n.Capacity = nil }, "capacity", checkLacking},
		{"a control node offers none", func(n *v1.Node) { n.Role, n.Capacity = "control", nil }, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := well()
			tc.change(n)
			for _, f := range nodeChecks(n, leader) {
				switch {
				case f.Name == tc.check && (f.Result != tc.result || f.Next == ""):
					t.Errorf("got %+v", f)
				case f.Name != tc.check && f.Result != checkOK:
					t.Errorf("got %+v", f)
				}
			}
		})
	}
}

// TestDoctorLooksAtThisMachine: whatever it finds here, it says of each thing what, and its
// exit status is what it printed.
func TestDoctorLooksAtThisMachine(t *testing.T) {
	t.Setenv(envConfig, filepath.Join(t.TempDir(), "config.json"))
	t.Setenv(envContext, "")
	out, err := cli(t, "", "doctor", "-o", "json")
	var got struct {
		Checks  []finding
		Lacking int
	}
	if jerr := json.Unmarshal([]byte(out), &got); jerr != nil {
		t.Fatalf("%v\n%s", jerr, out)
	}
	if (err != nil) != (got.Lacking > 0) || err != nil && exitCode(err) != exitFailed {
		t.Errorf("%d lacking, and %v", got.Lacking, err)
	}
	groups := map[string]int{}
	for _, f := range got.Checks {
		groups[f.For]++
		if f.Name == "" || f.Why == "" || f.Result == checkLacking && f.Next == "" {
			t.Errorf("%+v does not say enough", f)
		}
	}
	if groups["node"] < 10 || groups["pipelines"] != 2 || groups["machines"] != 2 || groups["cluster"] != 1 {
		t.Errorf("checks: %v", groups)
	}
	if out, err := cli(t, "", "doctor", "--for", "pipelines"); err != nil || strings.Contains(out, "cgroup") || !strings.Contains(out, "go1.") {
		t.Errorf("for pipelines: %v\n%s", err, out)
	}
	for _, args := range [][]string{{"--for", "moon"}, {"--for", "node", "--node", "n1"}} {
		if _, err := cli(t, "", append([]string{"doctor"}, args...)...); exitCode(err) != exitUsage {
			t.Errorf("%v: %v", args, err)
		}
	}
	if found("x", "", errors.New("why")).Result != checkLacking {
		t.Error("an error is no finding")
	}
}
