package edge

import "context"

// Sender and Receiver are the ends of an edge, as the engine uses them.
type (
	Sender interface {
		Send(ctx context.Context, f []byte) error
		Close(ctx context.Context) error
	}
	Receiver interface {
		Recv(ctx context.Context) ([]byte, error)
	}
)

// TLS is a slice's certificate and key and the authority of its peers, PEM.
type TLS struct{ Cert, Key, CA []byte }

// Peer is the other end of an edge between nodes: what it must say, and the URI in its
// certificate.
type Peer struct {
	Hello Hello
	URI   string
}

// Network opens edges between nodes. It is an interface so that only binaries whose plan
// has such edges link an implementation.
type Network interface {
	// Listen accepts the producers of all incoming edges on one address.
	Listen(ctx context.Context, addr string, id TLS, producers []Peer) (Listener, error)
	// Dial opens an outgoing edge; it tries until connect ends. The edge lives as long as ctx.
	Dial(ctx, connect context.Context, addr string, id TLS, self Hello, consumerURI string) (Sender, error)
}

// Listener holds the incoming edges of a slice. A Receiver waits for its producer.
type Listener interface {
	Receiver(edge int) Receiver
	// Err returns why the last producer was refused, nil if none was.
	Err() error
	Close() error
}
