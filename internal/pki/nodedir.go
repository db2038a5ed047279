package pki

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
)

// NodeDir is the folder of a node's identity on its state disk (nodecfg.NodeDir):
//
//	key.pem        the node's key, made here, never leaves the machine
//	cert.pem       its certificate, the intermediate, the root; replaced at each renewal
//	ca.pem         the cluster's root
//	generation     random id of this disk's content, part of the Raft id
//	wireguard.key  the node's WireGuard private key, 32 bytes in hexadecimal
//	member.json    Member: what the cluster said at admission
//
// Each file is replaced as a whole; readers see the old or the new.
type NodeDir string

// Member is what a node knows of its cluster from its admission.
type Member struct {
	Cluster       string   `json:"cluster"`
	ClusterID     string   `json:"cluster_id"`
	Node          string   `json:"node"`
	Role          string   `json:"role"`
	Prefix        string   `json:"prefix"`             // the node's /64
	ClusterPrefix string   `json:"cluster_prefix"`     // the /48
	SliceCA       []byte   `json:"slice_ca"`           // DER
	RaftID        string   `json:"raft_id,omitempty"`  // of a control node
	API           []string `json:"api,omitempty"`      // host:port of control nodes at admission
	Founding      bool     `json:"founding,omitempty"` // this node founds the cluster: not yet committed
}

// Path is the path of a file of the folder.
func (d NodeDir) Path(name string) string { return filepath.Join(string(d), name) }

// Key loads the node's key, and makes it at the first call.
func (d NodeDir) Key() (*ecdsa.PrivateKey, error) {
	k, err := LoadKey(d.Path("key.pem"))
	if err == nil || !errors.Is(err, errs.NotFound) {
		return k, err
	}
	if k, err = NewKey(); err != nil {
		return nil, err
	}
	if err := d.make(); err != nil {
		return nil, err
	}
	return k, SaveKey(d.Path("key.pem"), k)
}

// Generation returns the id of this disk's content, and makes it at the first call.
func (d NodeDir) Generation() (string, error) {
	return d.text("generation", func() (string, error) { return randomHex(16) })
}

// WireGuardKey returns the node's WireGuard private key (32 bytes, clamped by whoever uses
// it), and makes it at the first call.
func (d NodeDir) WireGuardKey() ([]byte, error) {
	s, err := d.text("wireguard.key", func() (string, error) { return randomHex(32) })
	if err != nil {
		return nil, err
	}
	k, err := hex.DecodeString(s)
	if err != nil || len(k) != 32 {
		return nil, errs.E(errs.Corrupt, "read "+d.Path("wireguard.key"), "it is not 32 bytes in hexadecimal")
	}
	return k, nil
}

func (d NodeDir) text(name string, create func() (string, error)) (string, error) {
	data, err := readFile("read node identity", d.Path(name))
	if err == nil {
		return strings.TrimSpace(string(data)), nil
	}
	if !errors.Is(err, errs.NotFound) {
		return "", err
	}
	s, err := create()
	if err != nil {
		return "", err
	}
	return s, d.write(name, []byte(s+"\n"), 0o600)
}

func randomHex(n int) (string, error) {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		return "", errs.E(errs.Internal, "make random id", "%w", err)
	}
	return hex.EncodeToString(b), nil
}

// Member loads member.json. NotFound before the node is admitted.
func (d NodeDir) Member() (Member, error) {
	var m Member
	data, err := readFile("read membership", d.Path("member.json"))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, errs.E(errs.Corrupt, "read membership", "%w", err)
	}
	return m, nil
}

// MemberOf loads member.json for a node that was told who it is, and sees that this is that
// node's folder: of its name, and of the cluster with the root whose fingerprint is pin. The
// name of a cluster says little, for another one may be founded under it.
//
// Errors: NotFound before the node is admitted, Conflict for another node's folder, Corrupt.
func (d NodeDir) MemberOf(cluster, node, pin string) (Member, error) {
	const op = "read membership"
	const hint = "attach the right disk, or an empty one; on an ordinary host, `runink leave --purge` first"
	m, err := d.Member()
	if err != nil {
		return m, err
	}
	if m.Node != node || m.Cluster != cluster {
		return m, errs.E(errs.Conflict, op, "this disk belongs to node %s of cluster %s, not to node %s of cluster %s",
			m.Node, m.Cluster, node, cluster).WithHint(hint)
	}
	root, err := d.Root()
	if errors.Is(err, errs.NotFound) {
		return m, errs.E(errs.Corrupt, op, "%s is not there, and the node was admitted", d.Path("ca.pem")).WithHint(hint)
	}
	if err != nil {
		return m, err
	}
	if have := CertFingerprint(root); have != pin {
		return m, errs.E(errs.Conflict, op, "this disk belongs to another cluster %s: its root is %s, not %s", m.Cluster, have, pin).
			WithField("runink.ca").WithHint("if runink.ca is what `runink cluster init` printed: %s", hint)
	}
	return m, nil
}

// SaveMember replaces member.json. Its presence is what says "admitted", so it is written
// last, after key, certificate and root.
func (d NodeDir) SaveMember(m Member) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return errs.E(errs.Internal, "write membership", "%w", err)
	}
	return d.write("member.json", append(data, '\n'), 0o600)
}

// Chain loads the node's certificate, the intermediate and the root. NotFound before the
// node has a certificate.
func (d NodeDir) Chain() ([]*x509.Certificate, error) { return LoadCerts(d.Path("cert.pem")) }

// SaveChain replaces the certificate (leaf, intermediate, root) and the root's own file.
func (d NodeDir) SaveChain(chain []*x509.Certificate) error {
	if err := d.make(); err != nil {
		return err
	}
	if err := SaveCerts(d.Path("ca.pem"), chain[len(chain)-1]); err != nil {
		return err
	}
	return SaveCerts(d.Path("cert.pem"), chain...)
}

// Root loads the cluster's root. NotFound before the node is admitted.
func (d NodeDir) Root() (*x509.Certificate, error) {
	certs, err := LoadCerts(d.Path("ca.pem"))
	if err != nil {
		return nil, err
	}
	return certs[0], nil
}

// TLSCertificate loads key and chain for crypto/tls. It is cheap enough for every
// handshake and suits ClientOptions.Certificate: a renewed certificate is used at the next
// connection.
func (d NodeDir) TLSCertificate() (*tls.Certificate, error) {
	k, err := LoadKey(d.Path("key.pem"))
	if err != nil {
		return nil, err
	}
	chain, err := d.Chain()
	if err != nil {
		return nil, err
	}
	return TLSCertificate(k, chain), nil
}

func (d NodeDir) make() error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return errs.E(errs.Internal, "make folder of node identity", "%w", err)
	}
	return nil
}

func (d NodeDir) write(name string, data []byte, mode os.FileMode) error {
	if err := d.make(); err != nil {
		return err
	}
	if err := fsx.WriteFileAtomic(d.Path(name), data, mode); err != nil {
		return errs.E(errs.Internal, "write "+d.Path(name), "%w", err)
	}
	return nil
}

// WireGuardPublic returns the public half of WireGuardKey.
func (d NodeDir) WireGuardPublic() ([]byte, error) {
	k, err := d.WireGuardKey()
	if err != nil {
		return nil, err
	}
	priv, err := ecdh.X25519().NewPrivateKey(k) // clamps when it computes, as WireGuard does
	if err != nil {
		return nil, errs.E(errs.Corrupt, "read WireGuard key", "%w", err)
	}
	return priv.PublicKey().Bytes(), nil
}
