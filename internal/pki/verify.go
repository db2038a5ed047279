package pki

import (
	"crypto/x509"
	"errors"
	"time"

	"github.com/runink/runink/internal/errs"
)

// Sentinels of Verify; both come in an errs.Error of kind Unauthenticated.
var (
	ErrExpired     = errors.New("the certificate has expired")
	ErrNotYetValid = errors.New("the certificate is not valid yet")
)

// Verify reads who the holder of a chain is: chain[0] is the holder's certificate, the
// others may help to reach root and may hold root itself. usage is what the holder does on
// this connection (client or server authentication).
//
// The chain is first verified without dates. If it holds, and now is within the dates of
// all its certificates or is the zero time, the error is nil. If only the dates fail, the
// identity is returned together with ErrExpired or ErrNotYetValid. Every other error
// returns no identity. All errors are of kind Unauthenticated.
func Verify(chain []*x509.Certificate, root *x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (Identity, error) {
	const op = "verify certificate"
	if len(chain) == 0 {
		return Identity{}, errs.E(errs.Unauthenticated, op, "there is none")
	}
	leaf := chain[0]
	if leaf.IsCA {
		return Identity{}, errs.E(errs.Unauthenticated, op, "it is an authority's")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	verified, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage},
		CurrentTime: leaf.NotBefore, // within all issuers' dates: see Authority.issue
	})
	if err != nil {
		return Identity{}, errs.E(errs.Unauthenticated, op, "%w", err)
	}
	id, err := identityOf(leaf)
	if err != nil {
		return Identity{}, err
	}
	path := verified[0]
	// An intermediate could sign an operator, and a stolen one must not.
	if want := map[Kind]int{Operator: 2, Node: 3, Slice: 2}[id.Kind]; len(path) != want {
		return Identity{}, errs.E(errs.Unauthenticated, op, "%s was signed by %q, which may not sign it", id, path[1].Subject.CommonName)
	}
	return id, checkDates(path, now)
}

// Again is Verify for a chain that Verify has accepted before, on the same connection: it
// looks at the dates and at no signature.
func Again(chain []*x509.Certificate, now time.Time) (Identity, error) {
	id, err := identityOf(chain[0])
	if err != nil {
		return Identity{}, err
	}
	return id, checkDates(chain, now)
}

func checkDates(path []*x509.Certificate, now time.Time) error {
	if now.IsZero() {
		return nil
	}
	for _, c := range path {
		switch {
		case now.Before(c.NotBefore):
			return dates(c, now, ErrNotYetValid)
		case now.After(c.NotAfter):
			return dates(c, now, ErrExpired)
		}
	}
	return nil
}

func dates(c *x509.Certificate, now time.Time, why error) error {
	return errs.E(errs.Unauthenticated, "verify certificate", "%s: %w (valid from %s to %s, and it is %s here)", c.Subject.CommonName, why,
		c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)).
		WithHint("check the clocks of both machines")
}

// PinnedRoot returns the certificate of a chain whose key has the fingerprint pin and that
// may be a root: it is an authority and signed itself. This is how a machine that knows
// only a fingerprint finds the root it goes on with.
func PinnedRoot(chain []*x509.Certificate, pin string) (*x509.Certificate, error) {
	for _, c := range chain {
		if CertFingerprint(c) == pin && c.IsCA && c.CheckSignatureFrom(c) == nil {
			return c, nil
		}
	}
	return nil, errs.E(errs.Unauthenticated, "check pin", "the other side's authority is not %s", pin).
		WithHint("this is another cluster, or somebody in between; compare runink.ca with what `runink cluster init` printed")
}

// RenewAt is when a certificate should be replaced: at two thirds of its life.
func RenewAt(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2)
}
