package barn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/runink/runink/internal/errs"
)

// testFSM is a state machine without Raft: entries are applied as they are given.
type testFSM struct {
	*fsm
	t    testing.TB
	next uint64
}

func openTestFSM(t testing.TB, reg *Registry, dir string) *testFSM {
	t.Helper()
	tb, err := openTables(dir, &Disk{})
	if err != nil {
		t.Fatal(err)
	}
	kv, applied, err := tb.load()
	if err != nil {
		t.Fatal(err)
	}
	h := newHealth(func(err error) { panic(err) }, testLogger(t))
	return &testFSM{newFSM(reg, testLogger(t), tb, h, kv, applied), t, applied + 1}
}

func newTestFSM(t testing.TB, reg *Registry) *testFSM {
	f := openTestFSM(t, reg, t.TempDir())
	t.Cleanup(func() {
		if err := f.tables.close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *testFSM) entries(cmds ...Command) []*raft.Log {
	f.t.Helper()
	var logs []*raft.Log
	for _, c := range cmds {
		data, err := c.encode()
		if err != nil {
			f.t.Fatal(err)
		}
		logs = append(logs, &raft.Log{Index: f.next, Type: raft.LogCommand, Data: data})
		f.next++
	}
	return logs
}

// apply applies commands as one batch and returns their results.
func (f *testFSM) apply(cmds ...Command) []applyResult {
	f.t.Helper()
	var out []applyResult
	for _, r := range f.ApplyBatch(f.entries(cmds...)) {
		out = append(out, r.(applyResult))
	}
	return out
}

func (f *testFSM) view() View { return View{f.published.Load()} }

func keys(v View, prefix string) (ks []string) {
	v.Range(prefix, func(k string, _ Value) bool { ks = append(ks, k); return true })
	return ks
}

// scriptRegistry has one command whose payload is a script, one operation a line:
// "put k v", "grow k", "del k", "delprefix p", "reject", "panic".
func scriptRegistry() *Registry {
	r := &Registry{}
	r.Handle("script", 1, func(tx *Tx, _ Meta, p []byte) ([]byte, error) {
		n := 0
		for line := range strings.Lines(string(p)) {
			n++
			switch w := strings.Fields(line); w[0] {
			case "put":
				tx.Put(w[1], []byte(w[2]))
			case "grow":
				v, _ := tx.Get(w[1])
				tx.Put(w[1], append([]byte("+"), v.Data...))
			case "del":
				tx.Delete(w[1])
			case "delprefix":
				tx.Range(w[1], func(k string, _ Value) bool { tx.Delete(k); return true })
			case "reject":
				return nil, errs.E(errs.Conflict, "script", "line %d says so", n)
			case "panic":
				panic("line says so")
			}
		}
		return fmt.Appendf(nil, "%d", n), nil
	}, Unaudited())
	return r
}

// model is what the map should be: a plain Go map, and the list of changes.
type model struct {
	kv     map[string]Value
	events []Event // of the last entries; Cursor only by Index
}

func (m *model) run(index uint64, script string) (rejected bool) {
	before := maps.Clone(m.kv)
	var touched []string
	put := func(k, v string) {
		created := index
		if old, ok := m.kv[k]; ok {
			created = old.Created
		}
		m.kv[k] = Value{Data: []byte(v), Rev: index, Created: created}
		touched = append(touched, k)
	}
	del := func(k string) {
		delete(m.kv, k)
		touched = append(touched, k)
	}
	for line := range strings.Lines(script) {
		switch w := strings.Fields(line); w[0] {
		case "put":
			put(w[1], w[2])
		case "grow":
			put(w[1], "+"+string(m.kv[w[1]].Data))
		case "del":
			del(w[1])
		case "delprefix":
			for k := range maps.Clone(m.kv) {
				if strings.HasPrefix(k, w[1]) {
					del(k)
				}
			}
		default:
			m.kv = before
			return true
		}
	}
	slices.Sort(touched)
	for _, k := range slices.Compact(touched) {
		v, ok := m.kv[k]
		_, had := before[k]
		if ok {
			m.events = append(m.events, Event{Key: k, Value: v, Cursor: Cursor{Index: index}})
		} else if had {
			m.events = append(m.events, Event{Key: k, Deleted: true, Value: Value{Rev: index}, Cursor: Cursor{Index: index}})
		}
	}
	return false
}

// TestModel compares map, views, watches, tables and snapshots with a plain map.
func TestModel(t *testing.T) {
	dirs := t.TempDir()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		dir := fmt.Sprintf("%s/%d", dirs, run)
		mkdir(t, dir)
		f := openTestFSM(t, scriptRegistry(), dir)
		defer func() { f.tables.close() }()
		m := &model{kv: map[string]Value{}}
		var log []*raft.Log // everything since the start
		type old struct {
			v    View
			want map[string]Value
		}
		var olds []old
		w := &Watcher{ring: f.ring, prefix: "a", pos: f.view().Cursor()}
		seen := 0 // of m.events, those that w must have passed

		key := rapid.StringMatching(`[ab]/?[ab]?[0-2]?`)
		line := rapid.OneOf(
			rapid.Custom(func(rt *rapid.T) string {
				return "put " + key.Draw(rt, "key") + " " + rapid.StringMatching(`[a-z]{1,4}`).Draw(rt, "value")
			}),
			rapid.Map(key, func(k string) string { return "grow " + k }),
			rapid.Map(key, func(k string) string { return "del " + k }),
			rapid.Map(key, func(k string) string { return "delprefix " + k }),
			rapid.SampledFrom([]string{"reject", "panic", "put z/1 x", "put z/2 y"}),
		)
		check := func(v View, want map[string]Value) {
			got := map[string]Value{}
			last := ""
			v.Range("", func(k string, val Value) bool {
				if k <= last {
					rt.Fatalf("%q after %q", k, last)
				}
				last = k
				got[k] = val
				return true
			})
			if !maps.EqualFunc(got, want, func(a, b Value) bool {
				return bytes.Equal(a.Data, b.Data) && a.Rev == b.Rev && a.Created == b.Created
			}) {
				rt.Fatalf("map is\n%v, want\n%v", got, want)
			}
			start, end := key.Draw(rt, "start"), key.Draw(rt, "end")
			var inRange []string
			v.RangeFrom(start, end, func(k string, _ Value) bool { inRange = append(inRange, k); return true })
			var wantRange []string
			for _, k := range slices.Sorted(maps.Keys(want)) {
				if k >= start && k < end {
					wantRange = append(wantRange, k)
				}
			}
			if !slices.Equal(inRange, wantRange) {
				rt.Fatalf("[%s, %s) has %v, want %v", start, end, inRange, wantRange)
			}
		}

		rt.Repeat(map[string]func(*rapid.T){
			"apply": func(rt *rapid.T) {
				var cmds []Command
				for _, s := range rapid.SliceOfN(rapid.SliceOfN(line, 1, 5), 1, 4).Draw(rt, "batch") {
					cmds = append(cmds, cmd("script", strings.Join(s, "\n")))
				}
				first := f.next
				logs := f.entries(cmds...)
				log = append(log, logs...)
				res := f.ApplyBatch(logs)
				for i, c := range cmds {
					rejected := m.run(first+uint64(i), string(c.Payload))
					if got := res[i].(applyResult).err != nil; got != rejected {
						rt.Fatalf("rejected: %v, want %v", got, rejected)
					}
				}
			},
			"keep view": func(*rapid.T) { olds = append(olds, old{f.view(), maps.Clone(m.kv)}) },
			"restart": func(rt *rapid.T) {
				if rapid.Bool().Draw(rt, "flushed") {
					f.flush()
				}
				if err := f.tables.close(); err != nil {
					rt.Fatal(err)
				}
				next := f.next
				f = openTestFSM(t, scriptRegistry(), dir)
				pos := w.pos
				epoch, ok := f.ring.accepts(pos)
				if len(log) > 0 {
					f.ApplyBatch(log) // Raft replays from the last snapshot: here, all of it
				}
				f.next = next
				w = &Watcher{ring: f.ring, prefix: "a", pos: pos, epoch: epoch}
				if !ok { // list and watch again
					w.pos, seen = f.view().Cursor(), len(m.events)
				}
			},
			"snapshot": func(rt *rapid.T) {
				var buf bytes.Buffer
				later := *f.published.Load()
				later.index += rapid.Uint64Range(0, 2).Draw(rt, "ahead")
				if err := writeSnapshot(&buf, &later); err != nil {
					rt.Fatal(err)
				}
				if later.index == f.applied { // a late one changes nothing
					if err := f.Restore(io.NopCloser(&buf)); err != nil {
						rt.Fatal(err)
					}
					return
				}
				f.next = later.index + 1
				if err := f.Restore(io.NopCloser(&buf)); err != nil {
					rt.Fatal(err)
				}
				if _, _, err := w.Next(t.Context()); !errors.Is(err, ErrCompacted) {
					rt.Fatalf("a watch across a restore got %v", err)
				}
				epoch, _ := f.ring.accepts(f.view().Cursor())
				w = &Watcher{ring: f.ring, prefix: "a", pos: f.view().Cursor(), epoch: epoch}
				seen = len(m.events)
			},
			"watch": func(rt *rapid.T) {
				var want []Event
				for _, e := range m.events[seen:] {
					if strings.HasPrefix(e.Key, "a") {
						want = append(want, e)
					}
				}
				seen = len(m.events)
				got, pos, _, ok := f.ring.after(w.pos, "a", w.epoch, 1<<20)
				if !ok {
					rt.Fatal("compacted")
				}
				w.pos = pos
				for i, e := range got {
					if i > 0 && !got[i-1].Cursor.Before(e.Cursor) {
						rt.Fatalf("cursor %s after %s", e.Cursor, got[i-1].Cursor)
					}
					got[i].Cursor.Seq = 0
				}
				slices.SortStableFunc(got, func(a, b Event) int { // the order within an entry is the handler's
					if a.Cursor.Index != b.Cursor.Index {
						return int(a.Cursor.Index) - int(b.Cursor.Index)
					}
					return strings.Compare(a.Key, b.Key)
				})
				if fmt.Sprint(got) != fmt.Sprint(want) {
					rt.Fatalf("events\n%v, want\n%v", got, want)
				}
			},
			"": func(*rapid.T) {
				check(f.view(), m.kv)
				for _, o := range olds {
					check(o.v, o.want)
				}
			},
		})
	})
}

func TestTxRangeSeesItsOwnWrites(t *testing.T) {
	reg := &Registry{}
	var got []string
	reg.Handle("walk", 1, func(tx *Tx, _ Meta, _ []byte) ([]byte, error) {
		tx.Range("k", func(k string, _ Value) bool {
			got = append(got, k)
			switch k {
			case "k1":
				tx.Put("k0", nil)  // passed already
				tx.Put("k15", nil) // ahead
				tx.Delete("k2")    // ahead
			case "k15":
				tx.Delete("k15") // itself
			}
			return k != "k4"
		})
		return nil, nil
	})
	reg.Handle("fill", 1, func(tx *Tx, _ Meta, _ []byte) ([]byte, error) {
		for i := 1; i <= 5; i++ {
			tx.Put(fmt.Sprintf("k%d", i), nil)
		}
		return nil, nil
	})
	f := newTestFSM(t, reg)
	f.apply(cmd("fill", ""), cmd("walk", ""))
	if want := []string{"k1", "k15", "k3", "k4"}; !slices.Equal(got, want) {
		t.Errorf("saw %v, want %v", got, want)
	}
	if got, want := keys(f.view(), "k"), []string{"k0", "k1", "k3", "k4", "k5"}; !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
}

func TestReservedKeysAreRefused(t *testing.T) {
	for _, key := range []string{"", "\x00req/1/a/b", "/audit/0000000000000001", strings.Repeat("k", maxKeyBytes+1)} {
		reg := &Registry{}
		reg.Handle("w", 1, func(tx *Tx, _ Meta, _ []byte) ([]byte, error) { tx.Put(key, nil); return nil, nil })
		reg.Handle("d", 1, func(tx *Tx, _ Meta, _ []byte) ([]byte, error) { tx.Delete(key); return nil, nil })
		f := newTestFSM(t, reg)
		for i, r := range f.apply(cmd("w", ""), cmd("d", "")) {
			if !errors.Is(r.err, errs.Internal) {
				t.Errorf("%.20q: command %d gave %v", key, i, r.err)
			}
		}
	}
}

func TestInternalKeysAreInvisible(t *testing.T) {
	reg := testRegistry()
	var inTx []string
	reg.Handle("list", 1, func(tx *Tx, _ Meta, _ []byte) ([]byte, error) {
		tx.Range("", func(k string, _ Value) bool { inTx = append(inTx, k); return true })
		_, ok := tx.Get(requestKey("tester", "r1"))
		if ok {
			inTx = append(inTx, "got it")
		}
		return nil, nil
	})
	f := newTestFSM(t, reg)
	c := cmd("quiet", "a=1")
	c.RequestID = "r1"
	f.apply(c, cmd("list", ""))
	for _, ks := range [][]string{inTx, keys(f.view(), ""), keys(f.view(), "\x00")} {
		for _, k := range ks {
			if k != "a" && !strings.HasPrefix(k, auditPrefix) {
				t.Errorf("%q is visible", k)
			}
		}
	}
	if _, ok := f.view().Get(requestKey("tester", "r1")); ok {
		t.Error("Get shows an internal key")
	}
	evs, _, _, _ := f.ring.after(Cursor{}, "", 0, 100)
	for _, e := range evs {
		if isInternal(e.Key) {
			t.Errorf("event for %q", e.Key)
		}
	}
}

func TestUnknownCommand(t *testing.T) {
	f := newTestFSM(t, testRegistry())
	c := cmd("from.the.future", "x")
	c.IfUnknown = Ignore
	if r := f.apply(c)[0]; !errors.Is(r.err, errs.Unimplemented) {
		t.Errorf("ignored with %v", r.err)
	}
	v, ok := f.view().Get(AuditKey(1))
	rec, err := ParseAudit(v.Data)
	if !ok || err != nil || rec.Outcome != outcomeIgnored {
		t.Errorf("audit record %+v, %v", rec, err)
	}
	// Stop ends the replica; the process that replaces it knows the command.
	var stopped error
	f.fail = func(err error) { stopped = err; panic(err) }
	func() {
		defer func() { _ = recover() }()
		f.apply(cmd("from.the.future", "x"))
	}()
	if !errors.Is(stopped, errs.Unimplemented) || errs.HintOf(stopped) == "" {
		t.Errorf("stopped with %v", stopped)
	}
	if f.view().Index() != 1 {
		t.Errorf("the unknown entry counts as applied: %d", f.view().Index())
	}
}

func TestRegistryRefusesDuplicates(t *testing.T) {
	h := func(*Tx, Meta, []byte) ([]byte, error) { return nil, nil }
	for name, register := range map[string]func(*Registry){
		"second":  func(r *Registry) { r.Handle("a", 1, h); r.Handle("a", 1, h) },
		"no kind": func(r *Registry) { r.Handle("", 1, h) },
		"no func": func(r *Registry) { r.Handle("a", 1, nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: accepted", name)
				}
			}()
			register(&Registry{})
		}()
	}
	r := &Registry{}
	r.Handle("a", 1, h)
	r.Handle("a", 2, h) // another version is fine
}

func TestCommandEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Command{
			Kind:      rapid.StringN(1, 60, 255).Draw(t, "kind"),
			Version:   rapid.Uint16().Draw(t, "version"),
			Payload:   rapid.SliceOf(rapid.Byte()).Draw(t, "payload"),
			Principal: rapid.StringN(0, 100, 1024).Draw(t, "principal"),
			RequestID: rapid.StringN(0, 100, 1024).Draw(t, "id"),
			Time:      time.Unix(rapid.Int64Range(-1<<32, 1<<33).Draw(t, "s"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).UTC(),
			IfUnknown: IfUnknown(rapid.IntRange(0, 1).Draw(t, "ignore")),
			Request:   rapid.SliceOfN(rapid.Byte(), 0, maxRequestBytes).Draw(t, "request"),
		}
		if rapid.Bool().Draw(t, "no time") {
			c.Time = time.Time{}
		}
		b, err := c.encode()
		if err != nil {
			t.Fatal(err)
		}
		d, err := decodeCommand(b)
		if err != nil {
			t.Fatal(err)
		}
		same := d.Kind == c.Kind && d.Version == c.Version && bytes.Equal(d.Payload, c.Payload) && d.Principal == c.Principal &&
			d.RequestID == c.RequestID && d.IfUnknown == c.IfUnknown && bytes.Equal(d.Request, c.Request)
		if c.Time.UnixNano() != 0 || c.Time.IsZero() {
			same = same && d.Time.Equal(c.Time)
		}
		if !same {
			t.Fatalf("%+v became %+v", c, d)
		}
	})
}

func TestCommandBounds(t *testing.T) {
	for _, tc := range []struct {
		name, field string
		c           Command
	}{
		{"no kind", "kind", Command{}},
		{"long kind", "kind", Command{Kind: strings.Repeat("k", 256)}},
		{"long principal", "principal", Command{Kind: "k", Principal: strings.Repeat("p", 1025)}},
		{"long id", "request_id", Command{Kind: "k", RequestID: strings.Repeat("p", 1025)}},
		{"long request", "request", Command{Kind: "k", Request: make([]byte, 65)}},
		{"bad policy", "if_unknown", Command{Kind: "k", IfUnknown: 7}},
		{"too large", "k", Command{Kind: "k", Payload: make([]byte, 1<<20)}},
	} {
		_, err := tc.c.encode()
		e, ok := errors.AsType[*errs.Error](err)
		if !ok || e.Kind != errs.Invalid || e.Field != tc.field {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	c := Command{Kind: "k", Payload: make([]byte, MaxEntry-100)}
	if b, err := c.encode(); err != nil || len(b) > MaxEntry {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func FuzzDecodeCommand(f *testing.F) {
	c := cmd("put", "a=1")
	c.RequestID, c.IfUnknown = "r", Ignore
	for _, request := range []string{"", "digest"} {
		c.Request = []byte(request)
		b, err := c.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Add([]byte{entryFormat, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeCommand(b)
		if err != nil {
			if k := errs.KindOf(err); k != errs.Corrupt && k != errs.Unimplemented {
				t.Fatalf("kind %s of %v", k, err)
			}
			return
		}
		if _, err := c.encode(); err != nil && errs.KindOf(err) != errs.Invalid {
			t.Fatal(err)
		}
	})
}
