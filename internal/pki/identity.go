package pki

import (
	"crypto/x509"
	"net/url"
	"strconv"
	"strings"

	"github.com/runink/runink/internal/errs"
)

// Kind says what an identity is the name of.
type Kind uint8

// The kinds of identities. The zero value is none of them.
const (
	_ Kind = iota
	Operator
	Node
	Slice
)

// String is the kind as it stands in a URI.
func (k Kind) String() string {
	switch k {
	case Operator:
		return "operator"
	case Node:
		return "node"
	case Slice:
		return "slice"
	}
	return "none"
}

// Identity is what a certificate says about its holder.
type Identity struct {
	Kind    Kind
	Name    string // of an operator or node, a DNS label
	Control bool   // of a node: it may be a control-plane replica
	Slice   SliceID
}

// SliceID names one attempt of a slice.
type SliceID struct {
	Run   string
	Slice string
	Epoch uint64
}

// String is "kind:name", as principals are written in the audit log.
func (i Identity) String() string {
	if i.Kind == Slice {
		return "slice:" + i.Slice.path()
	}
	return i.Kind.String() + ":" + i.Name
}

func (s SliceID) path() string {
	return s.Run + "/" + s.Slice + "/" + strconv.FormatUint(s.Epoch, 10)
}

const scheme = "runink"

// uris are the subject alternative names of an identity.
func (i Identity) uris() []*url.URL {
	path := "/" + i.Name
	if i.Kind == Slice {
		path = "/" + i.Slice.path()
	}
	us := []*url.URL{{Scheme: scheme, Host: i.Kind.String(), Path: path}}
	if i.Kind == Node && i.Control {
		us = append(us, &url.URL{Scheme: scheme, Host: "role", Path: "/control"})
	}
	return us
}

// identityOf reads the identity of a certificate; it verifies nothing. A certificate with
// no name of ours, with two, or with one of an unknown shape has none.
func identityOf(c *x509.Certificate) (Identity, error) {
	const op = "read identity of certificate"
	var id Identity
	control := false
	for _, u := range c.URIs {
		if u.Scheme != scheme || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return id, errs.E(errs.Unauthenticated, op, "foreign name %q", u)
		}
		path := strings.TrimPrefix(u.Path, "/")
		if u.Host == "role" && path == "control" {
			control = true
			continue
		}
		if id.Kind != 0 {
			return Identity{}, errs.E(errs.Unauthenticated, op, "it has two names")
		}
		switch u.Host {
		case "operator", "node":
			if path == "" || strings.Contains(path, "/") {
				return Identity{}, errs.E(errs.Unauthenticated, op, "bad name %q", u)
			}
			id = Identity{Kind: Operator, Name: path}
			if u.Host == "node" {
				id.Kind = Node
			}
		case "slice":
			parts := strings.Split(path, "/")
			if len(parts) != 3 || parts[0] == "" || parts[1] == "" {
				return Identity{}, errs.E(errs.Unauthenticated, op, "bad name %q", u)
			}
			epoch, err := strconv.ParseUint(parts[2], 10, 64)
			if err != nil {
				return Identity{}, errs.E(errs.Unauthenticated, op, "bad epoch in %q", u)
			}
			id = Identity{Kind: Slice, Slice: SliceID{Run: parts[0], Slice: parts[1], Epoch: epoch}}
		default:
			return Identity{}, errs.E(errs.Unauthenticated, op, "unknown name %q", u)
		}
	}
	if id.Kind == 0 {
		return Identity{}, errs.E(errs.Unauthenticated, op, "it has no name of a runink cluster")
	}
	if control && id.Kind != Node {
		return Identity{}, errs.E(errs.Unauthenticated, op, "a role on a certificate of %s", id)
	}
	id.Control = control
	return id, nil
}
