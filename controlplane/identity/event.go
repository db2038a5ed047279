package identity

import (
	"strings"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
)

// Event says what a changed key of this package's tables means for people; nil if it is none
// of them, or means nothing. detail is of the audit record of its command. Cursor, time and who
// did it are the caller's to add. It holds no secret: neither hashes nor keys.
func Event(e barn.Event, detail map[string]string) (*apiv1.Event, error) {
	switch key := e.Key; {
	case key == clusterKey:
		c, err := valueOf[Cluster](e)
		return &apiv1.Event{Kind: "cluster", Name: c.Name, State: madeOr(e, "founded")}, err
	case strings.HasPrefix(key, nodePrefix):
		n, err := valueOf[Node](e)
		out := &apiv1.Event{Kind: "node", Name: strings.TrimPrefix(key, nodePrefix), State: madeOr(e, "admitted"), Message: n.Role}
		if len(n.Addresses) > 0 {
			out.Message += " at " + strings.Join(n.Addresses, ", ")
		}
		if n.Retired {
			out.Message += ", out of the quorum"
		}
		if e.Deleted {
			out.State = "removed"
		}
		return out, err
	case strings.HasPrefix(key, herdPrefix):
		return &apiv1.Event{Kind: "herd", Name: strings.TrimPrefix(key, herdPrefix), Herd: strings.TrimPrefix(key, herdPrefix), State: madeOr(e, "made")}, nil
	case strings.HasPrefix(key, tokenPrefix):
		t, err := valueOf[Token](e)
		out := &apiv1.Event{Kind: "token", Name: strings.TrimPrefix(key, tokenPrefix), State: "made"}
		switch {
		case e.Deleted:
			out.State = "deleted"
			return out, nil
		case !t.Used.IsZero():
			out.State = "used"
		case t.Revoked:
			out.State = "revoked"
		}
		out.Message = "for node " + t.Node + " as " + t.Role
		return out, err
	case strings.HasPrefix(key, machinePrefix), strings.HasPrefix(key, pendingPrefix):
		id, pending, _ := machineOfKey(key)
		mc, err := valueOf[Machine](e)
		out := &apiv1.Event{Kind: "machine", Name: id, State: "admitted", Message: "as node " + mc.Node}
		if pending {
			out.State, out.Message = "pending", ""
		}
		switch {
		case e.Deleted && pending:
			return nil, nil // admitted, which is an event of its own, or gone
		case e.Deleted:
			out.State, out.Message = "forgotten", ""
		case !pending && e.Value.Created != e.Value.Rev:
			out.State = "boots"
		}
		return out, err
	case strings.HasPrefix(key, keyPrefix):
		k, err := valueOf[Key](e)
		out := &apiv1.Event{Kind: "apikey", Name: strings.TrimPrefix(key, keyPrefix), Herd: k.Herd, State: madeOr(e, "made"), Message: k.Role}
		if e.Deleted {
			out.Herd = detail[forgotten+out.Name]
		}
		if k.Revoked {
			out.State = "revoked"
		}
		if k.Name != "" {
			out.Message += ", " + k.Name
		}
		return out, err
	}
	return nil, nil
}

// valueOf decodes what a key holds now; of a deleted one that is nothing.
func valueOf[T any](e barn.Event) (T, error) {
	if e.Deleted {
		var zero T
		return zero, nil
	}
	return decode[T](e.Key, e.Value)
}

// madeOr is what happened to an object: made if this command made it, changed or deleted.
func madeOr(e barn.Event, made string) string {
	switch {
	case e.Deleted:
		return "deleted"
	case e.Value.Created == e.Value.Rev:
		return made
	}
	return "changed"
}
