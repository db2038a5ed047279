package netpol

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

// Policy is the loaded table. Safe for concurrent use; one process at a time may hold one.
type Policy struct {
	mu     sync.Mutex
	conn   *nftables.Conn
	cfg    Config
	slices map[netip.Addr]Slice
	// loaded is what the kernel holds; nil when a failed transaction left that unknown.
	loaded *elements
	// netboot is the interface in the set of that name, "" for none; nil when it is unknown.
	netboot *string
}

// elements are the keys of the two maps.
type elements struct{ sources, edges map[string]struct{} }

// Open adopts the table a former process loaded with the same Config, its elements included,
// so that running slices notice nothing; else it loads a new, empty one in a single
// transaction. After adopting, call Sync with the slices that are really there: elements of
// others stay open until then.
//
// Errors: Unavailable when the kernel has no nftables (modules nf_tables, nft_ct and, when
// Exclusive, nf_conntrack) or CAP_NET_ADMIN is missing.
func Open(cfg Config) (*Policy, error) {
	const op = "load network policy"
	c, err := nftables.New()
	if err != nil {
		return nil, errs.E(errs.Unavailable, op, "%w", err)
	}
	p := &Policy{conn: c, cfg: cfg, slices: map[netip.Addr]Slice{}}
	there, err := p.present()
	if err != nil {
		return nil, errs.E(errs.Unavailable, op, "%w", err).WithHint("are the nf_tables modules loaded?")
	}
	if !there {
		if err := p.reload(); err != nil {
			return nil, errs.E(errs.Unavailable, op, "%w", err).
				WithHint("nf_tables, nft_ct and nf_conntrack must be loaded, and CAP_NET_ADMIN held")
		}
	}
	return p, nil
}

// present reports whether the table with this Config's rules is loaded.
func (p *Policy) present() (bool, error) {
	chains, err := p.conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, err
	}
	for _, c := range chains {
		if c.Table.Name == TableName && c.Name == marker(p.cfg) {
			return true, nil
		}
	}
	return false, nil
}

func (p *Policy) reload() error {
	if err := load(p.conn, p.cfg); err != nil {
		return err
	}
	if err := p.conn.Flush(); err != nil {
		return err
	}
	p.loaded, p.netboot = &elements{sources: map[string]struct{}{}, edges: map[string]struct{}{}}, new(string)
	return nil
}

// Netboot opens the ports of a netboot service on an interface, and closes them on any other;
// "": on all. The Config has to have Netboot; else it is an error of kind Invalid.
func (p *Policy) Netboot(iface string) error {
	const op = "open network policy"
	if !p.cfg.Netboot || len(iface) >= unix.IFNAMSIZ {
		return errs.E(errs.Invalid, op, "no netboot service on %q", iface)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.netboot != nil && *p.netboot == iface {
		return nil
	}
	p.netboot = nil
	set := netbootSet(table())
	p.conn.FlushSet(set)
	if iface != "" {
		if err := p.conn.SetAddElements(set, []nftables.SetElement{{Key: ifname(iface)}}); err != nil {
			return errs.E(errs.Unavailable, op, "%w", err)
		}
	}
	if err := p.conn.Flush(); err != nil {
		return errs.E(errs.Unavailable, op, "%w", err)
	}
	p.netboot = &iface
	return nil
}

// Add opens the policy for a slice, before it is launched. A slice with the same address is
// replaced. Errors: Invalid; Conflict when the link belongs to a slice with another address.
func (p *Policy) Add(s Slice) error {
	const op = "open network policy"
	if err := check(s); err != nil {
		return errs.Wrap(op, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.slices {
		if o.HostIf == s.HostIf && o.Address != s.Address {
			return errs.E(errs.Conflict, op, "link %s belongs to %s", s.HostIf, o.Address)
		}
	}
	next := maps.Clone(p.slices)
	next[s.Address] = s
	return errs.Wrap(op, p.apply(next))
}

// Remove closes the policy for the slice with this address; its connections are cut. An
// unknown address is no error.
func (p *Policy) Remove(addr netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := maps.Clone(p.slices)
	delete(next, addr)
	return errs.Wrap("close network policy", p.apply(next))
}

// Sync makes the policy exactly that of these slices; what is equal stays untouched.
func (p *Policy) Sync(all []Slice) error {
	const op = "synchronize network policy"
	next := map[netip.Addr]Slice{}
	for _, s := range all {
		if err := check(s); err != nil {
			return errs.Wrap(op, err)
		}
		next[s.Address] = s
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return errs.Wrap(op, p.apply(next))
}

// Unload removes the table: everything is open then. Only an ordinary host that leaves a
// cluster does it, after its last slice.
func (p *Policy) Unload() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn.AddTable(table())
	p.conn.DelTable(table())
	p.loaded, p.netboot = nil, nil
	p.slices = map[netip.Addr]Slice{}
	return errs.Wrap("unload network policy", p.conn.Flush())
}

// Check reports whether the table is still loaded: someone may have flushed the ruleset. The
// agent's health check calls it.
func (p *Policy) Check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	there, err := p.present()
	if err != nil {
		return errs.E(errs.Unavailable, "check network policy", "%w", err)
	}
	if !there {
		return errs.E(errs.Unavailable, "check network policy", "table inet %s is gone", TableName).
			WithHint("something on this node flushed nftables; restart the agent")
	}
	return nil
}

// Restore loads the table again where something flushed it, with what it last held, in two
// transactions: between them slices reach nothing. It reports whether it had to. It is for
// ordinary hosts, whose own services flush the ruleset; where nobody else may, Check says so.
func (p *Policy) Restore() (bool, error) {
	const op = "restore network policy"
	p.mu.Lock()
	defer p.mu.Unlock()
	there, err := p.present()
	if err != nil {
		return false, errs.E(errs.Unavailable, op, "%w", err)
	}
	if there {
		return false, nil
	}
	if err := p.reload(); err != nil {
		p.loaded = nil
		return false, errs.E(errs.Unavailable, op, "%w", err)
	}
	return true, errs.Wrap(op, p.apply(p.slices))
}

func check(s Slice) error {
	if !s.Address.Is6() || s.Address.Is4In6() || s.Address.Zone() != "" {
		return errs.E(errs.Invalid, "", "%s is no IPv6 address", s.Address).WithField("address")
	}
	if !strings.HasPrefix(s.HostIf, SlicePrefix) || len(s.HostIf) >= unix.IFNAMSIZ || len(s.HostIf) == len(SlicePrefix) {
		return errs.E(errs.Invalid, "", "%q must start with %s and have at most %d bytes", s.HostIf, SlicePrefix, unix.IFNAMSIZ-1).
			WithField("host_if")
	}
	for _, e := range s.Edges {
		if !e.Producer.Is6() || !e.Consumer.Is6() || e.Producer == e.Consumer {
			return errs.E(errs.Invalid, "", "edge from %s to %s", e.Producer, e.Consumer).WithField("edges")
		}
		if e.Producer != s.Address && e.Consumer != s.Address {
			return errs.E(errs.Invalid, "", "edge from %s to %s is none of %s", e.Producer, e.Consumer, s.Address).
				WithField("edges")
		}
	}
	return nil
}

// apply moves the kernel from what it holds to next, in one transaction.
func (p *Policy) apply(next map[netip.Addr]Slice) error {
	have := p.loaded
	if have == nil {
		var err error
		if have, err = p.read(); err != nil {
			return errs.E(errs.Unavailable, "", "%w", err)
		}
	}
	want := &elements{sources: map[string]struct{}{}, edges: map[string]struct{}{}}
	for _, s := range next {
		a := s.Address.As16()
		want.sources[string(ifname(s.HostIf))+string(a[:])] = struct{}{}
		for _, e := range s.Edges {
			from, to := e.Producer.As16(), e.Consumer.As16()
			want.edges[string(from[:])+string(to[:])] = struct{}{}
		}
	}
	t := table()
	toEdge := &expr.Verdict{Kind: expr.VerdictGoto, Chain: chainEdge}
	err := errors.Join(
		p.queue(sourcesMap(t), have.sources, want.sources, toEdge),
		p.queue(edgesMap(t), have.edges, want.edges, &expr.Verdict{Kind: expr.VerdictAccept}),
	)
	if err == nil {
		err = p.conn.Flush()
	}
	if err != nil {
		p.loaded = nil
		return errs.E(errs.Unavailable, "", "%w", err)
	}
	p.loaded, p.slices = want, next
	return nil
}

func (p *Policy) queue(s *nftables.Set, have, want map[string]struct{}, verdict *expr.Verdict) error {
	var del, add []nftables.SetElement
	for k := range have {
		if _, ok := want[k]; !ok {
			del = append(del, nftables.SetElement{Key: []byte(k), VerdictData: verdict})
		}
	}
	for k := range want {
		if _, ok := have[k]; !ok {
			add = append(add, nftables.SetElement{Key: []byte(k), VerdictData: verdict})
		}
	}
	// An element list is one netlink attribute, at most 64 KiB; an element takes about 100
	// bytes. All messages are still one transaction.
	const chunk = 256
	for ; len(del) > 0; del = del[min(chunk, len(del)):] {
		if err := p.conn.SetDeleteElements(s, del[:min(chunk, len(del))]); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	for ; len(add) > 0; add = add[min(chunk, len(add)):] {
		if err := p.conn.SetAddElements(s, add[:min(chunk, len(add))]); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return nil
}

func (p *Policy) read() (*elements, error) {
	t := table()
	e := &elements{sources: map[string]struct{}{}, edges: map[string]struct{}{}}
	for _, m := range []struct {
		set  *nftables.Set
		into map[string]struct{}
	}{{sourcesMap(t), e.sources}, {edgesMap(t), e.edges}} {
		els, err := p.conn.GetSetElements(m.set)
		if err != nil {
			return nil, fmt.Errorf("read map %s: %w", m.set.Name, err)
		}
		for _, el := range els {
			m.into[string(el.Key)] = struct{}{}
		}
	}
	return e, nil
}
