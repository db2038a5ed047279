package identity

import (
	"encoding/binary"
	"net/netip"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// Founding is the payload of CmdFound. Node.Prefix is chosen by the handler.
type Founding struct {
	Cluster Cluster `json:"cluster"`
	Node    Node    `json:"node"`
}

// found writes the cluster's record and admits its first node. It is the first command of
// a cluster and is refused ever after, except to the same founding again.
func found(tx *barn.Tx, m barn.Meta, p Founding) (Node, error) {
	const op = "found cluster"
	tx.Audit(map[string]string{"cluster": p.Cluster.Name, "cluster_id": p.Cluster.ID, "node": p.Node.Name, "key": p.Node.Key})
	old, ok, err := ReadCluster(tx)
	if err != nil {
		return Node{}, err
	}
	if ok {
		if n, ok, err := ReadNode(tx, p.Node.Name); err == nil && ok && old.ID == p.Cluster.ID {
			return n, nil
		}
		return Node{}, errs.E(errs.Exists, op, "cluster %q (%s) was founded at %s", old.Name, old.ID, old.Founded)
	}
	if b := p.Cluster.Prefix; b.Bits() != 48 || !b.Addr().Is6() || !b.Addr().IsPrivate() {
		return Node{}, errs.E(errs.Invalid, op, "%s is not a unique local /48", b).WithField("prefix")
	}
	p.Cluster.Founded = m.Time
	if err := put(tx, clusterKey, p.Cluster); err != nil {
		return Node{}, err
	}
	n := p.Node
	n.Joined = m.Time
	if n.Prefix, err = nextPrefix(tx, p.Cluster.Prefix); err != nil {
		return Node{}, err
	}
	return n, put(tx, nodePrefix+n.Name, n)
}

// nextPrefix takes the next /64 of the cluster's /48. A removed node's is not given out
// again, so that a packet in flight to it never reaches its successor.
func nextPrefix(tx *barn.Tx, cluster netip.Prefix) (netip.Prefix, error) {
	var next uint16 = 1
	if v, ok := tx.Get(prefixesKey); ok {
		if len(v.Data) != 2 {
			return netip.Prefix{}, errs.E(errs.Corrupt, "choose the node's prefix", "%s has %d bytes", prefixesKey, len(v.Data))
		}
		next = binary.BigEndian.Uint16(v.Data)
	}
	if next == 0 {
		return netip.Prefix{}, errs.E(errs.Exhausted, "choose the node's prefix", "all 65535 prefixes of %s were given out", cluster)
	}
	tx.Put(prefixesKey, binary.BigEndian.AppendUint16(nil, next+1))
	a := cluster.Masked().Addr().As16()
	binary.BigEndian.PutUint16(a[6:], next)
	return netip.PrefixFrom(netip.AddrFrom16(a), 64), nil
}
