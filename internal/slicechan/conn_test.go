package slicechan

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// TestRecvTakesEverySize: messages of any size up to MaxPacket arrive whole and in order, a
// larger packet is refused, and the end is io.EOF.
func TestRecvTakesEverySize(t *testing.T) {
	a, b, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	from, to := NewConn(a), NewConn(b)
	defer to.Close()
	sizes := []int{0, 1, 100, 4096, 10, MaxPacket - 100, 7}
	for _, n := range sizes {
		sent := make(chan error, 1)
		want := Up{Seq: uint64(n), Fail: &Fail{Message: strings.Repeat("x", n)}}
		go func() { sent <- from.Send(want) }()
		var got Up
		if err := errors.Join(to.Recv(&got), <-sent); err != nil {
			t.Fatal(err)
		}
		if got.Seq != want.Seq || got.Fail.Message != want.Fail.Message {
			t.Fatalf("of %d bytes arrived message %d of %d", n, got.Seq, len(got.Fail.Message))
		}
	}
	if err := from.Send(Up{Fail: &Fail{Message: strings.Repeat("x", MaxPacket)}}); err == nil {
		t.Error("a message that is too large was sent")
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := a.Write(make([]byte, MaxPacket+1))
		wrote <- err
	}()
	if err := to.Recv(&Up{}); err == nil || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "exceeds") {
		t.Errorf("a packet that is too large: %v", err)
	}
	if err := errors.Join(<-wrote, from.Close()); err != nil {
		t.Fatal(err)
	}
	if err := to.Recv(&Up{}); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}
