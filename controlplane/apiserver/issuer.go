package apiserver

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/internal/seal"
)

// issuer holds the cluster's authorities on a control node and the node's own certificate.
//
// The authorities come from Barn, sealed, and are kept sealed on the state disk too: after
// a weekend off, every certificate of the cluster has expired, and Raft cannot begin before
// control nodes have new ones.
type issuer struct {
	dir  pki.NodeDir
	kek  seal.KEK
	key  *ecdsa.PrivateKey // the node's
	node string

	mu    sync.Mutex
	id    string         // of the cluster
	nodes *pki.Authority // nil until known
	slice *pki.Authority
	chain []*x509.Certificate // the node's own
}

// Contexts of sealed authorities.
func caContext(cluster string) []string      { return []string{"authority", cluster, "nodes"} }
func sliceCAContext(cluster string) []string { return []string{"authority", cluster, "slices"} }

const authorityFile = "authority.json"

// sealedAuthorities is the file, and a part of the cluster's record.
type sealedAuthorities struct {
	ClusterID string   `json:"cluster_id"`
	Chain     [][]byte `json:"chain"`
	Key       seal.Box `json:"key"`
	SliceCA   []byte   `json:"slice_ca"`
	SliceKey  seal.Box `json:"slice_key"`
}

func newIssuer(dir pki.NodeDir, kek seal.KEK, key *ecdsa.PrivateKey, node string) (*issuer, error) {
	i := &issuer{dir: dir, kek: kek, key: key, node: node}
	chain, err := dir.Chain()
	if err != nil && !errors.Is(err, errs.NotFound) {
		return nil, err
	}
	i.chain = chain
	data, err := os.ReadFile(dir.Path(authorityFile))
	if errors.Is(err, os.ErrNotExist) {
		return i, nil
	}
	if err != nil {
		return nil, errs.E(errs.Internal, "read authorities", "%w", err)
	}
	var s sealedAuthorities
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, errs.E(errs.Corrupt, "read authorities", "%w", err)
	}
	return i, i.open(s)
}

// open takes over unsealed what s holds.
func (i *issuer) open(s sealedAuthorities) error {
	nodes, err := unsealAuthority(i.kek, s.Key, caContext(s.ClusterID), s.Chain)
	if err != nil {
		return errs.Wrap("open the nodes' authority", err)
	}
	slices, err := unsealAuthority(i.kek, s.SliceKey, sliceCAContext(s.ClusterID), [][]byte{s.SliceCA})
	if err != nil {
		return errs.Wrap("open the slices' authority", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.id, i.nodes, i.slice = s.ClusterID, nodes, slices
	return nil
}

func unsealAuthority(kek seal.KEK, box seal.Box, context []string, der [][]byte) (*pki.Authority, error) {
	pem, err := kek.Open(box, context...)
	if err != nil {
		return nil, err
	}
	key, err := pki.DecodeKey(pem)
	if err != nil {
		return nil, err
	}
	chain, err := pki.ParseChain(der)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(chain[0].PublicKey) {
		return nil, errs.E(errs.Corrupt, "open authority", "its key and certificate do not belong together")
	}
	return &pki.Authority{Key: key, Chain: chain}, nil
}

// sealAuthorities makes the record of two new authorities.
func sealAuthorities(kek seal.KEK, cluster string, nodes, slices *pki.Authority) (sealedAuthorities, error) {
	s := sealedAuthorities{ClusterID: cluster, Chain: pki.DER(nodes.Chain), SliceCA: slices.Cert().Raw}
	for _, x := range []struct {
		a       *pki.Authority
		context []string
		box     *seal.Box
	}{{nodes, caContext(cluster), &s.Key}, {slices, sliceCAContext(cluster), &s.SliceKey}} {
		pem, err := pki.EncodeKey(x.a.Key)
		if err != nil {
			return s, err
		}
		if *x.box, err = kek.Seal(pem, x.context...); err != nil {
			return s, err
		}
	}
	return s, nil
}

// learn takes the authorities from the cluster's record, and keeps them on the disk.
func (i *issuer) learn(c identity.Cluster) error {
	i.mu.Lock()
	have := i.nodes != nil && i.id == c.ID
	i.mu.Unlock()
	if have {
		return nil
	}
	s := sealedAuthorities{ClusterID: c.ID, Chain: c.Chain, Key: c.CAKey, SliceCA: c.SliceCA, SliceKey: c.SliceKey}
	if err := i.open(s); err != nil {
		return err
	}
	return i.keep(s)
}

func (i *issuer) keep(s sealedAuthorities) error {
	data, err := json.Marshal(s)
	if err != nil {
		return errs.E(errs.Internal, "write authorities", "%w", err)
	}
	if err := fsx.WriteFileAtomic(i.dir.Path(authorityFile), data, 0o600); err != nil {
		return errs.E(errs.Internal, "write authorities", "%w", err)
	}
	return nil
}

// certificate is the node's own, for every handshake.
func (i *issuer) certificate() (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.chain == nil {
		return nil, errs.E(errs.Unavailable, "choose certificate", "this node has none yet")
	}
	return pki.TLSCertificate(i.key, i.chain), nil
}

// own issues this node's own certificate if it is due (two thirds of the present one's life
// are over, or it does not name addrs), and reports when the next is.
func (i *issuer) own(addrs []netip.Addr, now time.Time) (next time.Time, err error) {
	i.mu.Lock()
	a, chain := i.nodes, i.chain
	i.mu.Unlock()
	if chain != nil && now.Before(pki.RenewAt(chain[0])) && now.After(chain[0].NotBefore) && names(chain[0], addrs) {
		return pki.RenewAt(chain[0]), nil
	}
	if a == nil {
		return time.Time{}, noAuthority()
	}
	if chain, err = issueNode(a, pki.NodeNames{Name: i.node, Control: true, Addresses: addrs}, &i.key.PublicKey, now); err != nil {
		return time.Time{}, err
	}
	if err := i.dir.SaveChain(chain); err != nil {
		return time.Time{}, err
	}
	i.mu.Lock()
	i.chain = chain
	i.mu.Unlock()
	return pki.RenewAt(chain[0]), nil
}

func names(c *x509.Certificate, addrs []netip.Addr) bool {
	for _, a := range addrs {
		if c.VerifyHostname(a.String()) != nil {
			return false
		}
	}
	return true
}

// issue makes a node's certificate chain: leaf, intermediate, root.
func (i *issuer) issue(n pki.NodeNames, key *ecdsa.PublicKey, now time.Time) ([]*x509.Certificate, error) {
	i.mu.Lock()
	a := i.nodes
	i.mu.Unlock()
	if a == nil {
		return nil, noAuthority()
	}
	return issueNode(a, n, key, now)
}

func issueNode(a *pki.Authority, n pki.NodeNames, key *ecdsa.PublicKey, now time.Time) ([]*x509.Certificate, error) {
	leaf, err := a.IssueNode(n, key, now)
	if err != nil {
		return nil, err
	}
	return append([]*x509.Certificate{leaf}, a.Chain...), nil
}

func (i *issuer) slices() (*pki.Authority, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.slice == nil {
		return nil, noAuthority()
	}
	return i.slice, nil
}

func noAuthority() error {
	return errs.E(errs.Unavailable, "issue certificate", "this control node has not received the cluster's authority yet").WithHint("try again in a moment")
}
