package netd

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/internal/nodecfg"
)

// facts is what one source (an interface's lease, its static addresses, …) contributes.
type facts struct {
	addrs              []nodecfg.NetAddress
	gateways, dns, ntp []netip.Addr
}

// book gathers the facts of all sources and publishes their sum. It is safe for
// concurrent use.
type book struct {
	netFile, resolvFile, statusDir string

	mu       sync.Mutex
	sources  map[string]facts
	failures map[string]error
	lacking  string // what the configuration names and is not there
	lackHint string
	written  string // the last state published, as JSON
	changed  chan struct{}
}

func newBook(o Options) *book {
	return &book{
		netFile: o.NetFile, resolvFile: o.ResolvFile, statusDir: o.StatusDir,
		sources: map[string]facts{}, failures: map[string]error{}, changed: make(chan struct{}),
	}
}

// set replaces the facts of a source and publishes the sum if it changed.
func (b *book) set(source string, f facts) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sources[source] = f
	return b.publishLocked()
}

// fail shows that an interface cannot be configured.
func (b *book) fail(nic string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures[nic] = err
	b.written = "" // the status is to be written again
	if err := b.publishLocked(); err != nil {
		b.failures[nic] = err
	}
}

// lack shows what is not there; "" takes it back.
func (b *book) lack(what, hint string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lacking, b.lackHint = what, hint
	b.written = "" // the status is to be written again
	return b.publishLocked()
}

func (b *book) publish() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.publishLocked()
}

// ntp returns the NTP servers and a channel closed at the next change of anything.
func (b *book) ntp() ([]netip.Addr, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sumLocked().NTP, b.changed
}

func (b *book) sumLocked() nodecfg.NetState {
	var s nodecfg.NetState
	for _, name := range slices.Sorted(maps.Keys(b.sources)) {
		f := b.sources[name]
		s.Addresses = append(s.Addresses, f.addrs...)
		s.Gateways = appendNew(s.Gateways, f.gateways)
		s.DNS = appendNew(s.DNS, f.dns)
		s.NTP = appendNew(s.NTP, f.ntp)
	}
	s.Ready = slices.ContainsFunc(s.Addresses, func(a nodecfg.NetAddress) bool {
		return a.Address.Addr().IsGlobalUnicast()
	})
	return s
}

func appendNew(to, from []netip.Addr) []netip.Addr {
	for _, a := range from {
		if !slices.Contains(to, a) {
			to = append(to, a)
		}
	}
	return to
}

// publishLocked writes the network state last: who reads "ready" there finds the rest.
func (b *book) publishLocked() error {
	s := b.sumLocked()
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if string(text) == b.written {
		return nil
	}
	if err := fsx.WriteFileAtomic(b.resolvFile, []byte(resolvConf(s.DNS)), 0o644); err != nil {
		return errs.E(errs.Internal, "write name servers", "%w", err)
	}
	if err := nodecfg.WriteStatus(b.statusDir, "netd", b.statusLocked(s)); err != nil {
		return err
	}
	if err := nodecfg.SaveNet(b.netFile, s); err != nil {
		return err
	}
	b.written = string(text)
	close(b.changed)
	b.changed = make(chan struct{})
	return nil
}

func (b *book) statusLocked(s nodecfg.NetState) nodecfg.Status {
	st := nodecfg.Status{State: nodecfg.StateWaiting, Message: "no address yet", Hint: "check the cable and the DHCP server, or give the node runink.ip="}
	if s.Ready {
		var list []string
		for _, a := range s.Addresses {
			list = append(list, fmt.Sprintf("%s %s (%s)", a.Interface, a.Address, a.Source))
		}
		st = nodecfg.Status{State: nodecfg.StateReady, Message: strings.Join(list, ", ")}
	}
	if b.lacking != "" {
		st.Message, st.Hint = st.Message+"; "+b.lacking, b.lackHint
	}
	for _, nic := range slices.Sorted(maps.Keys(b.failures)) {
		st.State = nodecfg.StateFailed
		st.Message = fmt.Sprintf("%s: %v; %s", nic, b.failures[nic], st.Message)
		st.Hint = errs.HintOf(b.failures[nic])
	}
	return st
}

// resolvConf is resolv.conf(5); resolvers read three servers.
func resolvConf(dns []netip.Addr) string {
	var b strings.Builder
	for _, a := range dns[:min(len(dns), 3)] {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return b.String()
}
