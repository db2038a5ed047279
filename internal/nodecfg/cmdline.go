package nodecfg

import (
	"encoding/hex"
	"math"
	"net"
	"net/netip"
	"sort"
	"strconv"
	"strings"

	"github.com/runink/runink/internal/errs"
)

// Prefix is what every key of ours on the kernel command line begins with.
const Prefix = "runink."

// MaxCommandLine bounds what Parse reads, in bytes; more than the kernel's own bound.
const MaxCommandLine = 64 << 10

// MaxKernelLine is what the kernel keeps of a command line on amd64, in bytes
// (COMMAND_LINE_SIZE less the final zero).
const MaxKernelLine = 2047

// A key is one runink.* word: how its value is put into a Config.
type key struct {
	repeat bool // may be given more than once
	set    func(c *Config, v string) error
}

func keys() map[string]key {
	return map[string]key{
		"cluster":   {set: func(c *Config, v string) error { c.Cluster = v; return nil }},
		"node":      {set: func(c *Config, v string) error { c.Node = v; return nil }},
		"role":      {set: func(c *Config, v string) error { c.Role = Role(v); return nil }},
		"join":      {set: func(c *Config, v string) error { c.Join = strings.Split(v, ","); return nil }},
		"ca":        {set: func(c *Config, v string) error { c.CA = v; return nil }},
		"operator":  {set: func(c *Config, v string) error { c.Operator = v; return nil }},
		"token":     {set: func(c *Config, v string) error { c.Token = v; return nil }},
		"state":     {set: func(c *Config, v string) error { c.State = v; return nil }},
		"timescale": {set: setTimeScale},
		"ip":        {repeat: true, set: addIP},
		"bond":      {repeat: true, set: addBond},
		"vlan":      {repeat: true, set: addVLAN},
		"config":    {set: setConfigDisk},
		"install":   {set: func(c *Config, v string) error { c.Install = v; return nil }},
		"wipe":      {set: func(c *Config, v string) error { c.Wipe = v; return nil }},
		"netboot":   {set: setNetboot},
	}
}

// Parse reads the runink.* words of a kernel command line, checks them (Validate) and
// fills in defaults: the time scale is 1. Words are separated by white space; double
// quotes protect it, as in the kernel's own parser. Words of others are passed over.
//
// Errors are of kind Invalid, name the key as their field, and carry a hint.
func Parse(cmdline string) (Config, error) {
	return ParseSources(Source{Name: CommandLine, Text: cmdline})
}

func keyNames(known map[string]key) string {
	names := make([]string, 0, len(known))
	for n := range known {
		names = append(names, Prefix+n)
	}
	sort.Strings(names)
	return strings.Join(names, " ")
}

type word struct {
	key, value string
	hasValue   bool
}

// words splits as next_arg in the kernel's lib/cmdline.c does: a double quote toggles
// whether white space separates, and quotes around a word or a value are removed.
func words(s string) []word {
	var ws []word
	for i := 0; i < len(s); {
		if isSpace(s[i]) {
			i++
			continue
		}
		start, quoted := i, false
		for i < len(s) && (quoted || !isSpace(s[i])) {
			if s[i] == '"' {
				quoted = !quoted
			}
			i++
		}
		w := s[start:i]
		if len(w) > 1 && w[0] == '"' {
			w = strings.TrimSuffix(w[1:], `"`)
		}
		k, v, ok := strings.Cut(w, "=")
		if strings.HasPrefix(v, `"`) {
			v = strings.TrimSuffix(v[1:], `"`)
		}
		ws = append(ws, word{key: k, value: v, hasValue: ok})
	}
	return ws
}

func isSpace(b byte) bool {
	return b == ' ' || (b >= '\t' && b <= '\r')
}

func invalid(field, format string, args ...any) *errs.Error {
	return errs.E(errs.Invalid, "check node configuration", format, args...).WithField(Prefix + field)
}

func setTimeScale(c *Config, v string) error {
	f, err := strconv.ParseFloat(v, 64)
	if err != nil {
		return invalid("timescale", "%q is not a number", v).WithHint("a factor from 1 to 100, by default 1")
	}
	c.TimeScale = f
	return nil
}

// addIP reads IFACE,ADDR/LEN[,gw=ADDR][,dns=ADDR]….
func addIP(c *Config, v string) error {
	const hint = "runink.ip=IFACE,ADDR/LEN[,gw=ADDR][,dns=ADDR]…, IFACE a name such as eth0 or a MAC address"
	parts := strings.Split(v, ",")
	if len(parts) < 2 {
		return invalid("ip", "%q has no address", v).WithHint(hint)
	}
	ip := IP{Interface: parts[0]}
	p, err := netip.ParsePrefix(parts[1])
	if err != nil {
		return invalid("ip", "%q: %w", parts[1], err).WithHint(hint)
	}
	ip.Address = p
	for _, opt := range parts[2:] {
		k, a, _ := strings.Cut(opt, "=")
		addr, err := netip.ParseAddr(a)
		if err != nil {
			return invalid("ip", "%q: %w", opt, err).WithHint(hint)
		}
		switch {
		case k == "gw" && !ip.Gateway.IsValid():
			ip.Gateway = addr
		case k == "gw":
			return invalid("ip", "%q has two gateways", v).WithHint("give one runink.ip per address family")
		case k == "dns":
			ip.DNS = append(ip.DNS, addr)
		default:
			return invalid("ip", "%q is neither gw= nor dns=", opt).WithHint(hint)
		}
	}
	c.IP = append(c.IP, ip)
	return nil
}

// Validate checks a Config made by Parse or from flags. What it accepts, a node can act
// on: names are DNS labels, pins are SHA-256, every combination of role, join and token
// has one meaning. Errors are of kind Invalid and name the runink.* key as their field.
func (c Config) Validate() error {
	for _, check := range []func() error{c.checkNames, c.checkRole, c.checkPins, c.checkJoin, c.checkState, c.checkInstall, c.checkTimeScale, c.checkIPs, c.checkLinks, c.checkNetboot} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c Config) checkNames() error {
	for _, n := range []struct{ field, v string }{{"cluster", c.Cluster}, {"node", c.Node}} {
		if n.v == "" {
			return invalid(n.field, "it is missing").WithHint("add runink.%s=NAME to the kernel command line", n.field)
		}
		if !isLabel(n.v) {
			return invalid(n.field, "%q is not a DNS label", n.v).WithHint("1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit")
		}
	}
	return nil
}

// isLabel is RFC 1123's label, lower case only so that two spellings cannot be one node.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if b := s[i]; (b < 'a' || b > 'z') && (b < '0' || b > '9') && b != '-' {
			return false
		}
	}
	return true
}

func (c Config) checkRole() error {
	switch c.Role {
	case RoleControl, RoleWorker, RoleControlWorker:
		return nil
	case "":
		return invalid("role", "it is missing").WithHint("add runink.role=control, worker or control+worker")
	}
	return invalid("role", "%q is not a role", string(c.Role)).WithHint("one of control, worker, control+worker")
}

func (c Config) checkPins() error {
	if c.CA == "" {
		return invalid("ca", "it is missing").WithHint("`runink cluster init` printed runink.ca=sha256:…; without it this node could be captured by anyone on its network")
	}
	if !isPin(c.CA) {
		return invalid("ca", "%q is not sha256: and 64 hexadecimal digits", c.CA).WithHint("`runink cluster init` printed it")
	}
	if c.Operator == "" {
		return nil
	}
	if !c.Role.Control() {
		return invalid("operator", "it is only for nodes of a control role, and this one is %s", c.Role).WithHint("leave it out here")
	}
	if !isPin(c.Operator) {
		return invalid("operator", "%q is not sha256: and 64 hexadecimal digits", c.Operator).WithHint("`runink cluster init` printed it")
	}
	return nil
}

func isPin(s string) bool {
	h, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(h) != 64 || strings.ToLower(h) != h {
		return false
	}
	_, err := hex.DecodeString(h)
	return err == nil
}

func (c Config) checkJoin() error {
	for _, a := range c.Join {
		host, port, err := net.SplitHostPort(a)
		if err != nil || !isHost(host) {
			return invalid("join", "%q is not HOST:PORT", a).WithHint("runink.join=HOST:%d[,HOST:%d…]", PortAPI, PortAPI)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return invalid("join", "%q has no port from 1 to 65535", a).WithHint("the API listens on %d", PortAPI)
		}
	}
	if c.Token != "" {
		if len(c.Token) > 512 || strings.ContainsFunc(c.Token, notTokenRune) {
			return invalid("token", "it has characters no token has").WithHint("copy it as `runink token create` printed it")
		}
		if len(c.Join) == 0 {
			return invalid("join", "it is missing, and there is a token").WithHint("add runink.join=HOST:%d of a control node", PortAPI)
		}
	}
	switch {
	case len(c.Join) == 0 && !c.Role.Control():
		return invalid("join", "it is missing").WithHint("a worker joins a cluster: add runink.join=HOST:%d of a control node", PortAPI)
	case c.First() && c.Operator == "":
		return invalid("operator", "it is missing").WithHint("a control node without runink.token waits for `runink cluster bootstrap`, and must know the operator: add runink.operator=sha256:…, or a token")
	}
	return nil
}

// isHost accepts an address or what a DNS name is written with.
func isHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Zone() == ""
	}
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.'
	})
}

func notTokenRune(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._~+/=:", r)
}

// First reports whether a node with this configuration and no identity waits for an
// operator's bootstrap instead of joining: a control node without a token.
func (c Config) First() bool { return c.Role.Control() && c.Token == "" }

func (c Config) checkState() error {
	if c.State == "" || c.State == "none" {
		return nil
	}
	kind, v, ok := strings.Cut(c.State, ":")
	if !ok || v == "" || (kind != "serial" && kind != "wwn" && kind != "path" && kind != "part") {
		return invalid("state", "%q is none of serial:…, wwn:…, part:…, path:…, none", c.State).WithHint("by default the disk with serial %s", DefaultStateSerial)
	}
	if kind == "path" && (!strings.HasPrefix(v, "/dev/") || strings.Contains(v, "..")) {
		return invalid("state", "%q is not below /dev", v).WithHint("for example path:/dev/vdb")
	}
	return nil
}

// InstallWords are the words with which a machine installs itself on a disk; wipe may be
// empty. Errors are those of Validate.
func InstallWords(disk, wipe string) ([]string, error) {
	c := Config{Install: disk, Wipe: wipe}
	if disk == "" {
		return nil, invalid("install", "it is missing").WithHint("for example path:/dev/sda")
	}
	if err := c.checkInstall(); err != nil {
		return nil, err
	}
	list := []string{Prefix + "install=" + disk}
	if wipe != "" {
		list = append(list, Prefix+"wipe="+wipe)
	}
	for _, w := range list {
		if strings.ContainsFunc(w, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }) {
			key, _, _ := strings.Cut(w, "=")
			return nil, invalid(strings.TrimPrefix(key, Prefix), "it has white space or a quote in it").WithHint("name the disk by its wwn, or by its path")
		}
	}
	return list, nil
}

func (c Config) checkInstall() error {
	if c.Install == "" {
		if c.Wipe != "" {
			return invalid("wipe", "it names a disk to wipe, and none is to be installed").WithHint("add runink.install=…, or leave it out")
		}
		return nil
	}
	kind, v, ok := strings.Cut(c.Install, ":")
	if !ok || v == "" || (kind != "serial" && kind != "wwn" && kind != "path") {
		return invalid("install", "%q is none of serial:…, wwn:…, path:…", c.Install).WithHint("for example path:/dev/sda; the console lists the disks if there is no such one")
	}
	if kind == "path" && (!strings.HasPrefix(v, "/dev/") || strings.Contains(v, "..")) {
		return invalid("install", "%q is not below /dev", v).WithHint("for example path:/dev/sda")
	}
	if c.State != "" && c.State != "part:"+StatePartition {
		return invalid("state", "the disk that is installed has the state too").WithHint("leave it out beside runink.install")
	}
	return nil
}

func (c Config) checkTimeScale() error {
	if math.IsNaN(c.TimeScale) || c.TimeScale < 1 || c.TimeScale > 100 {
		return invalid("timescale", "%v is out of range", c.TimeScale).WithHint("a factor from 1 to 100, by default 1")
	}
	return nil
}

func (c Config) checkIPs() error {
	for _, ip := range c.IP {
		mac, err := net.ParseMAC(ip.Interface)
		isMAC := err == nil && len(mac) == 6
		if !isMAC && !isInterface(ip.Interface) {
			return invalid("ip", "%q is not the name of an interface", ip.Interface).WithHint("a name such as eth0 or a MAC address")
		}
		a := ip.Address.Addr()
		if !ip.Address.IsValid() || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Zone() != "" {
			return invalid("ip", "%s cannot be a node's address", ip.Address).WithHint("an address of this machine with its prefix length, such as 10.0.2.15/24")
		}
		if g := ip.Gateway; g.IsValid() && g.Is4() != a.Is4() {
			return invalid("ip", "gateway %s and address %s are of different families", g, a).WithHint("give one runink.ip per address family")
		}
	}
	return nil
}

const netbootHint = "an IPv4 address of this node on the network of the machines, such as runink.netboot=10.0.0.5"

func setNetboot(c *Config, v string) error {
	a, err := netip.ParseAddr(v)
	if err != nil {
		return invalid("netboot", "%q is no address", v).WithHint(netbootHint)
	}
	c.Netboot = a
	return nil
}

// checkNetboot leaves the service to control nodes: it hands out tokens, which a worker may not
// ask for.
func (c Config) checkNetboot() error {
	a := c.Netboot
	switch {
	case !a.IsValid():
		return nil
	case !a.Is4() || !a.IsGlobalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return invalid("netboot", "%s cannot be a node's address on a network of machines that boot by IPv4", a).WithHint(netbootHint)
	case !c.Role.Control():
		return invalid("netboot", "it is only for nodes of a control role, and this one is %s", c.Role).
			WithHint("give it to a control node; or run `runink netboot` on any Linux host, with a key of its own")
	}
	return nil
}

// isInterface accepts what the kernel does, in ASCII.
func isInterface(s string) bool {
	if s == "" || len(s) > 15 || s == "." || s == ".." {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/:%\"", r) })
}
