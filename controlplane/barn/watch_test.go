package barn

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/runink/runink/internal/errs"
)

func next(t *testing.T, w *Watcher) []Event {
	t.Helper()
	evs, _, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return evs
}

func describe(evs []Event) string {
	var sb strings.Builder
	for _, e := range evs {
		if e.Deleted {
			fmt.Fprintf(&sb, "-%s ", e.Key)
		} else {
			fmt.Fprintf(&sb, "%s=%s ", e.Key, e.Value.Data)
		}
	}
	return strings.TrimSpace(sb.String())
}

func TestWatch(t *testing.T) {
	c := newCluster(t, 3, testScale)
	l := c.leader(nil).barn()
	must(t, l, cmd("quiet", "a/1=x"))
	v, err := l.View(t.Context(), Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	w, err := l.Watch(t.Context(), "a/", v.Cursor())
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan []Event)
	go func() {
		evs, _, _ := w.Next(t.Context()) // waits
		got <- evs
	}()
	must(t, l, cmd("quiet", "b/1=other"))
	must(t, l, cmd("quiet", "a/1=y"))
	if d := describe(<-got); d != "a/1=y" {
		t.Fatalf("got %s", d)
	}
	must(t, l, cmd("del", "a/1"))
	must(t, l, cmd("del", "a/none")) // no change, no event
	last := must(t, l, cmd("quiet", "a/2=z")).Index
	evs := next(t, w)
	for describe(evs) != "-a/1 a/2=z" && len(evs) < 2 {
		evs = append(evs, next(t, w)...)
	}
	if d := describe(evs); d != "-a/1 a/2=z" {
		t.Fatalf("got %s", d)
	}

	// The same cursors work on every replica, also on one that is behind.
	for _, n := range c.nodes {
		r, err := n.barn().Watch(t.Context(), "a/", evs[0].Cursor)
		if err != nil {
			t.Fatal(err)
		}
		if d := describe(next(t, r)); d != "a/2=z" {
			t.Errorf("%s resumed with %s", n.id, d)
		}
	}
	ahead, err := l.Watch(t.Context(), "a/", Cursor{Index: last + 2})
	if err != nil {
		t.Fatal(err)
	}
	must(t, l, cmd("quiet", "a/3=early"))
	must(t, l, cmd("quiet", "a/3=early"))
	must(t, l, cmd("quiet", "a/3=late"))
	if d := describe(next(t, ahead)); d != "a/3=late" {
		t.Errorf("a cursor ahead of the replica resumed with %s", d)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := ahead.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	done := make(chan error)
	go func() { _, _, err := ahead.Next(t.Context()); done <- err }()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrClosed) || !errors.Is(err, errs.Unavailable) {
		t.Errorf("closed: %v", err)
	}
	if _, err := l.Watch(t.Context(), "", Cursor{}); !errors.Is(err, ErrClosed) {
		t.Errorf("a watch on a closed barn: %v", err)
	}
}

func TestWatchAfterRestartIsCompacted(t *testing.T) {
	dir := t.TempDir()
	b := single(t, testConfig(t, "n1", dir))
	r := must(t, b, cmd("quiet", "a=1"))
	must(t, b, cmd("quiet", "a=2"))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = single(t, testConfig(t, "n1", dir))
	_, err := b.Watch(t.Context(), "", Cursor{Index: r.Index, Seq: 0})
	if !errors.Is(err, ErrCompacted) || !errors.Is(err, errs.Conflict) || errs.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

// TestRing compares the ring with a list of all events, under both of its bounds.
func TestRing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRing(0)
		var all []Event
		index := uint64(0)
		big := rapid.Bool().Draw(rt, "large values")
		batches := rapid.IntRange(1, 40).Draw(rt, "batches")
		for range batches {
			index++
			n := rapid.IntRange(0, 4000).Draw(rt, "events")
			size := 0
			if big {
				n, size = n/400, ringBytes/25
			}
			var evs []Event
			for s := range n {
				evs = append(evs, Event{Key: fmt.Sprintf("%d", s%3), Value: Value{Data: make([]byte, size)}, Cursor: Cursor{index, uint32(s)}})
			}
			r.append(evs, index)
			all = append(all, evs...)
			if r.n > ringEvents || r.bytes > ringBytes {
				rt.Fatalf("holds %d events of %d bytes", r.n, r.bytes)
			}
		}
		kept := all[len(all)-r.n:]
		if !big && r.n < min(len(all), ringEvents) {
			rt.Fatalf("keeps %d of %d", r.n, len(all))
		}
		for range 10 {
			from := Cursor{}
			if len(all) > 0 {
				from = all[rapid.IntRange(0, len(all)-1).Draw(rt, "from")].Cursor
			}
			_, ok := r.accepts(from)
			evs, _, _, ok2 := r.after(from, "1", 0, 1<<30)
			oldest := len(kept) == len(all) || !from.Before(all[len(all)-r.n-1].Cursor)
			if ok != ok2 || ok != oldest {
				rt.Fatalf("cursor %s: accepted %v, read %v, want %v", from, ok, ok2, oldest)
			}
			if !ok {
				continue
			}
			want := 0
			for _, e := range kept {
				if from.Before(e.Cursor) && e.Key == "1" {
					if want >= len(evs) || evs[want].Cursor != e.Cursor {
						rt.Fatalf("after %s: event %d is not %s", from, want, e.Cursor)
					}
					want++
				}
			}
			if want != len(evs) {
				rt.Fatalf("after %s: %d events, want %d", from, len(evs), want)
			}
		}
	})
}

func TestNextReturnsLargeBacklogsInParts(t *testing.T) {
	r := newRing(0)
	var evs []Event
	for i := range 2*eventBatch + 5 {
		evs = append(evs, Event{Key: "k", Cursor: Cursor{1, uint32(i)}})
	}
	r.append(evs, 1)
	w := &Watcher{ring: r, prefix: "k"}
	total := 0
	for _, want := range []int{eventBatch, eventBatch, 5} {
		got := next(t, w)
		if len(got) != want || got[0].Cursor.Seq != uint32(total) {
			t.Fatalf("%d events from %s, want %d", len(got), got[0].Cursor, want)
		}
		total += want
	}
}

func FuzzParseCursor(f *testing.F) {
	for _, s := range []string{"", "0.0", "12.4294967295", "1", "1.", ".1", "-1.2", "1.4294967296", "18446744073709551615.1", "1.2.3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCursor(s)
		if err != nil {
			if !errors.Is(err, errs.Invalid) {
				t.Fatal(err)
			}
			return
		}
		if back, err := ParseCursor(c.String()); err != nil || back != c {
			t.Fatalf("%q: %v became %v, %v", s, c, back, err)
		}
	})
}
