package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/runink/runink/controlplane/apiserver/rest"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/pki"
)

// Metadata between control nodes. It is believed from control nodes only, and nobody
// else's reaches a handler.
const (
	mdPrincipal     = "runink-principal" // kind:name of the caller, as the follower authenticated it
	mdKey           = "runink-key"       // fingerprint of its certificate's key
	mdExpired       = "runink-expired"   // its certificate had expired
	mdAuthorization = "authorization"
)

// private are the metadata that no handler sees.
func private() []string {
	return []string{mdPrincipal, mdKey, mdExpired, mdAuthorization, rest.CertificateKey}
}

// authenticator says who calls. Chains are judged at the handshake (verifyConnection);
// records, which change while a connection lives, at every RPC.
type authenticator struct {
	root *x509.Certificate
	// view is this replica's state; on the leader it contains everything answered.
	view func() (identity.Reader, error)
}

// verifyConnection ends the handshake of whoever shows a certificate that is neither good
// nor the expired one of a known node. Nobody has to show one.
func (a *authenticator) verifyConnection(s tls.ConnectionState) error {
	const op = "verify client"
	if len(s.PeerCertificates) == 0 {
		return nil
	}
	leaf := s.PeerCertificates[0]
	id, err := pki.Verify(s.PeerCertificates, a.root, x509.ExtKeyUsageClientAuth, time.Now())
	expired := errors.Is(err, pki.ErrExpired) && id.Kind == pki.Node
	if err != nil && !expired {
		return err
	}
	r, verr := a.view()
	if verr != nil {
		return verr
	}
	key := pki.CertFingerprint(leaf)
	if gone, ok, err := identity.Revoked(r, key); err != nil {
		return err
	} else if ok {
		return errs.E(errs.Unauthenticated, op, "the key of %s was revoked at %s: %s", id, gone.Time.Format(time.RFC3339), gone.Why)
	}
	if !expired {
		return nil
	}
	n, ok, rerr := identity.ReadNode(r, id.Name)
	if rerr != nil {
		return rerr
	}
	if !ok || n.Key != key {
		return err // expired, and of nobody we know
	}
	return nil
}

// caller authenticates an RPC on this replica.
//
// On the leader that is final. A follower may lack the record of a node or API key that
// was made a moment ago: known is false then, and who is asked is the leader.
func (a *authenticator) caller(ctx context.Context, md metadata.MD) (p Principal, known bool, err error) {
	const op = "authenticate"
	pr, ok := peer.FromContext(ctx)
	if !ok {
		return Principal{}, true, errs.E(errs.Internal, op, "an RPC without a connection")
	}
	var certs []*x509.Certificate
	switch info := pr.AuthInfo.(type) {
	case credentials.TLSInfo:
		certs = info.State.PeerCertificates
	case inMemory:
		if certs, err = shown(md); err != nil {
			return Principal{}, true, err
		}
	default:
		return Principal{}, true, errs.E(errs.Unauthenticated, op, "the connection is not TLS")
	}
	r, err := a.view()
	if err != nil {
		return Principal{}, true, err
	}
	self := Principal{}
	if len(certs) > 0 {
		if self, err = a.holder(certs, time.Now()); err != nil {
			return Principal{}, true, err
		}
	}
	if self, known, err = a.lookUp(r, self); err != nil {
		return Principal{}, known, err
	}
	if on := md.Get(mdPrincipal); len(on) == 1 && self.Role == ControlRole && !self.Expired {
		p, known, err = a.onBehalf(r, md, on[0])
		p.forwarded = true
		return p, known, err
	}
	if text := bearer(md); text != "" {
		if self.Role != Anonymous {
			return Principal{}, true, errs.E(errs.Invalid, op, "a certificate and an API key at once").WithHint("use one of them")
		}
		return a.apiKey(r, text)
	}
	return self, known, nil
}

// holder reads who a verified connection's certificate names. It has been verified at the
// handshake, but the connection may have outlived it.
func (a *authenticator) holder(certs []*x509.Certificate, now time.Time) (Principal, error) {
	id, err := pki.Again(certs, now)
	p := Principal{Name: id.Name, Key: pki.CertFingerprint(certs[0])}
	switch {
	case err == nil:
	case errors.Is(err, pki.ErrExpired) && id.Kind == pki.Node:
		p.Expired = true
	default:
		return Principal{}, err
	}
	switch id.Kind {
	case pki.Operator:
		p.Role = OperatorRole
	case pki.Node:
		p.Role = NodeRole
	default:
		return Principal{}, errs.E(errs.Unauthenticated, "authenticate", "%s may not call the API", id)
	}
	return p, nil
}

// lookUp completes a principal by its record: a node is a control node because Barn says
// so, whatever its certificate said when it was issued.
func (a *authenticator) lookUp(r identity.Reader, p Principal) (Principal, bool, error) {
	const op = "authenticate"
	if p.Key != "" {
		if gone, ok, err := identity.Revoked(r, p.Key); err != nil {
			return p, true, err
		} else if ok {
			return p, true, errs.E(errs.Unauthenticated, op, "the key of %s was revoked: %s", p, gone.Why).
				WithHint("a new token lets the machine join again")
		}
	}
	if p.Role != NodeRole {
		return p, true, nil
	}
	n, ok, err := identity.ReadNode(r, p.Name)
	switch {
	case err != nil:
		return p, true, err
	case !ok:
		return p, false, errs.E(errs.Unauthenticated, op, "node %q is not admitted", p.Name)
	case n.Key != p.Key:
		return p, false, errs.E(errs.Unauthenticated, op, "node %q was admitted with another key", p.Name)
	case n.Control():
		p.Role = ControlRole
	}
	return p, true, nil
}

// still reports whether a principal that was authenticated before still is one, by what
// this replica knows. A follower that has no record yet lets it pass, as it did before.
func (a *authenticator) still(p Principal) error {
	const op = "authenticate"
	r, err := a.view()
	if err != nil {
		return err
	}
	if _, known, err := a.lookUp(r, p.asNode()); err != nil && known {
		return err
	}
	if p.Role != Viewer && p.Role != Runner && p.Role != Admin && p.Role != NetbootRole {
		return nil
	}
	k, ok, err := identity.ReadKey(r, p.Name)
	switch {
	case err != nil:
		return err
	case ok && k.Revoked:
		return errs.E(errs.Unauthenticated, op, "API key %s was revoked", k.ID)
	case ok && time.Now().After(k.Expires):
		return errs.E(errs.Unauthenticated, op, "API key %s expired", k.ID)
	}
	return nil
}

// asNode is the principal before its record said that it is a control node.
func (p Principal) asNode() Principal {
	if p.Role == ControlRole {
		p.Role = NodeRole
	}
	return p
}

// onBehalf reads the identity a control node forwarded.
func (a *authenticator) onBehalf(r identity.Reader, md metadata.MD, name string) (Principal, bool, error) {
	const op = "authenticate forwarded caller"
	if text := bearer(md); text != "" {
		return a.apiKey(r, text)
	}
	kind, rest, _ := strings.Cut(name, ":")
	p := Principal{Name: rest}
	if k := md.Get(mdKey); len(k) == 1 {
		p.Key = k[0]
	}
	switch kind {
	case "anonymous":
		return Principal{}, true, nil
	case "operator":
		p.Role = OperatorRole
	case "node":
		p.Role = NodeRole
		p.Expired = len(md.Get(mdExpired)) > 0
	default:
		return Principal{}, true, errs.E(errs.Unauthenticated, op, "%q is not a principal", name)
	}
	return a.lookUp(r, p)
}

func (a *authenticator) apiKey(r identity.Reader, text string) (Principal, bool, error) {
	k, err := identity.AuthenticateKey(r, text, time.Now())
	if err != nil {
		return Principal{}, false, err
	}
	roles := map[string]Role{"viewer": Viewer, "runner": Runner, "admin": Admin, identity.KeyNetboot: NetbootRole}
	role, ok := roles[k.Role]
	if !ok {
		return Principal{}, true, errs.E(errs.Internal, "authenticate", "API key %s has the role %q", k.ID, k.Role)
	}
	return Principal{Role: role, Name: k.ID, Herd: k.Herd}, true, nil
}

func bearer(md metadata.MD) string {
	for _, v := range md.Get(mdAuthorization) {
		if scheme, text, ok := strings.Cut(v, " "); ok && strings.EqualFold(scheme, "bearer") {
			return strings.TrimSpace(text)
		}
	}
	return ""
}

// onBehalfOf is the metadata with which this node forwards a call of p. An API key goes
// as it came: the leader knows it best.
func onBehalfOf(p Principal, md metadata.MD) metadata.MD {
	out := metadata.Pairs(mdPrincipal, p.String())
	if text := bearer(md); text != "" {
		out.Set(mdAuthorization, "Bearer "+text)
	}
	if p.Key != "" {
		out.Set(mdKey, p.Key)
	}
	if p.Expired {
		out.Set(mdExpired, "1")
	}
	return out
}

// stateView adapts a Barn to authenticator.view.
func stateView(b *barn.Barn) func() (identity.Reader, error) {
	return func() (identity.Reader, error) {
		v, err := b.View(context.Background(), barn.Stale)
		if err != nil {
			return nil, err
		}
		return v, nil
	}
}
