package kconfig

import (
	"strings"
	"testing"
)

func whole() string {
	var b strings.Builder
	b.WriteString("# Linux/x86 6.1 Kernel Configuration\n")
	for _, o := range Required() {
		b.WriteString(o.Name + "=" + o.Value + "\n")
	}
	return b.String()
}

func TestMissing(t *testing.T) {
	for _, tc := range []struct {
		name, old, now, want string
	}{
		{"nothing", "", "", ""},
		{"built in where a module is enough", "CONFIG_VETH=m", "CONFIG_VETH=y", ""},
		{"a module where it must be built in", "CONFIG_IPV6=y", "CONFIG_IPV6=m", "CONFIG_IPV6=y (is m, needed for addresses of slices)"},
		{"switched off", "CONFIG_MEMCG=y", "# CONFIG_MEMCG is not set", "CONFIG_MEMCG=y (is n, needed for memory limits)"},
		{"another of that beginning", "CONFIG_NF_TABLES=m", "CONFIG_NF_TABLES_X=m", "CONFIG_NF_TABLES=m (is n, needed for network policy)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := strings.Replace(whole(), tc.old+"\n", tc.now+"\n", 1)
			if got := strings.Join(Missing(text, Required()), "\n"); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func FuzzMissing(f *testing.F) {
	f.Add(whole())
	f.Add("CONFIG_MEMCG")
	f.Add("=\n=y\nCONFIG_=\x00")
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range Missing(text, Required()) {
			name, _, _ := strings.Cut(m, "=")
			if !strings.Contains(m, "needed for") || !strings.HasPrefix(name, "CONFIG_") {
				t.Errorf("%q", m)
			}
		}
	})
}
