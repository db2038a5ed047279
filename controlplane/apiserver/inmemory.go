package apiserver

import (
	"context"
	"crypto/x509"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/runink/runink/controlplane/apiserver/rest"
	"github.com/runink/runink/internal/errs"
)

// memoryBuffer is how much one direction of a connection in memory holds, in bytes.
const memoryBuffer = 256 << 10

// memoryListener is where the gRPC server meets the gateway of REST. The connections it
// accepts are the only ones on which the caller's certificate is believed to be what the
// metadata says, and only this process can make one.
type memoryListener struct{ *bufconn.Listener }

// memoryConn is the server's end of such a connection.
type memoryConn struct{ net.Conn }

func newMemoryListener() memoryListener { return memoryListener{bufconn.Listen(memoryBuffer)} }

// Accept implements net.Listener.
func (l memoryListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return memoryConn{c}, nil
}

// dial makes the gateway's end.
func (l memoryListener) dial(o []grpc.DialOption) (*grpc.ClientConn, error) {
	cc, err := grpc.NewClient("passthrough:///memory", append(o,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
	)...)
	if err != nil {
		return nil, errs.E(errs.Internal, "reach the gRPC server in memory", "%w", err)
	}
	return cc, nil
}

// inMemory is what the gRPC server knows of a connection in memory.
type inMemory struct{ credentials.CommonAuthInfo }

// AuthType implements credentials.AuthInfo.
func (inMemory) AuthType() string { return "memory" }

// shown are the certificates that a REST caller showed. They were verified in the handshake
// of its connection, as those of a gRPC caller are.
func shown(md metadata.MD) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, der := range md.Get(rest.CertificateKey) {
		c, err := x509.ParseCertificate([]byte(der))
		if err != nil {
			return nil, errs.E(errs.Internal, "authenticate", "the gateway passed on what is no certificate: %w", err)
		}
		out = append(out, c)
	}
	return out, nil
}
