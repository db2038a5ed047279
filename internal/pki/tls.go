package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"time"

	"github.com/runink/runink/internal/errs"
)

// ClientOptions says whom a client connects as, and to whom. Exactly one of Root, Pin and
// KeyPin is set.
type ClientOptions struct {
	Root   *x509.Certificate // the cluster's root
	Pin    string            // fingerprint of the root, which the server then has to present
	KeyPin string            // fingerprint of the server's own key: a node before its bootstrap

	// Accept judges the server's identity after its chain was verified; nil accepts
	// control nodes only, since the API is theirs. Not called with KeyPin.
	Accept func(Identity) error

	// Now is the clock for dates; nil verifies without dates.
	Now func() time.Time

	// Certificate is asked at each handshake, so that a renewed one is used at once.
	// Nil, or a nil certificate: the client is anonymous.
	Certificate func() (*tls.Certificate, error)

	// NextProtos is offered by ALPN; nil: h2.
	NextProtos []string
}

// ClientTLS makes a client's configuration. Go's own verification, which wants a host
// name, is replaced by Verify.
func ClientTLS(o ClientOptions) *tls.Config {
	c := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         o.NextProtos,
		InsecureSkipVerify: true, // VerifyConnection does it, by identity instead of by host
		VerifyConnection:   o.verify,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if o.Certificate == nil {
				return &tls.Certificate{}, nil
			}
			cert, err := o.Certificate()
			if cert == nil && err == nil {
				cert = &tls.Certificate{}
			}
			return cert, err
		},
	}
	if c.NextProtos == nil {
		c.NextProtos = []string{"h2"}
	}
	return c
}

func (o ClientOptions) verify(s tls.ConnectionState) error {
	const op = "verify server"
	chain := s.PeerCertificates
	if len(chain) == 0 {
		return errs.E(errs.Unauthenticated, op, "it has no certificate")
	}
	if o.KeyPin != "" {
		if got := CertFingerprint(chain[0]); got != o.KeyPin {
			return errs.E(errs.Unauthenticated, op, "its key is %s, not %s", got, o.KeyPin).
				WithHint("compare with the fingerprint on the node's own console")
		}
		return nil
	}
	root := o.Root
	if root == nil {
		var err error
		if root, err = PinnedRoot(chain, o.Pin); err != nil {
			return err
		}
	}
	var now time.Time
	if o.Now != nil {
		now = o.Now()
	}
	id, err := Verify(chain, root, x509.ExtKeyUsageServerAuth, now)
	if err != nil {
		return err
	}
	if o.Accept != nil {
		return o.Accept(id)
	}
	return ControlNode(id)
}

// ControlNode accepts control nodes and nothing else.
func ControlNode(id Identity) error {
	if id.Kind != Node || !id.Control {
		return errs.E(errs.Unauthenticated, "verify peer", "%s is not a control node", id)
	}
	return nil
}

// MutualTLS makes the two sides of connections between nodes, such as Raft's: both ends
// show a certificate of the cluster, and accept judges the other's identity and key. cert
// is asked at each handshake, so that a renewed one is used at once.
func MutualTLS(root *x509.Certificate, cert func() (*tls.Certificate, error), now func() time.Time, accept func(Identity, *x509.Certificate) error) (server, client *tls.Config) {
	verify := func(usage x509.ExtKeyUsage) func(tls.ConnectionState) error {
		return func(s tls.ConnectionState) error {
			id, err := Verify(s.PeerCertificates, root, usage, now())
			if err != nil {
				return err
			}
			return accept(id, s.PeerCertificates[0])
		}
	}
	server = &tls.Config{
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		ClientAuth:       tls.RequireAnyClientCert,
		VerifyConnection: verify(x509.ExtKeyUsageClientAuth),
		GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert() },
	}
	client = &tls.Config{
		MinVersion:           tls.VersionTLS13,
		InsecureSkipVerify:   true, // VerifyConnection does it, by identity instead of by host
		VerifyConnection:     verify(x509.ExtKeyUsageServerAuth),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert() },
	}
	return server, client
}

// TLSCertificate puts a key and its chain together for crypto/tls.
func TLSCertificate(key *ecdsa.PrivateKey, chain []*x509.Certificate) *tls.Certificate {
	return &tls.Certificate{Certificate: DER(chain), PrivateKey: key, Leaf: chain[0]}
}

// SelfSigned makes a certificate that carries only a key: what a node shows before its
// bootstrap, to an operator who compares the fingerprint with its console.
func SelfSigned(key *ecdsa.PrivateKey, name string) (*tls.Certificate, error) {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name + ", not bootstrapped"},
		// Any clock will do: the fingerprint is what is checked.
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, errs.E(errs.Internal, "make certificate", "%w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errs.E(errs.Internal, "make certificate", "%w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
