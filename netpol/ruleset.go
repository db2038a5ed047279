package netpol

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/nodecfg"
)

// The table, as `nft list table inet runink` shows it (the part in brackets only when
// Exclusive):
//
//	map sources { type ifname . ipv6_addr : verdict }      # of slices here: goto edge
//	map edges   { type ipv6_addr . ipv6_addr : verdict }   # producer . consumer: accept
//	chain forward { hook forward; policy accept [drop];
//	    iifname . ip6 saddr vmap @sources
//	    iifname "wg-runink" oifname "rk-*" goto edge       # allowed-IPs are the anti-spoofing
//	    iifname "rk-*" drop;  oifname "rk-*" drop
//	    iifname "wg-runink" drop;  oifname "wg-runink" drop
//	}
//	chain edge {
//	    tcp dport 7464 ip6 saddr . ip6 daddr vmap @edges
//	    tcp sport 7464 tcp flags & (syn|ack) != syn ip6 daddr . ip6 saddr vmap @edges
//	    drop
//	}
//	chain input { hook input; policy accept [drop];
//	    iifname "rk-*" drop;  iifname "wg-runink" drop
//	    [ iif lo, established and related, ICMP, DHCP answers, the node's ports: accept ]
//	    [ with Netboot: iifname @netboot udp dport 67, 69, 4011, tcp dport 7465: accept ]
//	}
//	chain output { hook output; policy accept; oifname "rk-*" drop; oifname "wg-runink" drop }
//
// Edges are judged without connection tracking: one element opens both directions, and taking
// it out cuts a running connection at once.

const (
	chainForward = "forward"
	chainEdge    = "edge"
	chainInput   = "input"
	chainOutput  = "output"
	mapSources   = "sources"
	mapEdges     = "edges"
	setNetboot   = "netboot"
)

// rulesetVersion changes with every change of the rules below, so that an agent of another
// version replaces the table instead of adopting it.
const rulesetVersion = 1

// marker is the name of an empty chain that says which rules are loaded.
func marker(c Config) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %v %v %v", rulesetVersion, c.Exclusive, c.TCP, c.Netboot))
	return "v" + hex.EncodeToString(sum[:6])
}

func table() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
}

func sourcesMap(t *nftables.Table) *nftables.Set {
	return &nftables.Set{
		Table: t, Name: mapSources, IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIP6Addr),
		DataType: nftables.TypeVerdict,
	}
}

func edgesMap(t *nftables.Table) *nftables.Set {
	return &nftables.Set{
		Table: t, Name: mapEdges, IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeIP6Addr),
		DataType: nftables.TypeVerdict,
	}
}

// netbootSet holds the interface on which other machines are booted.
func netbootSet(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: t, Name: setNetboot, KeyType: nftables.TypeIFName}
}

// netbootPorts are where machines that boot from the network ask: DHCP, TFTP, PXE, and HTTP. The
// blocks of a file come from ports that TFTP's server chooses, which speaks first there: what is
// sent back is an answer.
func netbootPorts() (udp, tcp []uint16) {
	return []uint16{67, 69, 4011}, []uint16{nodecfg.PortNetboot}
}

// load queues the whole table on c. An existing one is replaced in the same transaction.
func load(c *nftables.Conn, cfg Config) error {
	t := table()
	c.AddTable(t) // so that deleting it cannot fail
	c.DelTable(t)
	c.AddTable(t)
	c.AddChain(&nftables.Chain{Table: t, Name: marker(cfg)})
	edge := c.AddChain(&nftables.Chain{Table: t, Name: chainEdge})
	sources, edges := sourcesMap(t), edgesMap(t)
	for _, s := range []*nftables.Set{sources, edges} {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	policy := nftables.ChainPolicyAccept
	closed := policy
	if cfg.Exclusive {
		closed = nftables.ChainPolicyDrop
	}
	base := func(name string, hook *nftables.ChainHook, p nftables.ChainPolicy) *nftables.Chain {
		return c.AddChain(&nftables.Chain{
			Table: t, Name: name, Type: nftables.ChainTypeFilter,
			Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &p,
		})
	}
	add := func(ch *nftables.Chain, parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: slices.Concat(parts...)})
	}

	fwd := base(chainForward, nftables.ChainHookForward, closed)
	add(fwd, ipv6(), iifname(), saddr(2), vmap(sources))
	add(fwd, is(iifname(), WireGuardDevice), prefix(oifname(), SlicePrefix), goTo(chainEdge))
	add(fwd, prefix(iifname(), SlicePrefix), drop())
	add(fwd, prefix(oifname(), SlicePrefix), drop())
	add(fwd, is(iifname(), WireGuardDevice), drop())
	add(fwd, is(oifname(), WireGuardDevice), drop())

	add(edge, ipv6(), l4(unix.IPPROTO_TCP), dport(nodecfg.PortEdge), saddr(1), daddr(2), vmap(edges))
	add(edge, ipv6(), l4(unix.IPPROTO_TCP), sport(nodecfg.PortEdge), notOpening(), daddr(1), saddr(2), vmap(edges))
	add(edge, drop())

	in := base(chainInput, nftables.ChainHookInput, closed)
	add(in, prefix(iifname(), SlicePrefix), drop())
	add(in, is(iifname(), WireGuardDevice), drop())
	if cfg.Exclusive {
		add(in, is(iifname(), "lo"), accept())
		add(in, answers(), accept())
		add(in, l4(unix.IPPROTO_ICMP), accept())
		add(in, l4(unix.IPPROTO_ICMPV6), accept())
		add(in, l4(unix.IPPROTO_UDP), dport(68), accept())  // DHCPv4 to the client
		add(in, l4(unix.IPPROTO_UDP), dport(546), accept()) // DHCPv6 to the client
		add(in, l4(unix.IPPROTO_UDP), dport(nodecfg.PortWireGuard), accept())
		for _, p := range append([]uint16{nodecfg.PortAPI, nodecfg.PortRaft, nodecfg.PortMetrics}, cfg.TCP...) {
			add(in, l4(unix.IPPROTO_TCP), dport(p), accept())
		}
		if cfg.Netboot {
			on := netbootSet(t)
			if err := c.AddSet(on, nil); err != nil {
				return err
			}
			udp, tcp := netbootPorts()
			for _, p := range udp {
				add(in, lookup(iifname(), on), l4(unix.IPPROTO_UDP), dport(p), accept())
			}
			for _, p := range tcp {
				add(in, lookup(iifname(), on), l4(unix.IPPROTO_TCP), dport(p), accept())
			}
		}
	}
	out := base(chainOutput, nftables.ChainHookOutput, policy)
	add(out, prefix(oifname(), SlicePrefix), drop())
	add(out, is(oifname(), WireGuardDevice), drop())
	return nil
}

// Pieces of rules. Registers 1 and 2 hold 16 bytes each; a concatenated key of two parts
// spans both.

func meta(key expr.MetaKey) []expr.Any { return []expr.Any{&expr.Meta{Key: key, Register: 1}} }
func iifname() []expr.Any              { return meta(expr.MetaKeyIIFNAME) }
func oifname() []expr.Any              { return meta(expr.MetaKeyOIFNAME) }

func equal(load []expr.Any, data []byte) []expr.Any {
	return append(load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data})
}

func is(load []expr.Any, name string) []expr.Any { return equal(load, ifname(name)) }

// prefix compares fewer bytes than the register holds, as nft does for "rk-*".
func prefix(load []expr.Any, p string) []expr.Any { return equal(load, []byte(p)) }

func ipv6() []expr.Any { return equal(meta(expr.MetaKeyNFPROTO), []byte{unix.NFPROTO_IPV6}) }

func l4(proto byte) []expr.Any { return equal(meta(expr.MetaKeyL4PROTO), []byte{proto}) }

func payload(base expr.PayloadBase, reg, off, n uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg, Base: base, Offset: off, Len: n}}
}

// Offsets: RFC 8200 section 3, RFC 9293 section 3.1.
func saddr(reg uint32) []expr.Any { return payload(expr.PayloadBaseNetworkHeader, reg, 8, 16) }
func daddr(reg uint32) []expr.Any { return payload(expr.PayloadBaseNetworkHeader, reg, 24, 16) }

func sport(p uint16) []expr.Any {
	return equal(payload(expr.PayloadBaseTransportHeader, 1, 0, 2), binaryutil.BigEndian.PutUint16(p))
}

func dport(p uint16) []expr.Any {
	return equal(payload(expr.PayloadBaseTransportHeader, 1, 2, 2), binaryutil.BigEndian.PutUint16(p))
}

// notOpening matches every TCP segment but one that opens a connection.
func notOpening() []expr.Any {
	const syn, ack = 0x02, 0x10
	return append(payload(expr.PayloadBaseTransportHeader, 1, 13, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{syn | ack}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{syn}})
}

func answers() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED),
			Xor:  binaryutil.NativeEndian.PutUint32(0),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}

func vmap(s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}}
}

// lookup matches what is in a set.
func lookup(load []expr.Any, s *nftables.Set) []expr.Any {
	return append(load, &expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID})
}

func goTo(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

// drop counts what it drops: the first thing to look at when an edge does not connect.
func drop() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

// ifname is a name as the kernel compares it: 16 bytes, zero padded.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}
