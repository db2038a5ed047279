package keeper

import (
	"path"
	"path/filepath"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/netpol"
	"github.com/runink/runink/slice/sandbox"
)

// validName is the rule for names that become parts of paths.
func validName(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return true
}

func invalid(field, format string, args ...any) error {
	return errs.E(errs.Invalid, "", format, args...).WithField(field)
}

// validate checks a request to launch with files descriptors, and fills in defaults.
func (l *LaunchSpec) validate(files int) error {
	for _, n := range []struct{ field, value string }{{"run", l.Run}, {"slice", l.Slice}, {"herd", l.Herd}} {
		if !validName(n.value) {
			return invalid(n.field, "%q must be 1 to 64 letters, digits, '.', '_' or '-', and start with one of the first two", n.value)
		}
	}
	if want := Key(l.Run, l.Slice, l.Epoch); l.ID != want {
		return invalid("id", "%q must be %q", l.ID, want)
	}
	if !filepath.IsAbs(l.Bundle) {
		return invalid("bundle", "%q must be an absolute folder", l.Bundle)
	}
	if len(l.Args) == 0 || path.Clean(l.Args[0]) != l.Args[0] || !strings.HasPrefix(l.Args[0], sandbox.BundleDir+"/") {
		return invalid("args", "the command must be a path in %s", sandbox.BundleDir)
	}
	for _, e := range append(append([]string{}, l.Args...), l.Env...) {
		if strings.IndexByte(e, 0) >= 0 {
			return invalid("args", "%q holds a zero byte", e)
		}
	}
	for _, e := range l.Env {
		if i := strings.IndexByte(e, '='); i < 1 {
			return invalid("env", "%q is not NAME=value", e)
		}
	}
	if err := l.Limits.validate(); err != nil {
		return err
	}
	if l.Net != nil {
		if !l.Net.Address.Is6() || l.Net.Address.Is4In6() {
			return invalid("net.address", "%s is no IPv6 address", l.Net.Address)
		}
		if !l.Net.Gateway.Is6() || l.Net.Gateway == l.Net.Address {
			return invalid("net.gateway", "%s is no IPv6 address of somebody else", l.Net.Gateway)
		}
		if n := l.Net.HostIf; !strings.HasPrefix(n, netpol.SlicePrefix) || len(n) > 15 || !validName(n) {
			return invalid("net.host_if", "%q must start with %s and have at most 15 characters", n, netpol.SlicePrefix)
		}
	}
	for name := range l.Secrets {
		if !validName(name) {
			return invalid("secrets", "%q is not a secret's file name", name)
		}
	}
	if len(l.Spec) > slicechan.MaxPacket {
		return invalid("spec", "%d bytes exceed %d", len(l.Spec), slicechan.MaxPacket)
	}
	seen := map[int]bool{}
	for _, e := range l.LocalEdges {
		if seen[e.ID] || e.Peer == l.Slice || !validName(e.Peer) {
			return invalid("local_edges", "edge %d with %q is given twice or joins nothing", e.ID, e.Peer)
		}
		seen[e.ID] = true
	}
	if files+len(l.LocalEdges) > maxFDs {
		return invalid("local_edges", "%d files and edges exceed %d", files+len(l.LocalEdges), maxFDs)
	}
	if l.TimeLimit < 0 {
		return invalid("time_limit", "%s is negative", l.TimeLimit)
	}
	return nil
}

func (l *Limits) validate() error {
	if l.Pids == 0 {
		l.Pids = DefaultPids
	}
	if l.TmpBytes == 0 {
		l.TmpBytes = DefaultTmpBytes
	}
	switch {
	case l.MilliCPU <= 0:
		return invalid("limits.milli_cpu", "%d must be positive", l.MilliCPU)
	case l.Memory < MinMemory:
		return invalid("limits.memory", "%d bytes are fewer than %d", l.Memory, MinMemory)
	case l.Pids < MinPids:
		return invalid("limits.pids", "%d are fewer than %d", l.Pids, MinPids)
	case l.TmpBytes < 4096:
		return invalid("limits.tmp_bytes", "%d bytes are fewer than a page", l.TmpBytes)
	case l.FileBytes < 0:
		return invalid("limits.file_bytes", "%d is negative", l.FileBytes)
	}
	return nil
}
