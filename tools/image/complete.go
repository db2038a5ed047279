package main

import (
	"slices"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// complete names at once every key that a node needs and words leave out, as the flags that
// give them: whoever types one key has the others to find first. No words at all are
// complete: then the node is told in another way. So are those of a config disk that say
// nothing of who the node is: it may bring the token alone. What the values are worth is for
// nodecfg to judge.
func complete(kind string, words []string) error {
	if kind == "config" && !slices.ContainsFunc(words, nodecfg.SaysWho) {
		return nil
	}
	given := map[string]string{}
	for _, w := range words {
		if key, ok := strings.CutPrefix(w, nodecfg.Prefix); ok {
			key, value, _ := strings.Cut(key, "=")
			given[key] = value
		}
	}
	if len(given) == 0 {
		return nil
	}
	role := nodecfg.Role(given["role"])
	need := []string{"cluster", "node", "role", "ca"}
	switch {
	case role.Control() && given["token"] == "":
		need = append(need, "operator") // it founds a cluster, or comes back to one
	default:
		need = append(need, "join")
	}
	missing := slices.DeleteFunc(need, func(key string) bool { return given[key] != "" })
	if len(missing) == 0 {
		return nil
	}
	e := errs.E(errs.Invalid, "read flags", "missing; a node is told all of its keys in one place").WithField("--" + strings.Join(missing, ", --"))
	if role.Control() && given["token"] == "" {
		return e.WithHint("paste what `runink cluster init` printed")
	}
	node := given["node"]
	if node == "" {
		node = "NAME"
	}
	if role == "" {
		role = nodecfg.RoleWorker
	}
	return e.WithHint("paste what `runink token create -q --node %s --role %s` prints", node, role)
}
