package procmem

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       int64
		err        string
	}{
		{"a kernel's", "00400000-7ffd ---p 00000000 00:00 0 [rollup]\nRss:  9 kB\nPss:            1234 kB\nPss_Dirty:  1 kB\n", 1234 << 10, ""},
		{"nothing held", "Pss: 0 kB\n", 0, ""},
		{"no such line", "Rss: 1 kB\n", 0, "no line Pss"},
		{"empty", "", 0, "no line Pss"},
		{"no number", "Pss: many kB\n", 0, "no size"},
		{"negative", "Pss: -1 kB\n", 0, "no size"},
		{"too large", "Pss: 99999999999999999999 kB\n", 0, "no size"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parse(tc.text)
			if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%d, %v", got, err)
			}
		})
	}
}

func TestHeld(t *testing.T) {
	if n, err := Held("/proc", os.Getpid()); err != nil || n < 1<<20 {
		t.Errorf("this process holds %d bytes, %v", n, err)
	}
	if _, err := Held(t.TempDir(), 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no process: %v", err)
	}
}
