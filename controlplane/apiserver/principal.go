package apiserver

import (
	"context"
	"fmt"

	"github.com/runink/runink/internal/errs"
)

// Role is what a principal may do; policy.go says what that is.
type Role uint8

// The roles. Viewer, runner and admin are of API keys and hold in the key's herd only.
// Control is the role of a node that is a control node. Netboot is of an API key without a
// herd: a service that has machines booted from the network.
const (
	Anonymous Role = iota
	Viewer
	Runner
	Admin
	NodeRole
	ControlRole
	OperatorRole
	NetbootRole
	roleCount
)

var roleNames = [...]string{"anonymous", "viewer", "runner", "admin", "node", "control", "operator", "netboot"}

// String is the role as WhoAmI shows it.
func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// Principal is who calls, as authenticated.
type Principal struct {
	Role Role
	Name string // of an operator or node; id of an API key
	Herd string // of an API key
	Key  string // fingerprint of an operator's or node's key
	// Expired: a node whose certificate is known but out of date. It may renew it.
	Expired bool

	forwarded bool // by a control node, in the principal's name
}

// String is the principal as it stands in the audit log: operator:alice, node:n1, key:id,
// anonymous.
func (p Principal) String() string {
	switch p.Role {
	case OperatorRole:
		return "operator:" + p.Name
	case NodeRole, ControlRole:
		return "node:" + p.Name
	case Viewer, Runner, Admin, NetbootRole:
		return "key:" + p.Name
	}
	return "anonymous"
}

// IsNode reports whether the caller is a node, of either role.
func (p Principal) IsNode() bool { return p.Role == NodeRole || p.Role == ControlRole }

// InHerd reports whether the principal may act in a herd as far as herds go: an API key in
// its own, everybody else in any.
func (p Principal) InHerd(herd string) bool { return p.Herd == "" || p.Herd == herd }

type principalKey struct{}

// PrincipalFrom returns who called the RPC that ctx belongs to; anonymous without one.
func PrincipalFrom(ctx context.Context) Principal {
	p, _ := ctx.Value(principalKey{}).(Principal)
	return p
}

// WithPrincipal returns a context of an RPC by p. The server's interceptors call it; tests
// of a single service may.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// RequireHerd checks in a handler what the router could not: that the caller may act in
// the herd of an object it named. The object's name is what the caller must not learn, so
// for a foreign herd the error is NotFound, the same as for an object that does not exist;
// object is how the handler names it ("run r-17").
func RequireHerd(ctx context.Context, herd, object string) error {
	if PrincipalFrom(ctx).InHerd(herd) {
		return nil
	}
	return errs.E(errs.NotFound, "authorize", "there is no %s", object)
}
