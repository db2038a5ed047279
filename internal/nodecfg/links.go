package nodecfg

import (
	"net"
	"slices"
	"strconv"
	"strings"
)

const (
	bondHint = "runink.bond=NAME,MODE,MEMBER[,MEMBER…], such as runink.bond=bond0,active-backup,eth0,eth1"
	vlanHint = "runink.vlan=NAME,PARENT,ID, such as runink.vlan=vlan7,eth0,7"
)

// addBond reads NAME,MODE,MEMBER[,MEMBER…].
func addBond(c *Config, v string) error {
	parts := strings.Split(v, ",")
	if len(parts) < 3 {
		return invalid("bond", "%q has no members", v).WithHint(bondHint)
	}
	c.Bonds = append(c.Bonds, Bond{Name: parts[0], Mode: parts[1], Members: parts[2:]})
	return nil
}

// addVLAN reads NAME,PARENT,ID.
func addVLAN(c *Config, v string) error {
	parts := strings.Split(v, ",")
	if len(parts) != 3 {
		return invalid("vlan", "%q is not a name, a parent and a number", v).WithHint(vlanHint)
	}
	id, err := strconv.ParseUint(parts[2], 10, 16)
	if err != nil {
		return invalid("vlan", "%q is not a number", parts[2]).WithHint(vlanHint)
	}
	c.VLANs = append(c.VLANs, VLAN{Name: parts[0], Parent: parts[1], ID: uint16(id)})
	return nil
}

// checkLinks holds that every bond and VLAN can be made, from the hardware up: a name is
// made once, a member is in one bond and carries nothing of its own.
func (c Config) checkLinks() error {
	made := map[string]bool{}
	for _, l := range c.madeLinks() {
		switch {
		case !isInterface(l.name) || isMAC(l.name):
			return invalid(l.key, "%q is not the name of an interface", l.name).WithHint("%s", l.hint)
		case made[l.name]:
			return invalid(l.key, "%s is made twice", l.name).WithHint("give each bond and VLAN a name of its own")
		}
		made[l.name] = true
	}
	members := map[string]bool{}
	for _, b := range c.Bonds {
		if !slices.Contains(BondModes(), b.Mode) {
			return invalid("bond", "%q is not a mode", b.Mode).WithHint("one of %s", strings.Join(BondModes(), ", "))
		}
		for _, m := range b.Members {
			key := strings.ToLower(m)
			switch {
			case !isInterface(m) && !isMAC(m):
				return invalid("bond", "%q is not the name of an interface", m).WithHint("a name such as eth0 or a MAC address")
			case made[m]:
				return invalid("bond", "%s is made by another key and cannot be a member", m).WithHint("members are network cards")
			case members[key]:
				return invalid("bond", "%s is a member twice", m).WithHint("an interface belongs to one bond")
			}
			members[key] = true
		}
	}
	for _, v := range c.VLANs {
		switch {
		case !isInterface(v.Parent) && !isMAC(v.Parent):
			return invalid("vlan", "%q is not the name of an interface", v.Parent).WithHint(vlanHint)
		case v.ID < 1 || v.ID > 4094:
			return invalid("vlan", "%d is out of range", v.ID).WithHint("VLANs are numbered from 1 to 4094")
		case members[strings.ToLower(v.Parent)]:
			return invalid("vlan", "%s is a member of a bond", v.Parent).WithHint("put the VLAN on the bond")
		case slices.ContainsFunc(c.VLANs, func(o VLAN) bool { return o.Name == v.Parent }):
			return invalid("vlan", "%s is a VLAN itself", v.Parent).WithHint("the parent is a network card or a bond")
		}
	}
	for _, ip := range c.IP {
		if members[strings.ToLower(ip.Interface)] && !isMAC(ip.Interface) {
			return invalid("ip", "%s is a member of a bond", ip.Interface).WithHint("give the address to the bond")
		}
	}
	return nil
}

// madeLink is an interface that is made, with the key that says so.
type madeLink struct{ key, name, hint string }

func (c Config) madeLinks() []madeLink {
	var list []madeLink
	for _, b := range c.Bonds {
		list = append(list, madeLink{"bond", b.Name, bondHint})
	}
	for _, v := range c.VLANs {
		list = append(list, madeLink{"vlan", v.Name, vlanHint})
	}
	return list
}

func isMAC(s string) bool {
	mac, err := net.ParseMAC(s)
	return err == nil && len(mac) == 6
}
