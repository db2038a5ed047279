package identity

import (
	"crypto/subtle"
	"time"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// Lifetimes of API keys.
const (
	DefaultKeyLife = 30 * 24 * time.Hour
	MaxKeyLife     = 366 * 24 * time.Hour
)

// KeyNetboot is the role of a netboot service: it may have machines booted, and nothing else.
const KeyNetboot = "netboot"

// keyCreate records an API key, and forgets those that ended more than 30 days ago.
func keyCreate(tx *barn.Tx, m barn.Meta, p Key) (Key, error) {
	const op = "create API key"
	tx.Audit(map[string]string{"key": p.ID, "herd": p.Herd, "role": p.Role, "name": p.Name})
	if err := p.checkHerd(op); err != nil {
		return p, err
	}
	if _, ok := tx.Get(herdPrefix + p.Herd); !ok && p.Herd != "" {
		return p, noHerd(op, p.Herd)
	}
	if _, ok := tx.Get(keyPrefix + p.ID); ok {
		return p, errs.E(errs.Exists, op, "key %s exists", p.ID)
	}
	p.Created, p.By = m.Time, m.Principal
	if life := p.Expires.Sub(p.Created); life <= 0 || life > MaxKeyLife {
		return p, errs.E(errs.Invalid, op, "a key lives up to %s", MaxKeyLife).WithField("ttl_seconds")
	}
	old, err := Keys(tx)
	if err != nil {
		return p, err
	}
	for _, o := range old {
		if m.Time.Sub(o.Expires) > 30*24*time.Hour {
			forget(tx, o)
		}
	}
	return p, put(tx, keyPrefix+p.ID, p)
}

// forget removes a key, and has the audit record say whose it was: the event of its end knows
// no more than that record.
func forget(tx *barn.Tx, k Key) {
	tx.Delete(keyPrefix + k.ID)
	if k.Herd != "" {
		tx.Audit(map[string]string{forgotten + k.ID: k.Herd})
	}
}

// forgotten begins the names of an audit record's details that give herds of removed keys.
const forgotten = "forgot "

// checkHerd insists on a herd where the key's role holds in one.
func (k Key) checkHerd(op string) error {
	switch {
	case k.Role == KeyNetboot && k.Herd != "":
		return errs.E(errs.Invalid, op, "the key of a netboot service is of no herd").WithField("herd").WithHint("leave it out")
	case k.Role != KeyNetboot && k.Herd == "":
		return errs.E(errs.Invalid, op, "it is missing").WithField("herd").WithHint("name the herd that the key is of")
	}
	return nil
}

// KeyRevoke is the payload of CmdKeyRevoke. Herd, if set, is the only one the caller may
// touch.
type KeyRevoke struct {
	ID   string `json:"id"`
	Herd string `json:"herd,omitempty"`
}

func keyRevoke(tx *barn.Tx, _ barn.Meta, p KeyRevoke) (Key, error) {
	const op = "revoke API key"
	tx.Audit(map[string]string{"key": p.ID})
	k, ok, err := ReadKey(tx, p.ID)
	if err != nil {
		return k, err
	}
	if !ok || p.Herd != "" && k.Herd != p.Herd {
		return k, errs.E(errs.NotFound, op, "there is no API key %q", p.ID).WithField("id").WithHint("`runink apikey list` shows them")
	}
	k.Revoked = true
	return k, put(tx, keyPrefix+k.ID, k)
}

// AuthenticateKey returns the API key of a text that a client presented. Errors are of
// kind Unauthenticated and do not say which of id and secret was wrong.
func AuthenticateKey(r Reader, text string, now time.Time) (Key, error) {
	const op = "authenticate"
	unknown := errs.E(errs.Unauthenticated, op, "the API key is not known to this cluster").
		WithHint("check the key of this context; `runink apikey create` makes a new one")
	id, hash, ok := SplitKey(text)
	if !ok {
		return Key{}, unknown
	}
	k, ok, err := ReadKey(r, id)
	if err != nil {
		return Key{}, err
	}
	switch {
	case !ok || subtle.ConstantTimeCompare(k.Hash, hash) != 1:
		return Key{}, unknown
	case k.Revoked:
		return Key{}, errs.E(errs.Unauthenticated, op, "API key %s was revoked", k.ID)
	case now.After(k.Expires):
		return Key{}, errs.E(errs.Unauthenticated, op, "API key %s expired at %s", k.ID, k.Expires.Format(time.RFC3339)).
			WithHint("`runink apikey create --herd %s` makes a new one", k.Herd)
	}
	return k, nil
}
