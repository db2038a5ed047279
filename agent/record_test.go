package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/slice/keeper"
)

// What was saved is what the next agent reads, however far the one before came with the next.
func TestRecordSurvivesItsAgent(t *testing.T) {
	steps := []func(*record){
		func(r *record) { r.Assignment = []byte(`{"herd":"h"}`) },
		func(r *record) {
			r.Progress = &slicechan.Progress{Counts: map[string]slicechan.Count{"a": {In: 1}, "b": {In: 2}}}
			r.Done = &slicechan.Done{Counts: map[string]slicechan.Count{"a": {In: 3}}}
		},
		func(r *record) { r.Done = &slicechan.Done{Counts: map[string]slicechan.Count{"b": {In: 4}}} },
		func(r *record) { r.Dropped = "not wanted" },
		func(r *record) { r.Exit = &keeper.Exit{Code: 3, Ended: time.Unix(7, 0).UTC()}; r.Stored = true },
	}
	one := &attempt{dir: t.TempDir()}
	path := filepath.Join(one.dir, recordFile)
	for i, step := range steps {
		before, err := os.ReadFile(path)
		if err != nil && i > 0 {
			t.Fatal(err)
		}
		was := one.saved
		if err := one.update(step); err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for n := len(before); n <= len(after); n++ { // cut off anywhere in what this step wrote
			want := was
			if n >= len(after)-1 { // whole, with its line's end or without
				want = one.rec
			}
			if err := os.WriteFile(path, after[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			next := &attempt{dir: one.dir}
			switch err := next.load(); {
			case n < len(after)-1 && i == 0:
				if !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("step %d cut at %d: %v", i, n, err)
				}
				continue
			case err != nil:
				t.Fatalf("step %d cut at %d: %v", i, n, err)
			}
			if d := cmp.Diff(want, next.rec); d != "" {
				t.Fatalf("step %d cut at %d: %s", i, n, d)
			}
			// It goes on from there, whatever was left behind.
			if err := next.update(func(r *record) { r.Fail = &slicechan.Fail{Message: "later"} }); err != nil {
				t.Fatal(err)
			}
			third := &attempt{dir: one.dir}
			if err := third.load(); err != nil {
				t.Fatalf("step %d cut at %d, gone on: %v", i, n, err)
			}
			if d := cmp.Diff(next.rec, third.rec); d != "" {
				t.Fatalf("step %d cut at %d, gone on: %s", i, n, d)
			}
		}
		if err := os.WriteFile(path, after, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A record that is begun again leaves nothing of the one before.
func TestRecordBeginsAgain(t *testing.T) {
	dir := t.TempDir()
	for _, herd := range []string{"a-long-name-of-a-herd", "h"} {
		a := &attempt{dir: dir}
		if err := a.update(func(r *record) { r.Assignment = []byte(`{"herd":"` + herd + `"}`) }); err != nil {
			t.Fatal(err)
		}
		next := &attempt{dir: dir}
		if err := next.load(); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(a.rec, next.rec); d != "" {
			t.Error(d)
		}
	}
}

// A slice says its last word once. Whatever else it sends takes no room on the node's disk.
func TestLastWordIsTheFirst(t *testing.T) {
	a := &attempt{dir: t.TempDir()}
	want := &slicechan.Fail{Message: "first"}
	var size int64
	for i := range 100 {
		up := &slicechan.Up{Seq: uint64(i), Fail: want}
		if i > 0 {
			up.Fail = &slicechan.Fail{Message: strings.Repeat("x", i)}
		}
		if i%2 == 1 {
			up = &slicechan.Up{Seq: uint64(i), Done: &slicechan.Done{}}
		}
		if err := a.handle(up); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(filepath.Join(a.dir, recordFile))
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && st.Size() != size {
			t.Fatalf("message %d: the record has %d bytes, was %d", i, st.Size(), size)
		}
		size = st.Size()
	}
	if a.rec.Fail != want || a.rec.Done != nil {
		t.Errorf("the record says %+v, %+v", a.rec.Fail, a.rec.Done)
	}
}

func TestRecordOfOtherMaking(t *testing.T) {
	for _, c := range []struct {
		name, text string
		exit       int // of the record read
		err        error
	}{
		{"in one piece, as agents wrote it before", `{"assignment":{"herd":"h"},"exit":{"reason":"exited","code":5}}`, 5, nil},
		{"empty", ``, 0, fs.ErrNotExist},
		{"the beginning of a line", `{"assignment":{"he`, 0, fs.ErrNotExist},
		{"no record", `never mind`, 0, errs.Corrupt},
		{"another type", `{"exit":7}` + "\n", 0, errs.Corrupt},
		{"damaged behind a line", `{"assignment":{}}` + "\n\x00\x00\x00\x00", 0, errs.Corrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &attempt{dir: t.TempDir()}
			if err := os.WriteFile(filepath.Join(a.dir, recordFile), []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			err := a.load()
			if !errors.Is(err, c.err) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if err == nil && a.rec.Exit.Code != c.exit {
				t.Errorf("exit %+v", a.rec.Exit)
			}
		})
	}
}

// FuzzRecord: whatever a disk holds, an agent says what is wrong with it or goes on from it.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"assignment":{"herd":"h"}}` + "\n" + `{"exit":{"reason":"exited"}}` + "\n"))
	f.Add([]byte(`{"assignment":{}}{"done":{"parts":[]}}` + "\n" + `{"exi`))
	f.Fuzz(func(t *testing.T, text []byte) {
		a := &attempt{dir: t.TempDir()}
		if err := os.WriteFile(filepath.Join(a.dir, recordFile), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if a.load() != nil {
			return
		}
		if err := a.update(func(r *record) { r.Dropped += "x" }); err != nil {
			t.Fatal(err)
		}
		b := &attempt{dir: a.dir}
		if err := b.load(); err != nil || b.rec.Dropped != a.rec.Dropped {
			t.Fatalf("%q read again: %v, dropped %q", text, err, b.rec.Dropped)
		}
	})
}
