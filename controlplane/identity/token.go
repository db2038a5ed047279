package identity

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"slices"
	"strings"
	"time"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// MaxTokenLife bounds how long a join token may be used.
const MaxTokenLife = 15 * time.Minute

// Prefixes of the texts of tokens and API keys.
const (
	joinTokenPrefix = "rt"
	apiKeyPrefix    = "rk"
)

// credential makes the text "<prefix>_<id>_<secret>", the id and the secret's hash from 32
// secret bytes.
func credential(prefix string, seed []byte) (text, id string, hash []byte) {
	b := seed[:5+20]
	enc := base32.StdEncoding.WithPadding(base32.NoPadding)
	id = strings.ToLower(enc.EncodeToString(b[:5]))
	secret := strings.ToLower(enc.EncodeToString(b[5:]))
	sum := sha256.Sum256([]byte(secret))
	return prefix + "_" + id + "_" + secret, id, sum[:]
}

// TokenText makes the text of a join token, its id and its hash. seed has 32 bytes, as
// secret as the token: the same request gets the same token.
func TokenText(seed []byte) (text, id string, hash []byte) { return credential(joinTokenPrefix, seed) }

// KeyText makes the text of an API key, its id and its hash, like TokenText.
func KeyText(seed []byte) (text, id string, hash []byte) { return credential(apiKeyPrefix, seed) }

// SplitToken reads the id and the secret's hash of a join token's text.
func SplitToken(text string) (id string, hash []byte, ok bool) { return split(joinTokenPrefix, text) }

// SplitKey reads the id and the secret's hash of an API key's text.
func SplitKey(text string) (id string, hash []byte, ok bool) { return split(apiKeyPrefix, text) }

func split(prefix, text string) (id string, hash []byte, ok bool) {
	parts := strings.Split(text, "_")
	if len(parts) != 3 || parts[0] != prefix || len(parts[1]) != 8 || len(parts[2]) != 32 {
		return "", nil, false
	}
	sum := sha256.Sum256([]byte(parts[2]))
	return parts[1], sum[:], true
}

// TokenCreate is the payload of CmdTokenCreate.
type TokenCreate struct {
	Token Token `json:"token"` // Created and By are the handler's
}

// tokenCreate records a token, and forgets those that ended more than a day ago.
func tokenCreate(tx *barn.Tx, m barn.Meta, p TokenCreate) (Token, error) {
	const op = "create join token"
	t := p.Token
	tx.Audit(map[string]string{"token": t.ID, "node": t.Node, "role": t.Role})
	if _, ok := tx.Get(tokenPrefix + t.ID); ok {
		return t, errs.E(errs.Exists, op, "token %s exists", t.ID)
	}
	t.Created, t.By = m.Time, m.Principal
	if life := t.Expires.Sub(t.Created); life <= 0 || life > MaxTokenLife {
		return t, errs.E(errs.Invalid, op, "a token lives up to %s", MaxTokenLife).WithField("ttl_seconds")
	}
	old, err := Tokens(tx)
	if err != nil {
		return t, err
	}
	for _, o := range old {
		if m.Time.Sub(o.Expires) > 24*time.Hour {
			tx.Delete(tokenPrefix + o.ID)
		}
	}
	return t, put(tx, tokenPrefix+t.ID, t)
}

// TokenRevoke is the payload of CmdTokenRevoke.
type TokenRevoke struct {
	ID string `json:"id"`
}

func tokenRevoke(tx *barn.Tx, _ barn.Meta, p TokenRevoke) (Token, error) {
	const op = "revoke join token"
	tx.Audit(map[string]string{"token": p.ID})
	t, ok, err := ReadToken(tx, p.ID)
	switch {
	case err != nil:
		return t, err
	case !ok:
		return t, errs.E(errs.NotFound, op, "there is no token %q", p.ID).WithField("id").WithHint("`runink token list` shows them")
	case !t.Used.IsZero():
		return t, errs.E(errs.Conflict, op, "token %s was used by node %s", t.ID, t.Node).
			WithHint("to take the node out again: runink node remove %s", t.Node)
	}
	t.Revoked = true
	return t, put(tx, tokenPrefix+t.ID, t)
}

// Join is the payload of CmdJoin. Of Node the handler takes what the node says about
// itself; name, role and prefix come from the token and from Barn.
type Join struct {
	TokenID   string `json:"token_id"`
	TokenHash []byte `json:"token_hash"`
	Node      Node   `json:"node"`
}

// join admits the node a token is bound to and burns the token. A node that lost the
// answer may ask again with the same key; anybody else finds the token used.
//
// The order of the checks is that of what they tell: nothing about a token is told to
// somebody who does not hold its secret.
func join(tx *barn.Tx, m barn.Meta, p Join) (Node, error) {
	const op = "join"
	tx.Audit(map[string]string{"token": p.TokenID, "node": p.Node.Name, "role": p.Node.Role, "key": p.Node.Key})
	fresh := "ask the operator for a new one: runink token create --node " + p.Node.Name + " --role " + p.Node.Role
	t, ok, err := ReadToken(tx, p.TokenID)
	if err != nil {
		return Node{}, err
	}
	if !ok || subtle.ConstantTimeCompare(t.Hash, p.TokenHash) != 1 {
		return Node{}, errs.E(errs.Denied, op, "the token is not known to this cluster").WithField("token").WithHint("%s", fresh)
	}
	if t.Machine != "" { // which one it was minted for, whoever presents it
		tx.Audit(map[string]string{"machine": t.Machine})
	}
	if t.Node != p.Node.Name {
		return Node{}, errs.E(errs.Denied, op, "the token is for node %q, and this is %q", t.Node, p.Node.Name).WithField("node").WithHint("%s", fresh)
	}
	if t.Role != p.Node.Role {
		return Node{}, errs.E(errs.Denied, op, "the token is for role %s, and this node has role %s", t.Role, p.Node.Role).WithField("role").WithHint("%s", fresh)
	}
	old, exists, err := ReadNode(tx, t.Node)
	if err != nil {
		return Node{}, err
	}
	switch t.State(m.Time) {
	case "used":
		if t.UsedBy == p.Node.Key && exists && old.Key == p.Node.Key && old.Token == t.ID {
			return old, nil
		}
		return Node{}, errs.E(errs.Denied, op, "the token was used at %s", t.Used.Format(time.RFC3339)).WithField("token").
			WithHint("if that was not this machine, remove the node at once; else %s", fresh)
	case "revoked":
		return Node{}, errs.E(errs.Denied, op, "the token was revoked").WithField("token").WithHint("%s", fresh)
	case "expired":
		return Node{}, errs.E(errs.Denied, op, "the token expired at %s", t.Expires.Format(time.RFC3339)).WithField("token").WithHint("%s", fresh)
	}
	n := p.Node
	if _, gone, err := Revoked(tx, n.Key); err != nil || gone {
		if err != nil {
			return Node{}, err
		}
		return Node{}, errs.E(errs.Denied, op, "the key %s was revoked", n.Key).WithField("csr").WithHint("delete the node's folder of identity, so that it makes a new key")
	}
	c, ok, err := ReadCluster(tx)
	if err != nil {
		return Node{}, err
	}
	if !ok {
		return Node{}, errs.E(errs.Unavailable, op, "the cluster is being founded").WithHint("try again in a moment")
	}
	if exists && old.Key != n.Key {
		all, err := Nodes(tx)
		if err != nil {
			return Node{}, err
		}
		if err := MayReplace(op, all, n.Name, n.Role); err != nil {
			return Node{}, err
		}
		if err := revoke(tx, m, old, "replaced by a new join"); err != nil {
			return Node{}, err
		}
	}
	if n.Prefix, err = nextPrefix(tx, c.Prefix); err != nil {
		return Node{}, err
	}
	n.Joined, n.Token, n.Retired = m.Time, t.ID, false
	if n.RaftID = ""; n.Control() {
		n.RaftID = n.Name + "-" + n.Generation
	}
	t.Used, t.UsedBy = m.Time, n.Key
	if err := put(tx, tokenPrefix+t.ID, t); err != nil {
		return Node{}, err
	}
	return n, put(tx, nodePrefix+n.Name, n)
}

// MayReplace refuses a node that would take the place of the one with its name, whose key is then
// revoked, where that cannot end well: of the last control node none would be left to admit
// anything, and a control node that came back as something else is a replica less unasked.
func MayReplace(op string, nodes []Node, name, role string) error {
	i := slices.IndexFunc(nodes, func(n Node) bool { return n.Name == name && n.Member() })
	if i < 0 {
		return nil
	}
	if !slices.ContainsFunc(nodes, func(n Node) bool { return n.Name != name && n.Member() }) {
		return errs.E(errs.Conflict, op, "%s is the only control node", name).WithField("node").WithHint("choose another name: nobody else could admit it")
	}
	if nodes[i].Role != role {
		return errs.E(errs.Conflict, op, "%s is a control node, with role %s", name, nodes[i].Role).WithField("node").
			WithHint("choose another name; if it is to be %s: runink node remove %s first", role, name)
	}
	return nil
}

func revoke(tx *barn.Tx, m barn.Meta, n Node, why string) error {
	return put(tx, revPrefix+n.Key, Revocation{Node: n.Name, Time: m.Time, Why: why})
}
