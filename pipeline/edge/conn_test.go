package edge_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/pipeline/edge"
	"github.com/runink/runink/sdk/frame"
)

func pair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "edge")
		c, err := net.FileConn(f)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		conns[i] = c
	}
	return conns[0], conns[1]
}

func data(t testing.TB, kind frame.Kind, size int) []byte {
	t.Helper()
	h := frame.Header{Kind: kind}
	if kind == frame.Data {
		h.Rows = 1
	}
	f := append(frame.Append(nil, h), bytes.Repeat([]byte{7}, size)...)
	if err := frame.Seal(f, 0); err != nil {
		t.Fatal(err)
	}
	return f
}

// open connects both ends with their hellos.
func open(t testing.TB, says, wants edge.Hello) (p *edge.Producer, c *edge.Consumer, perr, cerr error) {
	t.Helper()
	a, b := pair(t)
	var wg sync.WaitGroup
	wg.Go(func() { p, perr = edge.Open(t.Context(), t.Context(), a, says) })
	wg.Go(func() { c, cerr = edge.Accept(t.Context(), b, wants) })
	wg.Wait()
	return p, c, perr, cerr
}

var self = edge.Hello{Run: "r1", Edge: 2, Epoch: 5, Slice: "read"}

func TestHandshake(t *testing.T) {
	for _, tc := range []struct {
		name           string
		change         func(*edge.Hello)
		consumer, peer errs.Kind
	}{
		{"older epoch", func(h *edge.Hello) { h.Epoch = 4 }, errs.Fenced, errs.Fenced},
		{"newer epoch", func(h *edge.Hello) { h.Epoch = 6 }, errs.Conflict, errs.Denied},
		{"another run", func(h *edge.Hello) { h.Run = "r2" }, errs.Denied, errs.Denied},
		{"another edge", func(h *edge.Hello) { h.Edge = 3 }, errs.Denied, errs.Denied},
		{"another slice", func(h *edge.Hello) { h.Slice = "x" }, errs.Denied, errs.Denied},
	} {
		t.Run(tc.name, func(t *testing.T) {
			says := self
			tc.change(&says)
			_, _, perr, cerr := open(t, says, self)
			if errs.KindOf(cerr) != tc.consumer || errs.KindOf(perr) != tc.peer {
				t.Errorf("consumer: %v; producer: %v", cerr, perr)
			}
		})
	}
}

func TestFramesArriveInOrderAndEndIsAcknowledged(t *testing.T) {
	p, c, perr, cerr := open(t, self, self)
	if perr != nil || cerr != nil {
		t.Fatal(perr, cerr)
	}
	const n = 200
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			if err := p.Send(t.Context(), data(t, frame.Data, i*97)); err != nil {
				t.Error(err)
				return
			}
		}
		if err := p.Send(t.Context(), data(t, frame.End, 0)); err != nil {
			t.Error(err)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	for i := range n {
		f, err := c.Recv(t.Context())
		if err != nil || len(f) != frame.HeaderSize+i*97 {
			t.Fatalf("frame %d: %d bytes, %v", i, len(f), err)
		}
	}
	if f, err := c.Recv(t.Context()); err != nil || len(f) != frame.HeaderSize {
		t.Fatalf("end: %d bytes, %v", len(f), err)
	}
	if _, err := c.Recv(t.Context()); err != io.EOF {
		t.Fatalf("after the end: %v", err)
	}
	wg.Wait()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// A reader that does not read holds the producer back; giving up frees it.
func TestBackPressure(t *testing.T) {
	p, c, perr, cerr := open(t, self, self)
	if perr != nil || cerr != nil {
		t.Fatal(perr, cerr)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	blocked := make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			err = p.Send(ctx, data(t, frame.Data, 256<<10))
		}
		blocked <- err
	}()
	select {
	case err := <-blocked:
		t.Fatalf("the producer did not wait: %v", err)
	case <-time.After(50 * time.Millisecond): // long enough to fill any bounded queue
	}
	cancel()
	if err := <-blocked; !errors.Is(err, context.Canceled) {
		t.Errorf("after giving up: %v", err)
	}
	p.Abort()
}

func TestPeerGone(t *testing.T) {
	p, c, perr, cerr := open(t, self, self)
	if perr != nil || cerr != nil {
		t.Fatal(perr, cerr)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	for err == nil {
		err = p.Send(t.Context(), data(t, frame.Data, 64<<10))
	}
	if errs.KindOf(err) != errs.Unavailable {
		t.Errorf("producer: %v", err)
	}
	p.Abort()

	p, c, perr, cerr = open(t, self, self)
	if perr != nil || cerr != nil {
		t.Fatal(perr, cerr)
	}
	p.Abort()
	if _, err := c.Recv(t.Context()); err == nil {
		t.Error("a frame came from a producer that gave up")
	}
	_ = c.Close()
}

func FuzzReadHello(f *testing.F) {
	f.Add(self.Append(nil))
	f.Add([]byte("RNKE1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := edge.ReadHello(bytes.NewReader(b))
		if err == nil && !bytes.HasPrefix(b, h.Append(nil)) {
			t.Fatalf("%+v does not encode back", h)
		}
	})
}
