package agent

import (
	"os"
	"testing"
	"time"
)

// Runs share inputs: one that begins must not look to another like a change of its input.
func TestCacheLeavesBlobsInUseAsTheyAre(t *testing.T) {
	c := newCache(t, "")
	data, n := []byte("row\n"), 0
	open := func() (*os.File, os.FileInfo) {
		f, err := c.open(t.Context(), digestOf(data), from(data, &n))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		fi, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		return f, fi
	}
	first, was := open()
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(first.Name(), long, was.ModTime()); err != nil {
		t.Fatal(err)
	}
	open()
	is, err := first.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if !is.ModTime().Equal(was.ModTime()) {
		t.Errorf("modified %s, after another opened it %s", was.ModTime(), is.ModTime())
	}
	if used := lastUse(is); used.Before(long.Add(time.Minute)) {
		t.Errorf("last used %s: the second use was not noted", used)
	}
}
