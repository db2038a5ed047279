package qemu

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/runink/runink/internal/errs"
)

// queueLength bounds the frames that wait for a port. A guest that is paused must not
// make the harness grow, and a full queue drops as a real switch does.
const queueLength = 2048

// maxFrame is the largest frame accepted, in bytes: a virtio card may send segments of
// 64 KiB and its header before they are cut to size.
const maxFrame = 70 << 10

// minFrame is an Ethernet header.
const minFrame = 14

// Switch is an Ethernet switch in this process. Frames on its connections are a 4-byte
// big-endian length and the frame, which is QEMU's stream format. It learns where
// addresses are, sends multicast and unknown unicast everywhere, and never blocks a
// sender: a port whose queue is full drops. Safe for concurrent use.
type Switch struct {
	journal *Journal

	mu     sync.RWMutex
	ports  []*Port
	where  map[[6]byte]*Port
	broken map[[2]*Port]bool // pairs that do not hear each other, both orders
	pcap   *pcapWriter
}

// NewSwitch makes a switch without ports.
func NewSwitch(j *Journal) *Switch {
	return &Switch{journal: j, where: map[[6]byte]*Port{}, broken: map[[2]*Port]bool{}}
}

// Port is where a machine plugs in its cable. It stays when the machine is powered off.
type Port struct {
	Name string
	sw   *Switch
	// accept decides which frames leave through this port; nil: all. sw.mu guards it.
	accept func(frame []byte) bool

	queue   chan queued
	plugged atomic.Bool
	cut     atomic.Bool
	delay   atomic.Int64
	dropped atomic.Uint64 // queue full
	lost    atomic.Uint64 // cut
	in, out atomic.Uint64 // frames
}

type queued struct {
	frame []byte // with its length before it; shared between ports, never written to
	due   time.Time
}

// PortStats counts frames since the port was made.
type PortStats struct {
	In, Out uint64 // from and to the machine
	Dropped uint64 // the queue was full
	Lost    uint64 // thrown away by a cut
}

// AddPort makes a port, with nothing plugged in.
func (s *Switch) AddPort(name string) (*Port, error) { return s.addPort(name, nil) }

func (s *Switch) addPort(name string, accept func([]byte) bool) (*Port, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.ports, func(p *Port) bool { return p.Name == name }) {
		return nil, errs.E(errs.Exists, "add port", "%q is taken", name)
	}
	p := &Port{Name: name, sw: s, accept: accept, queue: make(chan queued, queueLength)}
	s.ports = append(s.ports, p)
	return p, nil
}

// Stats returns the port's counters.
func (p *Port) Stats() PortStats {
	return PortStats{In: p.in.Load(), Out: p.out.Load(), Dropped: p.dropped.Load(), Lost: p.lost.Load()}
}

// Cut pulls the port's cable (frames in both directions are lost; the guest's link stays
// up, as when a switch further away fails) or plugs it in again.
func (p *Port) Cut(cut bool) {
	p.cut.Store(cut)
	p.sw.journal.Add(p.Name, map[bool]string{true: "cut", false: "heal"}[cut], "")
}

// Delay holds every frame to this port for d, in order. Zero ends it.
func (p *Port) Delay(d time.Duration) {
	p.delay.Store(int64(d))
	p.sw.journal.Add(p.Name, "delay", d.String())
}

// Partition stops (or again lets pass) frames between two ports, both ways.
func (s *Switch) Partition(a, b *Port, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on {
		s.broken[[2]*Port{a, b}], s.broken[[2]*Port{b, a}] = true, true
	} else {
		delete(s.broken, [2]*Port{a, b})
		delete(s.broken, [2]*Port{b, a})
	}
	s.journal.Add(a.Name, map[bool]string{true: "cut", false: "heal"}[on], "to "+b.Name)
}

// Accept lets only those frames out through the port, to what is plugged in there, of which f says
// so, an Ethernet header and what follows; nil: all again. f is called by many at once, and must
// not write to the frame.
func (p *Port) Accept(f func(frame []byte) bool) {
	p.sw.mu.Lock()
	defer p.sw.mu.Unlock()
	p.accept = f
}

// Serve carries frames between conn and the port until either side fails or ctx ends,
// and closes conn. One connection at a time, else kind Conflict. What waited in the queue
// for an earlier connection is thrown away first: a machine that was off does not get old
// frames.
func (p *Port) Serve(ctx context.Context, conn net.Conn) error {
	if !p.plugged.CompareAndSwap(false, true) {
		conn.Close()
		return errs.E(errs.Conflict, "serve port", "%s is plugged in already", p.Name)
	}
	defer p.plugged.Store(false)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for len(p.queue) > 0 {
		select {
		case <-p.queue:
		default:
		}
	}
	writing, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		p.write(writing, conn)
		conn.Close()
	})
	err := p.read(conn)
	cancel()
	conn.Close()
	wg.Wait()
	if ctx.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// read takes frames from conn until that fails; it always returns an error.
func (p *Port) read(conn net.Conn) error {
	in := bufio.NewReaderSize(conn, 256<<10)
	for {
		var head [4]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxFrame {
			return errs.E(errs.Corrupt, "read frame", "%d bytes, at most %d", n, maxFrame).WithField(p.Name)
		}
		frame := make([]byte, 4+n)
		copy(frame, head[:])
		if _, err := io.ReadFull(in, frame[4:]); err != nil {
			return err
		}
		if n >= minFrame {
			p.sw.forward(p, frame)
		}
	}
}

func (p *Port) write(ctx context.Context, conn net.Conn) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case q := <-p.queue:
			if wait := time.Until(q.due); wait > 0 {
				timer.Reset(wait)
				select {
				case <-timer.C:
				case <-ctx.Done():
					return
				}
			}
			if _, err := conn.Write(q.frame); err != nil {
				return // the reader sees the same end and reports it
			}
			p.out.Add(1)
		case <-ctx.Done():
			return
		}
	}
}

// forward gives a frame (with its length) that came in at from to whom it may concern.
func (s *Switch) forward(from *Port, frame []byte) {
	from.in.Add(1)
	if from.cut.Load() {
		from.lost.Add(1)
		return
	}
	eth := frame[4:]
	dst, src := [6]byte(eth[0:6]), [6]byte(eth[6:12])
	s.mu.RLock()
	known := s.where[src] == from
	s.mu.RUnlock()
	if !known && src[0]&1 == 0 {
		s.mu.Lock()
		s.where[src] = from
		s.mu.Unlock()
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.pcap != nil {
		s.pcap.write(eth)
	}
	if to := s.where[dst]; to != nil && dst[0]&1 == 0 {
		if to != from {
			s.deliver(from, to, frame)
		}
		return
	}
	for _, to := range s.ports {
		if to != from {
			s.deliver(from, to, frame)
		}
	}
}

// deliver queues a frame; the caller holds mu for reading.
func (s *Switch) deliver(from, to *Port, frame []byte) {
	if !to.plugged.Load() {
		return
	}
	if to.cut.Load() || s.broken[[2]*Port{from, to}] {
		to.lost.Add(1)
		return
	}
	if to.accept != nil && !to.accept(frame[4:]) {
		return
	}
	q := queued{frame: frame}
	if d := to.delay.Load(); d > 0 {
		q.due = time.Now().Add(time.Duration(d))
	}
	select {
	case to.queue <- q:
	default:
		to.dropped.Add(1)
	}
}

// dialAndServe connects to a machine's socket, which QEMU makes as it starts, and serves
// the port until ctx ends, connecting again should the connection fail.
func (p *Port) dialAndServe(ctx context.Context, path string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var d net.Dialer
		if conn, err := d.DialContext(ctx, "unix", path); err == nil {
			if err := p.Serve(ctx, conn); err != nil {
				p.sw.journal.Add(p.Name, "link", err.Error())
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Record writes every frame that enters the switch to w as a pcap file, with times of
// the host, until stop is called; stop returns the first error. One recording at a time.
func (s *Switch) Record(w io.Writer) (stop func() error, err error) {
	rec, err := newPcap(w)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pcap != nil {
		return nil, errs.E(errs.Conflict, "record frames", "a recording is under way")
	}
	s.pcap = rec
	return func() error {
		s.mu.Lock()
		if s.pcap == rec {
			s.pcap = nil
		}
		s.mu.Unlock()
		return rec.finish()
	}, nil
}

// Describe lists ports and counters, one a line, for people and logs of failures.
func (s *Switch) Describe() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var b strings.Builder
	for _, p := range s.ports {
		st := p.Stats()
		fmt.Fprintf(&b, "%-8s in %d out %d dropped %d lost %d cut %t\n", p.Name, st.In, st.Out, st.Dropped, st.Lost, p.cut.Load())
	}
	return b.String()
}
