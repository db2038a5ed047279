package runs

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/runink/runink/controlplane/barn"
)

// TestAcknowledgementsAreNamedUntilForgotten: whatever the agent says, and in whatever order,
// a session names each exit it acknowledged until the agent said that it has forgotten it, but
// for the oldest of too many.
func TestAcknowledgementsAreNamedUntilForgotten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &session{recorded: map[attemptKey]bool{}}
		forgotten := 0
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "acknowledge") {
				for range rapid.IntRange(0, 50).Draw(t, "exits") {
					k := attemptKey{Run: fmt.Sprint(s.ackedTo)}
					s.acked, s.recorded[k] = append(s.acked, k), true
					s.ackedTo++
				}
			} else {
				to := rapid.IntRange(0, int(s.ackedTo)+3).Draw(t, "to")
				s.forgotten(uint64(to))
				if to <= int(s.ackedTo) {
					forgotten = max(forgotten, to)
				}
			}
			if len(s.acked) != int(s.ackedTo)-forgotten || len(s.recorded) != len(s.acked) {
				t.Fatalf("%d are named, %d known, of %d with %d forgotten", len(s.acked), len(s.recorded), s.ackedTo, forgotten)
			}
			for i, k := range s.acked {
				if k.Run != fmt.Sprint(forgotten+i) || !s.recorded[k] {
					t.Fatalf("the %d. named is %v, %d are forgotten", i, k, forgotten)
				}
			}
		}
	})
}

// TestNeighboursTellWhatConcernsWhom: a placement, which moves a node's next address, is
// nobody's news; a drain is the node's, and where it is reached that of the others.
func TestNeighboursTellWhatConcernsWhom(t *testing.T) {
	n := neighbours{}
	for _, c := range []struct {
		name         string
		state        string
		self, others bool
	}{
		{"first", `{"state":"ready"}`, true, true},
		{"placement", `{"state":"ready","next_address":5}`, false, false},
		{"drain", `{"state":"ready","next_address":5,"draining":true}`, true, false},
		{"address", `{"state":"ready","draining":true,"addresses":["192.0.2.1"]}`, false, true},
		{"key", `{"state":"ready","addresses":["192.0.2.1"],"wireguard_key":"AAAA"}`, true, true},
		{"lost", `{"state":"lost","addresses":["192.0.2.1"],"wireguard_key":"AAAA"}`, false, false},
		{"damaged", `{`, true, true},
		{"mended", `{"state":"lost","addresses":["192.0.2.1"],"wireguard_key":"AAAA"}`, true, true},
	} {
		if self, others := n.changed("n1", barn.Event{Value: barn.Value{Data: []byte(c.state)}}); self != c.self || others != c.others {
			t.Errorf("%s: itself %t, others %t", c.name, self, others)
		}
	}
	if self, others := n.changed("n1", barn.Event{Deleted: true}); !self || !others {
		t.Error("a node that goes concerns all")
	}
}

// TestSpecCacheReturnsWhatStandsThere: one run's spec is decoded once, what replaced it is
// seen, and the cache stays small however many runs there are.
func TestSpecCacheReturnsWhatStandsThere(t *testing.T) {
	c, r := &decoded{}, reader{}
	put := func(run, name string) { r[specPrefix+run] = fmt.Appendf(nil, `{"id":%q,"name":%q}`, run, name) }
	put("a", "first")
	one, err := c.spec(r, "a")
	if err != nil || one.Name != "first" {
		t.Fatal(one, err)
	}
	if again, err := c.spec(r, "a"); err != nil || again != one {
		t.Errorf("decoded again: %v, %v", again, err)
	}
	put("a", "second") // a snapshot that came from elsewhere, say
	if s, err := c.spec(r, "a"); err != nil || s.Name != "second" {
		t.Error(s, err)
	}
	for i := range 5 * maxMemo {
		put(fmt.Sprint(i), "x")
		if _, err := c.spec(r, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if len(c.specs.new)+len(c.specs.last) > 2*maxMemo {
			t.Fatalf("%d are kept", len(c.specs.new)+len(c.specs.last))
		}
	}
	if _, err := c.spec(r, "unknown"); err == nil {
		t.Error("a spec of no run")
	}
	r[specPrefix+"damaged"] = nil
	if _, err := c.spec(r, "damaged"); err == nil {
		t.Error("a damaged spec")
	}
}

// reader is a table of bytes.
type reader map[string][]byte

func (r reader) Get(key string) (barn.Value, bool) {
	v, ok := r[key]
	return barn.Value{Data: v}, ok
}

func (r reader) Range(string, func(string, barn.Value) bool) {}
