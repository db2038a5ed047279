package identity

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/seal"
)

// Reader is the state to read from: a barn.View or, in a handler, a *barn.Tx.
type Reader interface {
	Get(key string) (barn.Value, bool)
	Range(prefix string, fn func(key string, v barn.Value) bool)
}

// Keys of the tables.
const (
	clusterKey  = "/cluster"
	prefixesKey = "/cluster/prefixes"
	nodePrefix  = "/nodes/"
	revPrefix   = "/revoked/"
	herdPrefix  = "/herds/"
	tokenPrefix = "/tokens/"
	keyPrefix   = "/keys/"

	machinePrefix = "/machines/"
	pendingPrefix = "/pending/"
)

// Cluster is what is true of the whole cluster since its founding.
type Cluster struct {
	Name         string       `json:"name"`
	ID           string       `json:"id"`
	Prefix       netip.Prefix `json:"prefix"` // ULA /48
	Founded      time.Time    `json:"founded"`
	Founder      string       `json:"founder"`  // node
	Request      string       `json:"request"`  // request id of the bootstrap
	KEK          string       `json:"kek"`      // id of the key-encryption key
	Operator     string       `json:"operator"` // fingerprint of the founding operator's key
	OperatorName string       `json:"operator_name"`
	Chain        [][]byte     `json:"chain"`        // DER: intermediate, root
	CAKey        seal.Box     `json:"ca_key"`       // PKCS #8 PEM of the intermediate's key
	SliceCA      []byte       `json:"slice_ca"`     // DER
	SliceKey     seal.Box     `json:"slice_ca_key"` // PKCS #8 PEM
}

// Node is a node's admission record. What changes while it lives (session, resources,
// drain) is not here.
type Node struct {
	Name       string       `json:"name"`
	Role       string       `json:"role"`                // control, worker, control+worker
	Key        string       `json:"key"`                 // fingerprint
	Prefix     netip.Prefix `json:"prefix"`              // /64 of the cluster's /48
	WireGuard  []byte       `json:"wireguard_key"`       // public, 32 bytes
	Addresses  []string     `json:"addresses"`           // without port
	APIPort    uint16       `json:"api_port,omitempty"`  // of control nodes
	RaftPort   uint16       `json:"raft_port,omitempty"` // of control nodes
	RaftID     string       `json:"raft_id,omitempty"`   // of control nodes: name-generation
	Generation string       `json:"generation"`          // of the state disk
	Joined     time.Time    `json:"joined"`
	Token      string       `json:"token,omitempty"`   // id of the token that admitted it
	Retired    bool         `json:"retired,omitempty"` // taken out of the quorum
	Revision   uint64       `json:"-"`                 // log index of the last change
}

// Control reports whether a control-plane replica belongs on the node.
func (n Node) Control() bool { return n.Role == "control" || n.Role == "control+worker" }

// Member reports whether the node belongs to the Raft group.
func (n Node) Member() bool { return n.Control() && !n.Retired }

// Worker reports whether slices may be placed on the node.
func (n Node) Worker() bool { return n.Role == "worker" || n.Role == "control+worker" }

// Revocation is the end of a key, whatever certificates are out for it.
type Revocation struct {
	Node string    `json:"node"`
	Time time.Time `json:"time"`
	Why  string    `json:"why"`
}

// Herd is a tenant: its quota bounds the sum of what its slices request. Zero dimensions
// have no bound.
type Herd struct {
	Name     string `json:"name"`
	MilliCPU int64  `json:"milli_cpu,omitempty"`
	Memory   int64  `json:"memory,omitempty"` // bytes
	Disk     int64  `json:"disk,omitempty"`   // bytes
	Revision uint64 `json:"-"`                // log index of the last change
}

// Token admits one node once. Its text is "rt_<id>_<secret>" and is not stored.
type Token struct {
	ID      string    `json:"id"`
	Hash    []byte    `json:"hash"` // SHA-256 of the secret
	Node    string    `json:"node"`
	Role    string    `json:"role"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	By      string    `json:"by"`
	Used    time.Time `json:"used,omitzero"`
	UsedBy  string    `json:"used_by,omitempty"` // fingerprint of the admitted key
	Revoked bool      `json:"revoked,omitempty"`
	Machine string    `json:"machine,omitempty"` // id of the record it was minted for
}

// State is unused, used, expired or revoked at a time.
func (t Token) State(now time.Time) string {
	switch {
	case !t.Used.IsZero():
		return "used"
	case t.Revoked:
		return "revoked"
	case now.After(t.Expires):
		return "expired"
	}
	return "unused"
}

// Key is an API key of one herd, or of a netboot service, which has none. Its text is "rk_<id>_<secret>" and is not stored.
type Key struct {
	ID      string    `json:"id"`
	Hash    []byte    `json:"hash"` // SHA-256 of the secret
	Herd    string    `json:"herd"`
	Role    string    `json:"role"` // viewer, runner, admin, netboot
	Name    string    `json:"name,omitempty"`
	By      string    `json:"by"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Revoked bool      `json:"revoked,omitempty"`
}

// ReadCluster returns the cluster's record; false before the founding.
func ReadCluster(r Reader) (Cluster, bool, error) {
	return get[Cluster](r, clusterKey)
}

// ReadNode returns a node's admission record.
func ReadNode(r Reader, name string) (Node, bool, error) {
	v, ok := r.Get(nodePrefix + name)
	if !ok {
		return Node{}, false, nil
	}
	n, err := decode[Node](nodePrefix+name, v)
	n.Revision = v.Rev
	return n, err == nil, err
}

// Nodes returns every admitted node, by name.
func Nodes(r Reader) ([]Node, error) {
	return list(r, nodePrefix, func(n *Node, rev uint64) { n.Revision = rev })
}

// ReadHerd returns a herd.
func ReadHerd(r Reader, name string) (Herd, bool, error) {
	v, ok := r.Get(herdPrefix + name)
	if !ok {
		return Herd{}, false, nil
	}
	h, err := decode[Herd](herdPrefix+name, v)
	h.Revision = v.Rev
	return h, err == nil, err
}

// Herds returns every herd, by name.
func Herds(r Reader) ([]Herd, error) {
	return list(r, herdPrefix, func(h *Herd, rev uint64) { h.Revision = rev })
}

// ReadToken returns a token.
func ReadToken(r Reader, id string) (Token, bool, error) { return get[Token](r, tokenPrefix+id) }

// Tokens returns every token that is kept, by id.
func Tokens(r Reader) ([]Token, error) { return list[Token](r, tokenPrefix, nil) }

// ReadKey returns an API key.
func ReadKey(r Reader, id string) (Key, bool, error) { return get[Key](r, keyPrefix+id) }

// Keys returns every API key that is kept, by id.
func Keys(r Reader) ([]Key, error) { return list[Key](r, keyPrefix, nil) }

// Revoked returns the revocation of a key by its fingerprint.
func Revoked(r Reader, fingerprint string) (Revocation, bool, error) {
	return get[Revocation](r, revPrefix+fingerprint)
}

func get[T any](r Reader, key string) (T, bool, error) {
	v, ok := r.Get(key)
	if !ok {
		var zero T
		return zero, false, nil
	}
	t, err := decode[T](key, v)
	return t, err == nil, err
}

func list[T any](r Reader, prefix string, each func(*T, uint64)) ([]T, error) {
	var out []T
	var err error
	r.Range(prefix, func(key string, v barn.Value) bool {
		var t T
		if t, err = decode[T](key, v); err != nil {
			return false
		}
		if each != nil {
			each(&t, v.Rev)
		}
		out = append(out, t)
		return true
	})
	return out, err
}

func decode[T any](key string, v barn.Value) (T, error) {
	var t T
	if err := json.Unmarshal(v.Data, &t); err != nil {
		return t, errs.E(errs.Corrupt, "read table", "%w", err).WithField(key)
	}
	return t, nil
}

func put(tx *barn.Tx, key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return errs.E(errs.Internal, "write table", "%w", err).WithField(key)
	}
	tx.Put(key, data)
	return nil
}
