package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/netip"
	"time"

	"github.com/runink/runink/internal/errs"
)

// Lifetimes. Those of nodes and slices are short because nothing but expiry reaches a
// party that does not ask Barn.
const (
	RootLife         = 20 * 365 * 24 * time.Hour
	IntermediateLife = 10 * 365 * 24 * time.Hour
	OperatorLife     = 2 * 365 * 24 * time.Hour
	NodeLife         = 24 * time.Hour

	// Backdate is how far before now a certificate begins, so that a peer whose clock is
	// a little behind accepts it at once.
	Backdate = 2 * time.Minute
)

// Authority signs certificates. Chain is its own certificate first and the root last.
type Authority struct {
	Key   *ecdsa.PrivateKey
	Chain []*x509.Certificate
}

// Cert is the authority's own certificate.
func (a *Authority) Cert() *x509.Certificate { return a.Chain[0] }

// Root is the last certificate of its chain.
func (a *Authority) Root() *x509.Certificate { return a.Chain[len(a.Chain)-1] }

// NewRoot makes the operator's root of a cluster.
func NewRoot(cluster string, now time.Time) (*Authority, error) {
	return selfSigned(pkix.Name{CommonName: "runink root of " + cluster, Organization: []string{cluster}}, 1, now, RootLife)
}

// NewSliceAuthority makes the authority of a cluster's slices.
func NewSliceAuthority(cluster string, now time.Time) (*Authority, error) {
	return selfSigned(pkix.Name{CommonName: "runink slices of " + cluster, Organization: []string{cluster}}, 0, now, IntermediateLife)
}

func selfSigned(name pkix.Name, pathLen int, now time.Time, life time.Duration) (*Authority, error) {
	k, err := NewKey()
	if err != nil {
		return nil, err
	}
	t := caTemplate(name, pathLen, now, life)
	c, err := sign(t, t, k.Public(), k)
	if err != nil {
		return nil, err
	}
	return &Authority{Key: k, Chain: []*x509.Certificate{c}}, nil
}

func caTemplate(name pkix.Name, pathLen int, now time.Time, life time.Duration) *x509.Certificate {
	return &x509.Certificate{
		Subject:               name,
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(life),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            pathLen,
		MaxPathLenZero:        pathLen == 0,
		KeyUsage:              x509.KeyUsageCertSign,
	}
}

// Request makes a PKCS #10 request for a key, in DER. Only the key in it counts: the
// signer decides the name.
func Request(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, errs.E(errs.Internal, "make certificate request", "%w", err)
	}
	return der, nil
}

// RequestedKey returns the key of a request after checking that the requester holds it.
func RequestedKey(der []byte) (*ecdsa.PublicKey, error) {
	const op = "read certificate request"
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, errs.E(errs.Invalid, op, "%w", err).WithField("csr")
	}
	if err := r.CheckSignature(); err != nil {
		return nil, errs.E(errs.Invalid, op, "the requester does not hold its key: %w", err).WithField("csr")
	}
	k, ok := r.PublicKey.(*ecdsa.PublicKey)
	if !ok || k.Curve.Params().BitSize != 256 {
		return nil, errs.E(errs.Invalid, op, "the key is not ECDSA P-256").WithField("csr")
	}
	return k, nil
}

// SignIntermediate makes the intermediate of a cluster for the key of a request. Call it
// on the root.
func (a *Authority) SignIntermediate(cluster string, csr []byte, now time.Time) (*Authority, error) {
	pub, err := RequestedKey(csr)
	if err != nil {
		return nil, err
	}
	t := caTemplate(pkix.Name{CommonName: "runink nodes of " + cluster, Organization: []string{cluster}}, 0, now, IntermediateLife)
	c, err := a.issue(t, pub)
	if err != nil {
		return nil, err
	}
	return &Authority{Chain: append([]*x509.Certificate{c}, a.Chain...)}, nil
}

// IssueOperator makes an operator's client certificate. Call it on the root.
func (a *Authority) IssueOperator(name string, pub crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	id := Identity{Kind: Operator, Name: name}
	return a.issue(leaf(id, now, OperatorLife, x509.ExtKeyUsageClientAuth), pub)
}

// NodeNames is what a node's certificate says besides its name. Addresses and the host
// name are there for tools that verify hosts (curl, a scraper); Runink never does.
type NodeNames struct {
	Name      string
	Control   bool
	Addresses []netip.Addr
}

// IssueNode makes a node's certificate, valid for NodeLife. Call it on the intermediate.
func (a *Authority) IssueNode(n NodeNames, pub crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	t := leaf(Identity{Kind: Node, Name: n.Name, Control: n.Control}, now, NodeLife,
		x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth)
	t.DNSNames = []string{n.Name}
	for _, ip := range n.Addresses {
		t.IPAddresses = append(t.IPAddresses, ip.AsSlice())
	}
	return a.issue(t, pub)
}

// IssueSlice makes the certificate of one attempt of a slice. Call it on the slice
// authority.
func (a *Authority) IssueSlice(id SliceID, pub crypto.PublicKey, now time.Time, life time.Duration) (*x509.Certificate, error) {
	return a.issue(leaf(Identity{Kind: Slice, Slice: id}, now, life,
		x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth), pub)
}

func leaf(id Identity, now time.Time, life time.Duration, usage ...x509.ExtKeyUsage) *x509.Certificate {
	return &x509.Certificate{
		Subject:     pkix.Name{CommonName: id.String()},
		NotBefore:   now.Add(-Backdate),
		NotAfter:    now.Add(life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: usage,
		URIs:        id.uris(),
	}
}

// issue signs t within the authority's own dates. Verification without dates relies on
// the beginning of a certificate lying within all of its issuers' dates.
func (a *Authority) issue(t *x509.Certificate, pub crypto.PublicKey) (*x509.Certificate, error) {
	ca := a.Cert()
	if t.NotBefore.Before(ca.NotBefore) {
		t.NotBefore = ca.NotBefore
	}
	if t.NotAfter.After(ca.NotAfter) {
		t.NotAfter = ca.NotAfter
	}
	if !t.NotBefore.Before(t.NotAfter) {
		return nil, errs.E(errs.Unavailable, "issue certificate", "the authority %q ended at %s", ca.Subject.CommonName, ca.NotAfter).
			WithHint("check this machine's clock; a new intermediate needs the operator's root")
	}
	return sign(t, ca, pub, a.Key)
}

func sign(t, parent *x509.Certificate, pub crypto.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	const op = "issue certificate"
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	t.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	return c, nil
}
