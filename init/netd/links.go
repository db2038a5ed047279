package netd

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// bondMonitor is how often a bond looks at its members' carriers, in milliseconds.
const bondMonitor = 100

// isNamed reports whether a configuration's name for an interface, or MAC address, means it.
func isNamed(word, name string, mac net.HardwareAddr) bool {
	return word == name || strings.EqualFold(word, mac.String())
}

// macOf is the MAC address by which the configuration names a network card: its own. A member of
// a bond shows the bond's.
func macOf(l netlink.Link) net.HardwareAddr {
	if own := l.Attrs().PermHWAddr; len(own) == 6 {
		return own
	}
	return l.Attrs().HardwareAddr
}

// madeHere reports whether l is a bond or VLAN of the configuration.
func (d *daemon) madeHere(l netlink.Link) bool {
	name := l.Attrs().Name
	return slices.ContainsFunc(d.Config.Bonds, func(b nodecfg.Bond) bool { return b.Name == name && l.Type() == "bond" }) ||
		slices.ContainsFunc(d.Config.VLANs, func(v nodecfg.VLAN) bool { return v.Name == name && l.Type() == "vlan" })
}

// bondOf returns the bond that a network card is a member of, if any. A bond has the MAC
// address of a member, and is none.
func (d *daemon) bondOf(l netlink.Link) (nodecfg.Bond, bool) {
	if d.madeHere(l) {
		return nodecfg.Bond{}, false
	}
	for _, b := range d.Config.Bonds {
		for _, m := range b.Members {
			if isNamed(m, l.Attrs().Name, macOf(l)) {
				return b, true
			}
		}
	}
	return nodecfg.Bond{}, false
}

// vlansOn returns the VLANs whose parent l is.
func (d *daemon) vlansOn(l netlink.Link) []nodecfg.VLAN {
	var list []nodecfg.VLAN
	for _, v := range d.Config.VLANs {
		if v.Name != l.Attrs().Name && isNamed(v.Parent, l.Attrs().Name, macOf(l)) && l.Type() != "vlan" {
			list = append(list, v)
		}
	}
	return list
}

// joinBond makes the bond if it is not there, and l a member of it. Both are up then.
func joinBond(l netlink.Link, b nodecfg.Bond) error {
	const op = "join bond"
	bond, err := ensureLink(b.Name, "bond", func() netlink.Link {
		made := netlink.NewLinkBond(netlink.LinkAttrs{Name: b.Name})
		made.Mode, made.Miimon = netlink.StringToBondMode(b.Mode), bondMonitor
		return made
	})
	if err != nil {
		return errs.Wrap(op, err)
	}
	if have, ok := bond.(*netlink.Bond); !ok || have.Mode != netlink.StringToBondMode(b.Mode) {
		return errs.E(errs.Conflict, op, "%s is there with another mode", b.Name).WithField("runink.bond").WithHint("boot again")
	}
	now, err := netlink.LinkByIndex(l.Attrs().Index)
	if err != nil {
		return errs.E(errs.NotFound, op, "%w", err)
	}
	if now.Attrs().MasterIndex != bond.Attrs().Index {
		// The kernel takes only a member that is down.
		if err := netlink.LinkSetDown(now); err != nil {
			return errs.E(errs.Internal, op, "take %s down: %w", l.Attrs().Name, err)
		}
		if err := netlink.LinkSetMaster(now, bond); err != nil {
			return errs.E(errs.Internal, op, "%s to %s: %w", l.Attrs().Name, b.Name, err).WithField("runink.bond")
		}
	}
	if err := linkUp(l.Attrs().Name); err != nil {
		return err
	}
	return linkUp(b.Name)
}

// addVLAN makes a VLAN on its parent, if it is not there; it is up when it is served.
func addVLAN(parent netlink.Link, v nodecfg.VLAN) error {
	const op = "make VLAN"
	l, err := ensureLink(v.Name, "vlan", func() netlink.Link {
		return &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: v.Name, ParentIndex: parent.Attrs().Index}, VlanId: int(v.ID)}
	})
	if err != nil {
		return errs.Wrap(op, err)
	}
	if have, ok := l.(*netlink.Vlan); !ok || have.VlanId != int(v.ID) || l.Attrs().ParentIndex != parent.Attrs().Index {
		return errs.E(errs.Conflict, op, "%s is there with another number or parent", v.Name).WithField("runink.vlan").WithHint("boot again")
	}
	return nil
}

// ensureLink returns the interface with a name and type, which it makes if there is none.
func ensureLink(name, kind string, make func() netlink.Link) (netlink.Link, error) {
	err := netlink.LinkAdd(make())
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, errs.E(errs.Unavailable, "make "+name, "the kernel knows no %s: %w", kind, err).WithHint("boot the image's own kernel")
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, errs.E(errs.Internal, "make "+name, "%w", err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, errs.E(errs.NotFound, "make "+name, "%w", err)
	}
	if l.Type() != kind {
		return nil, errs.E(errs.Conflict, "make "+name, "the name belongs to an interface of type %s", l.Type()).WithHint("choose another name")
	}
	return l, nil
}

// settled waits until an interface that was made has a carrier, and returns it as it is
// then: a bond takes its address from its first member.
func settled(ctx context.Context, n *nic) (netlink.Link, error) {
	for {
		up, _, changed := n.carrier.get()
		if up {
			l, err := netlink.LinkByIndex(n.link.Attrs().Index)
			if err != nil {
				return nil, errs.E(errs.NotFound, "look at "+n.link.Attrs().Name, "%w", err)
			}
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
