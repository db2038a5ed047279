package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/runink/runink/internal/errs"
)

// rig is a switch in a synctest bubble with one in-memory connection per port.
type rig struct {
	t     *testing.T
	sw    *Switch
	ports []*Port
	conns []net.Conn
	stop  func()
}

func newRig(t *testing.T, ports int) *rig {
	t.Helper()
	r := &rig{t: t, sw: NewSwitch(NewJournal())}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, ports)
	for i := range ports {
		p, err := r.sw.AddPort(string(rune('a' + i)))
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		go func() { ended <- p.Serve(ctx, ours) }()
		r.ports, r.conns = append(r.ports, p), append(r.conns, theirs)
	}
	r.stop = func() {
		cancel()
		for range ports {
			if err := <-ended; err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("a port failed: %v", err)
			}
		}
	}
	synctest.Wait()
	return r
}

// send puts a frame on a port's cable.
func (r *rig) send(port int, frame []byte) {
	r.t.Helper()
	msg := binary.BigEndian.AppendUint32(nil, uint32(len(frame)))
	if _, err := r.conns[port].Write(append(msg, frame...)); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

// receive returns the next frame at a port, nil if none comes within a second.
func (r *rig) receive(port int) []byte {
	r.t.Helper()
	if err := r.conns[port].SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		r.t.Fatal(err)
	}
	var head [4]byte
	if _, err := io.ReadFull(r.conns[port], head[:]); err != nil {
		return nil
	}
	frame := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(r.conns[port], frame); err != nil {
		r.t.Fatal(err)
	}
	return frame
}

// mac i is the address of the machine at port i; the broadcast address for -1.
func mac(i int) []byte {
	if i < 0 {
		return []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	return []byte{0x52, 0x54, 0, 0, 0, byte(i)}
}

func frame(to, from int, body string) []byte {
	f := append(append(append([]byte{}, mac(to)...), mac(from)...), 0x88, 0xb5)
	return append(f, body...)
}

func (r *rig) expect(what string, want map[int][]byte) {
	r.t.Helper()
	for i := range r.ports {
		if got := r.receive(i); !bytes.Equal(got, want[i]) {
			r.t.Errorf("%s: port %s got %q, want %q", what, r.ports[i].Name, got, want[i])
		}
	}
}

func inBubble(t *testing.T, ports int, f func(r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, ports)
		f(r)
		r.stop()
	})
}

func TestSwitchLearns(t *testing.T) {
	inBubble(t, 3, func(r *rig) {
		all := frame(-1, 0, "who")
		r.send(0, all)
		r.expect("broadcast", map[int][]byte{1: all, 2: all})
		unknown := frame(1, 0, "unknown")
		r.send(0, unknown)
		r.expect("unknown unicast", map[int][]byte{1: unknown, 2: unknown})
		answer := frame(0, 1, "answer")
		r.send(1, answer)
		r.expect("answer to a learned address", map[int][]byte{0: answer})
		direct := frame(1, 0, "direct")
		r.send(0, direct)
		r.expect("learned unicast", map[int][]byte{1: direct})
		multicast := frame(0, 1, "neighbour discovery")
		copy(multicast, []byte{0x33, 0x33, 0, 0, 0, 1})
		r.send(1, multicast)
		r.expect("IPv6 multicast", map[int][]byte{0: multicast, 2: multicast})
		// A machine that moves (here: its address appears at another port) is followed.
		r.send(2, frame(1, 0, "moved"))
		r.expect("moved", map[int][]byte{1: frame(1, 0, "moved")})
		r.send(1, frame(0, 1, "to the new place"))
		r.expect("after the move", map[int][]byte{2: frame(0, 1, "to the new place")})
	})
}

func TestSwitchCut(t *testing.T) {
	inBubble(t, 3, func(r *rig) {
		f := frame(-1, 0, "x")
		r.ports[0].Cut(true)
		r.send(0, f)
		r.expect("from a cut port", nil)
		r.send(1, frame(-1, 1, "y"))
		r.expect("to a cut port", map[int][]byte{2: frame(-1, 1, "y")})
		r.ports[0].Cut(false)
		r.send(0, f)
		r.expect("healed", map[int][]byte{1: f, 2: f})
		if got := r.ports[0].Stats().Lost; got != 2 {
			t.Errorf("%d frames counted as lost, want 2", got)
		}
		r.sw.Partition(r.ports[0], r.ports[1], true)
		r.send(0, f)
		r.expect("partition", map[int][]byte{2: f})
		r.send(1, frame(-1, 1, "y"))
		r.expect("partition, other way", map[int][]byte{2: frame(-1, 1, "y")})
		r.sw.Partition(r.ports[1], r.ports[0], false)
		r.send(0, f)
		r.expect("partition healed", map[int][]byte{1: f, 2: f})
	})
}

// A port lets out only what its filter takes, until it has none.
func TestSwitchAccept(t *testing.T) {
	inBubble(t, 3, func(r *rig) {
		offer, other := frame(-1, 0, "offer"), frame(-1, 0, "x")
		r.ports[1].Accept(func(f []byte) bool { return !bytes.Equal(f, offer) })
		r.send(0, offer)
		r.expect("what one does not take", map[int][]byte{2: offer})
		r.send(0, other)
		r.expect("what it takes", map[int][]byte{1: other, 2: other})
		r.ports[1].Accept(nil)
		r.send(0, offer)
		r.expect("without a filter", map[int][]byte{1: offer, 2: offer})
	})
}

func TestSwitchDelay(t *testing.T) {
	inBubble(t, 2, func(r *rig) {
		r.ports[1].Delay(300 * time.Millisecond)
		began := time.Now()
		r.send(0, frame(1, 0, "1"))
		r.send(0, frame(1, 0, "2"))
		for _, want := range []string{"1", "2"} {
			if got := r.receive(1); !bytes.Equal(got, frame(1, 0, want)) {
				t.Errorf("got %q, want frame %s", got, want)
			}
			if took := time.Since(began); took != 300*time.Millisecond {
				t.Errorf("frame %s came after %v", want, took)
			}
		}
	})
}

// A port that nobody reads drops, and delays nobody else.
func TestSwitchDropsWhenFull(t *testing.T) {
	inBubble(t, 3, func(r *rig) {
		const extra = 100
		// One more than the queue is in the hands of the writer.
		for range queueLength + 1 + extra {
			r.send(0, frame(1, 0, "x"))
			if r.receive(2) == nil {
				t.Fatal("port c starves because port b is full")
			}
		}
		if got := r.ports[1].Stats().Dropped; got != extra {
			t.Errorf("%d frames dropped, want %d", got, extra)
		}
	})
}

func TestSwitchRefusesNonsense(t *testing.T) {
	t.Run("a frame over the limit ends the connection", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, err := NewSwitch(NewJournal()).AddPort("a")
			if err != nil {
				t.Fatal(err)
			}
			ours, theirs := net.Pipe()
			ended := make(chan error)
			go func() { ended <- p.Serve(t.Context(), ours) }()
			synctest.Wait()
			if err := p.Serve(t.Context(), ours2(t)); !errors.Is(err, errs.Conflict) {
				t.Errorf("a second connection: %v", err)
			}
			if _, err := theirs.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; !errors.Is(err, errs.Corrupt) {
				t.Errorf("got %v, want kind corrupt", err)
			}
		})
	})
	t.Run("a runt is ignored", func(t *testing.T) {
		inBubble(t, 2, func(r *rig) {
			r.send(0, []byte("short"))
			r.send(0, frame(-1, 0, "after"))
			r.expect("after a runt", map[int][]byte{1: frame(-1, 0, "after")})
		})
	})
	t.Run("two ports of one name", func(t *testing.T) {
		sw := NewSwitch(NewJournal())
		if _, err := sw.AddPort("a"); err != nil {
			t.Fatal(err)
		}
		if _, err := sw.AddPort("a"); !errors.Is(err, errs.Exists) {
			t.Errorf("got %v, want kind exists", err)
		}
	})
}

func ours2(t *testing.T) net.Conn {
	a, b := net.Pipe()
	t.Cleanup(func() { b.Close() })
	return a
}

func TestRecord(t *testing.T) {
	inBubble(t, 2, func(r *rig) {
		var out bytes.Buffer
		stop, err := r.sw.Record(&out)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.sw.Record(io.Discard); !errors.Is(err, errs.Conflict) {
			t.Errorf("a second recording: %v", err)
		}
		f := frame(1, 0, "seen on the wire")
		r.send(0, f)
		r.receive(1)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		r.send(0, frame(1, 0, "too late"))
		r.receive(1)
		got := out.Bytes()
		if len(got) != 24+16+len(f) {
			t.Fatalf("%d bytes recorded, want %d", len(got), 24+16+len(f))
		}
		if magic := binary.LittleEndian.Uint32(got); magic != 0xa1b23c4d {
			t.Errorf("magic %#x", magic)
		}
		if n := binary.LittleEndian.Uint32(got[24+8:]); int(n) != len(f) {
			t.Errorf("the record says %d bytes, the frame has %d", n, len(f))
		}
		if !bytes.Equal(got[40:], f) {
			t.Errorf("recorded %q, want %q", got[40:], f)
		}
	})
}

// Whatever is sent, a frame never comes back to its sender, a broadcast and a frame for
// an address not seen yet come to all others, any other to its port alone.
func TestSwitchProperties(t *testing.T) {
	const ports = 4
	rapid.Check(t, func(rt *rapid.T) {
		sent := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) [2]int {
			return [2]int{rapid.IntRange(0, ports-1).Draw(rt, "from"), rapid.IntRange(-1, ports-1).Draw(rt, "to")}
		}), 1, 12).Draw(rt, "frames")
		// The bubble has a goroutine of its own, where rt must not fail.
		var wrong string
		inBubble(t, ports, func(r *rig) {
			learned := map[int]bool{}
			for _, s := range sent {
				from, to := s[0], s[1]
				r.send(from, frame(to, from, "x"))
				learned[from] = true
				for i := range ports {
					want := i != from && (to < 0 || i == to || !learned[to])
					if got := r.receive(i) != nil; got != want {
						wrong = fmt.Sprintf("frame %d to %d: port %d got it: %t, want %t", from, to, i, got, want)
						return
					}
				}
			}
		})
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}
