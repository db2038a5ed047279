package host

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
)

// debian is the files of a host that can be a node.
func debian() map[string]string {
	return map[string]string{
		"run/systemd/system/x":                         "",
		"sys/fs/cgroup/cgroup.controllers":             "cpuset cpu io memory hugetlb pids rdma misc\n",
		"proc/sys/kernel/osrelease":                    "6.1.0-56-cloud-amd64\n",
		"proc/sys/user/max_user_namespaces":            "15000\n",
		"proc/self/ns/user":                            "",
		"proc/sys/net/ipv6/conf/all/disable_ipv6":      "0\n",
		"sys/class/watchdog/watchdog0/state":           "active\n",
		"etc/nftables.conf":                            "#!/usr/sbin/nft -f\n\nflush ruleset\n",
		"etc/systemd/system/multi-user.target.wants/x": "",
	}
}

// tree writes files, changed by those of change; "-" removes one.
func tree(t *testing.T, change map[string]string) string {
	t.Helper()
	root := t.TempDir()
	files := debian()
	maps.Copy(files, change)
	for name, text := range files {
		if text == "-" {
			continue
		}
		f := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change map[string]string
		want   string // words of the only sentence; "": none
	}{
		{"Debian 12", nil, ""},
		{"not systemd", map[string]string{"run/systemd/system/x": "-"}, "is not systemd"},
		{"container", map[string]string{"run/systemd/container": "lxc\n"}, "a container (lxc)"},
		{"cgroup v1", map[string]string{"sys/fs/cgroup/cgroup.controllers": "-", "sys/fs/cgroup/memory/cgroup.procs": ""}, "has cgroup v1"},
		{"hybrid", map[string]string{"sys/fs/cgroup/cgroup.controllers": "-", "sys/fs/cgroup/unified/cgroup.controllers": ""}, "(hybrid)"},
		{"no memory controller", map[string]string{"sys/fs/cgroup/cgroup.controllers": "cpu pids\n"}, "no controller memory"},
		{"old kernel", map[string]string{"proc/sys/kernel/osrelease": "5.10.0-28-amd64\n"}, `"5.10.0-28-amd64"`},
		{"user namespaces off", map[string]string{"proc/sys/user/max_user_namespaces": "0\n"}, "max_user_namespaces is 0"},
		{"no user namespaces", map[string]string{"proc/self/ns/user": "-"}, "no user namespaces"},
		{"IPv6 off", map[string]string{"proc/sys/net/ipv6/conf/all/disable_ipv6": "1\n"}, "IPv6 is switched off"},
		{"no IPv6", map[string]string{"proc/sys/net/ipv6/conf/all/disable_ipv6": "-"}, "IPv6 is switched off"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Refusals(tree(t, tt.change))
			if tt.want == "" {
				if len(got) != 0 {
					t.Errorf("%+v", got)
				}
				return
			}
			if len(got) != 1 || !strings.Contains(got[0].Sentence, tt.want) || got[0].Hint == "" || got[0].Name == "" {
				t.Errorf("got %+v, want one with %q", got, tt.want)
			}
		})
	}
}

func TestFlags(t *testing.T) {
	const enabled = "etc/systemd/system/sysinit.target.wants/nftables.service"
	for _, tt := range []struct {
		name   string
		change map[string]string
		kept   bool
		want   []string // names beside "a machine of its own"
	}{
		{"the best there is", nil, true, nil},
		{"no watchdog device", map[string]string{"sys/class/watchdog/watchdog0/state": "-"}, true, []string{"hardware watchdog"}},
		{"a watchdog nobody arms", map[string]string{"sys/class/watchdog/watchdog0/state": "inactive\n"}, true, []string{"hardware watchdog"}},
		{"nobody keeps the clock", nil, false, []string{"clock"}},
		{"a firewall that flushes", map[string]string{enabled: ""}, true, []string{"firewall"}},
		{"a firewall that does not", map[string]string{enabled: "", "etc/nftables.conf": "# flush ruleset\ntable inet filter {}\n"}, true, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var names []string
			for _, l := range Flags(tree(t, tt.change), tt.kept) {
				if l.Sentence == "" || l.Hint == "" {
					t.Errorf("%+v", l)
				}
				names = append(names, l.Name)
			}
			if want := append([]string{"a machine of its own"}, tt.want...); !slices.Equal(names, want) {
				t.Errorf("got %q, want %q", names, want)
			}
		})
	}
}

func TestOldKernel(t *testing.T) {
	for release, want := range map[string]string{
		"6.1.0-56-cloud-amd64": "new", "5.14.0": "new", "5.14-rc1": "new", "5.13.19": "old", "4.19.0-27-amd64": "old", "10.0": "new",
		"": "no release", "next": "no release", "6": "no release", "6.x": "no release", "99999999999999999999.1": "no release",
	} {
		got := "new"
		old, err := OldKernel(release)
		if old {
			got = "old"
		}
		if err != nil {
			got = "no release"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", release, got, want)
		}
	}
}

func FuzzOldKernel(f *testing.F) {
	f.Add("6.1.0-56-cloud-amd64")
	f.Add("-1.-1")
	f.Fuzz(func(t *testing.T, s string) {
		if old, err := OldKernel(s); err != nil && (old || !errors.Is(err, errs.Invalid)) {
			t.Errorf("%q: %v, %v", s, old, err)
		}
	})
}

func TestCheckProgram(t *testing.T) {
	if err := CheckProgram("/bin/true"); err != nil && os.Geteuid() == 0 {
		t.Errorf("a program of root's: %v", err)
	}
	mine := filepath.Join(t.TempDir(), "runink") // below a folder that all may write to
	if err := os.WriteFile(mine, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := CheckProgram(mine); !errors.Is(err, errs.Denied) || errs.HintOf(err) == "" {
		t.Errorf("below a folder of everybody's: %v", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/bin/true", link); err != nil {
		t.Fatal(err)
	}
	if err := CheckProgram(filepath.Join(filepath.Dir(mine), "none")); !errors.Is(err, errs.NotFound) {
		t.Errorf("no file: %v", err)
	}
}
