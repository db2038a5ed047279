package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/pipeline/edge"
	"github.com/runink/runink/pipeline/edge/grpcedge"
	"github.com/runink/runink/sdk/frame"
)

func hello(epoch uint64) edge.Hello {
	return edge.Hello{Run: "r1", Edge: 2, Epoch: epoch, Slice: "read"}
}

func uri(slice string, epoch uint64) string { return slicechan.SliceURI("r1", slice, epoch) }

// dial opens the edge as a producer that says h, has a certificate for cert, of ca, and
// expects the consumer to be peer.
func dial(t *testing.T, addr string, ca *authority, h edge.Hello, cert, peer string) (edge.Sender, error) {
	t.Helper()
	connect, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	return grpcedge.Network{}.Dial(t.Context(), connect, addr, ca.issue(t, cert), h, peer)
}

func TestGRPCEdgeIdentity(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	for _, tc := range []struct {
		name       string
		ca         *authority
		h          edge.Hello
		cert, peer string
		kind       errs.Kind
	}{
		{"older epoch", ca, hello(4), uri("read", 4), uri("sum", 5), errs.Fenced},
		{"older certificate", ca, hello(5), uri("read", 4), uri("sum", 5), errs.Denied},
		{"certificate of another slice", ca, hello(5), uri("x", 5), uri("sum", 5), errs.Denied},
		{"another edge", ca, edge.Hello{Run: "r1", Edge: 9, Epoch: 5, Slice: "read"}, uri("read", 5), uri("sum", 5), errs.Denied},
		{"another authority", other, hello(5), uri("read", 5), uri("sum", 5), errs.Timeout},
		{"consumer of another epoch", ca, hello(5), uri("read", 5), uri("sum", 6), errs.Timeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr := freeAddress(t)
			l, err := grpcedge.Network{}.Listen(t.Context(), addr, ca.issue(t, uri("sum", 5)), []edge.Peer{{Hello: hello(5), URI: uri("read", 5)}})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if _, err := dial(t, addr, tc.ca, tc.h, tc.cert, tc.peer); errs.KindOf(err) != tc.kind {
				t.Errorf("error %v, want %v", err, tc.kind)
			}
			// The right producer still gets the edge, and the data through it.
			s, err := dial(t, addr, ca, hello(5), uri("read", 5), uri("sum", 5))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := dial(t, addr, ca, hello(5), uri("read", 5), uri("sum", 5)); errs.KindOf(err) != errs.Denied {
				t.Errorf("a second producer: %v", err)
			}
			carry(t, s, l.Receiver(2))
		})
	}
}

func carry(t *testing.T, s edge.Sender, r edge.Receiver) {
	t.Helper()
	var sent [][]byte
	for i := range 50 {
		f := append(frame.Append(nil, frame.Header{Kind: frame.Data, Rows: 1, Seq: uint64(i)}), bytes.Repeat([]byte{byte(i)}, i*i*40+1)...)
		if err := frame.Seal(f, 0); err != nil {
			t.Fatal(err)
		}
		sent = append(sent, f)
	}
	end := frame.Append(nil, frame.Header{Kind: frame.End})
	if err := frame.Seal(end, 0); err != nil {
		t.Fatal(err)
	}
	sent = append(sent, end)
	done := make(chan error, 1)
	go func() {
		for _, f := range sent {
			if err := s.Send(t.Context(), bytes.Clone(f)); err != nil {
				done <- err
				return
			}
		}
		done <- s.Close(t.Context())
	}()
	for i, f := range sent {
		g, err := r.Recv(t.Context())
		if err != nil || !bytes.Equal(f, g) {
			t.Fatalf("frame %d: %v", i, err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := r.Recv(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// A producer may be there first: it tries until the consumer listens.
func TestGRPCProducerComesFirst(t *testing.T) {
	ca := newAuthority(t)
	addr := freeAddress(t)
	type opened struct {
		s   edge.Sender
		err error
	}
	ch := make(chan opened, 1)
	go func() {
		s, err := grpcedge.Network{}.Dial(t.Context(), t.Context(), addr, ca.issue(t, uri("read", 5)), hello(5), uri("sum", 5))
		ch <- opened{s, err}
	}()
	l, err := grpcedge.Network{}.Listen(t.Context(), addr, ca.issue(t, uri("sum", 5)), []edge.Peer{{Hello: hello(5), URI: uri("read", 5)}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := <-ch
	if o.err != nil {
		t.Fatal(o.err)
	}
	carry(t, o.s, l.Receiver(2))
}
