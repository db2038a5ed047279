package runs

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/runink/runink/controlplane/artifacts"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/scheduler"
)

// machine is a real replica with the handlers of this package and a directory of three
// workers and one herd.
type machine struct {
	b *barn.Barn
	// attempts remembers the place of every attempt ever seen: it must be the only one.
	attempts map[attemptKey]string
}

var (
	testBundle   = "sha256:" + fmt.Sprintf("%064d", 1)
	testNodes    = []string{"a", "b", "c"}
	testQuota    = scheduler.Resources{MilliCPU: 2500}
	testCapacity = scheduler.Resources{MilliCPU: 1000, Memory: 1 << 30}
)

func testDirectory() Directory {
	member := func(name string) Member {
		return Member{Name: name, Role: "worker", Worker: true, Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:0:0:%x::/64", name[0]))}
	}
	return Directory{
		Node: func(_ Reader, name string) (Member, bool, error) {
			return member(name), name >= "a" && name <= "c", nil
		},
		Nodes: func(Reader) ([]Member, error) {
			var out []Member
			for _, n := range testNodes {
				out = append(out, member(n))
			}
			return out, nil
		},
		Herd: func(_ Reader, name string) (scheduler.Resources, bool, error) { return testQuota, name == "h", nil },
	}
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	reg := &barn.Registry{}
	artifacts.Register(reg)
	Register(reg, Hooks{Directory: testDirectory()})
	_, trans := raft.NewInmemTransport("x")
	b, err := barn.Open(t.Context(), barn.Config{
		ID: "x", Dir: t.TempDir(), Registry: reg, SegmentSize: 1 << 20, TimeScale: 0.2,
		Transport: barn.Transport{Custom: trans},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	if err := b.Bootstrap([]barn.Member{{ID: "x", Addr: "x"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WaitLeadership(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := &machine{b, map[attemptKey]string{}}
	if err := m.do(artifacts.CmdRegister, map[string]any{"digest": testBundle, "size": 1, "herd": "h"}, nil); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) do(kind string, payload, out any) error {
	data, err := json.Marshal(payload)
	if err != nil {
		return err
	}
	r, err := m.b.Propose(context.Background(), barn.Command{Kind: kind, Version: 1, Payload: data, Principal: "test", Time: time.Now()})
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(r.Data, out)
}

func (m *machine) view(t *rapid.T) barn.View {
	v, err := m.b.View(context.Background(), barn.Stale)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// check holds the invariants of the tables against each other.
func (m *machine) check(t *rapid.T, after string) {
	v := m.view(t)
	var herd scheduler.Resources
	onNode := map[string]scheduler.Resources{}
	addresses := map[string]bool{}
	placedAt := map[string]Placed{}
	err := each(v, placedPrefix, func(key string, p Placed) error {
		node, run, slice := splitPlaced(key)
		herd = herd.Plus(p.Needs)
		onNode[node] = onNode[node].Plus(p.Needs)
		if addresses[p.Address] {
			t.Fatalf("after %s: address %s is used twice", after, p.Address)
		}
		addresses[p.Address] = true
		s, _, err := load[SliceState](v, sliceKey(run, slice))
		if err != nil {
			return err
		}
		if s.Node != node || s.Epoch != p.Epoch || s.Phase != SliceAssigned && s.Phase != SliceRunning {
			t.Fatalf("after %s: %s is placed, its slice is %+v", after, key, s)
		}
		placedAt[run+"/"+slice] = p
		k := attemptKey{run, slice, p.Epoch}
		if was := m.attempts[k]; was != "" && was != p.Address {
			t.Fatalf("after %s: %v is placed again, at %s after %s", after, k, p.Address, was)
		}
		m.attempts[k] = p.Address
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	used, err := HerdUsed(v, "h")
	if err != nil || used != herd {
		t.Fatalf("after %s: herd uses %v, its slices %v, %v", after, used, herd, err)
	}
	if herd.MilliCPU > testQuota.MilliCPU {
		t.Fatalf("after %s: herd uses %v of %v", after, herd, testQuota)
	}
	for n, u := range onNode {
		if u.MilliCPU > testCapacity.MilliCPU {
			t.Fatalf("after %s: node %s holds %v of %v", after, n, u, testCapacity)
		}
	}
	err = each(v, statePrefix, func(key string, st State) error {
		id := key[len(statePrefix):]
		if _, live := v.Get(livePrefix + id); live == st.Final() {
			t.Fatalf("after %s: run %s is %s, and live is %t", after, id, st.Phase, live)
		}
		for i, r := range st.Regions {
			all, err := sliceStates(v, id, i)
			if err != nil {
				return err
			}
			alive, pending := 0, 0
			for _, s := range all {
				if s.Epoch != r.Epoch {
					t.Fatalf("after %s: slice %s of %s is at epoch %d, its region at %d", after, s.name, id, s.Epoch, r.Epoch)
				}
				p, placed := placedAt[id+"/"+s.name]
				if placed {
					alive++
				}
				if placed && p.Stop != (r.Phase == RegionStopping) {
					t.Fatalf("after %s: slice %s of %s has stop %t in a region that is %s", after, s.name, id, p.Stop, r.Phase)
				}
				if placed != (s.Phase == SliceAssigned || s.Phase == SliceRunning) {
					t.Fatalf("after %s: slice %s of %s is %s, and placed is %t", after, s.name, id, s.Phase, placed)
				}
				if s.Phase == SlicePending {
					pending++
				}
			}
			if pending > 0 && pending < len(all) {
				t.Fatalf("after %s: region %d of %s is half placed: %+v", after, i, id, all)
			}
			if lives := r.Phase == RegionPlaced || r.Phase == RegionRunning || r.Phase == RegionStopping; lives != (alive > 0) {
				t.Fatalf("after %s: region %d of %s is %s with %d slices alive", after, i, id, r.Phase, alive)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestMachineHoldsItsInvariants applies random commands, among them late, repeated and
// contradicting ones, and checks the tables after each.
func TestMachineHoldsItsInvariants(t *testing.T) {
	m := newMachine(t)
	f := newFollower(t, m)
	fewer(t, "20") // each has some hundred commands, and each command an fsync
	serial := 0
	rapid.Check(t, func(t *rapid.T) {
		m.reset(t)
		boots := map[string]int{}
		var ids []string
		session := func(node string) {
			p := nodeHello{Node: node, Boot: fmt.Sprintf("%s-%d-%d", node, serial, boots[node]), Capacity: testCapacity}
			if err := m.do(CmdNodeSession, p, nil); err != nil {
				t.Fatal(err)
			}
			if err := m.do(CmdNodeHealth, nodeCondition{Node: node, Boot: p.Boot, Healthy: true}, nil); err != nil {
				t.Fatal(err)
			}
		}
		serial++
		for _, n := range testNodes {
			session(n)
		}
		anyNode := rapid.SampledFrom(testNodes)
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				m.check(t, "a command")
				f.check(t)
			},
			"pass": f.pass,
			"submit": func(t *rapid.T) {
				serial++
				s := Spec{ID: fmt.Sprintf("r%d", serial), Name: "t", Herd: "h", BundleDigest: testBundle, Regions: rapid.IntRange(1, 2).Draw(t, "regions")}
				for r := range s.Regions {
					for i := range rapid.IntRange(1, 3).Draw(t, "slices") {
						s.Slices = append(s.Slices, SliceSpec{Name: fmt.Sprintf("s%d-%d", r, i), Region: r, Needs: scheduler.Resources{MilliCPU: rapid.Int64Range(1, 6).Draw(t, "cpu") * 100}})
					}
				}
				if err := m.do(CmdSubmit, submission{s}, nil); err == nil {
					ids = append(ids, s.ID)
				}
			},
			"place": func(t *rapid.T) {
				var cmd placing
				v := m.view(t)
				for _, id := range ids {
					spec, st, err := mustRun(v, "test", id)
					if err != nil {
						t.Fatal(err)
					}
					for i, r := range st.Regions {
						if r.Phase != RegionPending {
							continue
						}
						g := groupOf(&spec, i)
						pg := placedGroup{Run: id, Region: g.Region, Epoch: st.Regions[g.Region].Epoch - uint64(rapid.IntRange(0, 8).Draw(t, "late")/8)}
						for _, s := range g.Slices {
							pg.Assign = append(pg.Assign, scheduler.Assignment{Slice: s.Name, Node: anyNode.Draw(t, "node")})
						}
						if len(pg.Assign) > 1 && rapid.IntRange(0, 9).Draw(t, "half") == 0 {
							pg.Assign = pg.Assign[1:]
						}
						cmd.Groups = append(cmd.Groups, pg, pg)
					}
				}
				if err := m.do(CmdPlace, cmd, nil); err != nil {
					t.Fatal(err)
				}
			},
			"report": func(t *rapid.T) {
				v := m.view(t)
				for _, id := range ids {
					all, err := sliceStates(v, id, -1)
					if err != nil {
						t.Fatal(err)
					}
					for _, s := range all {
						if rapid.IntRange(0, 2).Draw(t, "reports") > 0 {
							continue
						}
						r := sliceReport{Run: id, Slice: s.name, Epoch: s.Epoch, Phase: SliceRunning, Started: time.Now(), Ended: time.Now()}
						if rapid.IntRange(0, 9).Draw(t, "old") == 0 {
							r.Epoch--
						}
						if e := rapid.SampledFrom([]string{"", "", "success", "success", "success", "exit", "killed", "fenced", "oom", "time_limit"}).Draw(t, "exit"); e != "" {
							r.Phase, r.Exit = SliceExited, &Exit{Reason: e, Kind: rapid.SampledFrom([]string{"", "unavailable", "invalid"}).Draw(t, "kind")}
							if e == "success" {
								r.Exit.Kind = ""
								r.Parts = []Part{{Block: "out", Digest: testBundle}}
							}
						}
						node := s.Node
						if rapid.IntRange(0, 9).Draw(t, "stranger") == 0 {
							node = anyNode.Draw(t, "node")
						}
						if err := m.do(CmdStatus, statusReport{Node: node, Boot: s.Boot, Slices: []sliceReport{r}}, nil); err != nil {
							t.Fatal(err)
						}
						m.check(t, "report "+r.Phase)
					}
				}
			},
			"commit": func(t *rapid.T) {
				v := m.view(t)
				for _, id := range ids {
					_, st, err := mustRun(v, "test", id)
					if err != nil {
						t.Fatal(err)
					}
					cmd, err := manifestOf(&decoded{}, v, id, &st)
					if err != nil {
						t.Fatal(err)
					}
					if rapid.IntRange(0, 4).Draw(t, "other attempt") == 0 {
						cmd.Epochs[0]++
					}
					// Refused unless the run is committing, and of this attempt.
					if err := m.do(CmdCommit, cmd, nil); err == nil && st.Phase != RunCommitting && st.Phase != RunSucceeded {
						t.Fatalf("a run that was %s was committed", st.Phase)
					}
				}
			},
			"reboot": func(*rapid.T) {
				n := anyNode.Draw(t, "node")
				boots[n]++
				session(n)
			},
			"lose": func(*rapid.T) {
				n := anyNode.Draw(t, "node")
				v := m.view(t)
				ns, _, err := load[NodeState](v, nodePrefix+n)
				if err != nil {
					t.Fatal(err)
				}
				if err := m.do(CmdNodeLost, nodeGone{Node: n, Boot: ns.Boot, Why: "test"}, nil); err != nil {
					t.Fatal(err)
				}
				m.check(t, "lose")
				session(n)
			},
			"evict": func(t *rapid.T) {
				for _, id := range ids {
					if err := m.do(CmdEvict, eviction{Run: id, Region: 0, Epoch: uint64(rapid.IntRange(1, 3).Draw(t, "epoch")), Why: "test"}, nil); err != nil {
						t.Fatal(err)
					}
				}
			},
			"cancel": func(t *rapid.T) {
				if len(ids) > 0 && rapid.IntRange(0, 3).Draw(t, "really") == 0 {
					_ = m.do(CmdCancel, cancellation{rapid.SampledFrom(ids).Draw(t, "run")}, nil) // Conflict if it has ended
				}
			},
		})
	})
}

// reset ends everything: all runs cancelled, all nodes lost. Nothing may be left of it.
func (m *machine) reset(t *rapid.T) {
	v := m.view(t)
	v.Range(livePrefix, func(key string, _ barn.Value) bool {
		if err := m.do(CmdFail, failure{Run: key[len(livePrefix):], Reason: "reset"}, nil); err != nil {
			t.Fatal(err)
		}
		return true
	})
	err := each(v, nodePrefix, func(key string, ns NodeState) error {
		return m.do(CmdNodeLost, nodeGone{Node: key[len(nodePrefix):], Boot: ns.Boot, Why: "reset"}, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	m.check(t, "reset")
	m.view(t).Range(placedPrefix, func(key string, _ barn.Value) bool {
		t.Fatalf("%s is left", key)
		return false
	})
}

// fewer sets how many cases rapid tries in this test.
func fewer(t *testing.T, checks string) {
	t.Helper()
	f := flag.Lookup("rapid.checks")
	was := f.Value.String()
	if was != "100" { // somebody asked for another number
		return
	}
	if err := flag.Set(f.Name, checks); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = flag.Set(f.Name, was) }) // it was valid before
}
