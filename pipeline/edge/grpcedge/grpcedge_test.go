package grpcedge

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"testing"
	"time"

	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/pipeline/edge"
	"github.com/runink/runink/sdk/frame"
)

func sliceTLS(t *testing.T, ca *pki.Authority, slice string) edge.TLS {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.IssueSlice(pki.SliceID{Run: "r", Slice: slice, Epoch: 1}, key.Public(), time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return edge.TLS{
		Cert: pki.EncodeCerts(cert),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		CA:   pki.EncodeCerts(ca.Cert()),
	}
}

// A consumer that ends as soon as it has seen the end frame must not take the answer to it
// along: the producer would report a failure, and the region would be run again.
func TestConsumerThatClosesAtTheEnd(t *testing.T) {
	ca, err := pki.NewSliceAuthority("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	producer, consumer := sliceTLS(t, ca, "up"), sliceTLS(t, ca, "down")
	hello := edge.Hello{Run: "r", Edge: 0, Epoch: 1, Slice: "up"}
	end := frame.Append(nil, frame.Header{Kind: frame.End, Run: frame.RunHash("r"), Epoch: 1})
	if err := frame.Seal(end, 0); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := free.Addr().String()
		free.Close()
		l, err := Network{}.Listen(t.Context(), addr, consumer, []edge.Peer{{Hello: hello, URI: slicechan.SliceURI("r", "up", 1)}})
		if err != nil {
			t.Fatal(err)
		}
		closed := make(chan error, 1)
		go func() {
			_, err := l.Receiver(0).Recv(t.Context())
			if cerr := l.Close(); err == nil {
				err = cerr
			}
			closed <- err
		}()
		connect, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		s, err := Network{}.Dial(t.Context(), connect, addr, producer, hello, slicechan.SliceURI("r", "down", 1))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatalf("the producer lost nothing and reports: %v", err)
		}
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
	}
}
