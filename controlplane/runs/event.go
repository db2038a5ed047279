package runs

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// Event says what a changed key of this package's tables means for people; nil if it is none
// of them, or means nothing. command is the kind of the command that changed it. Cursor, time
// and who did it are the caller's to add.
//
// A key may be written again without news (a slice's counts grow): that is an event, too.
// What is none must not depend on what the reader saw before, or a stream that was
// interrupted would go on otherwise than one that was not.
func Event(r Reader, e barn.Event, command string) (*apiv1.Event, error) {
	switch key := e.Key; {
	case strings.HasPrefix(key, nodePrefix):
		if e.Deleted || command == CmdPlace { // which counts the node's addresses
			return nil, nil
		}
		ns, err := eventValue[NodeState](e)
		return nodeEvent(strings.TrimPrefix(key, nodePrefix), &ns), err
	case strings.HasPrefix(key, statePrefix):
		st, err := eventValue[State](e)
		if err != nil {
			return nil, err
		}
		id := strings.TrimPrefix(key, statePrefix)
		spec, _, err := load[Spec](r, specPrefix+id)
		out := &apiv1.Event{Kind: "run", Name: id, Herd: spec.Herd, State: st.Phase, Message: spec.Name}
		if e.Deleted {
			out.State = "deleted"
		}
		if st.Reason != "" {
			out.Message += ": " + st.Reason
		}
		return out, err
	case strings.HasPrefix(key, slicePrefix):
		s, err := eventValue[SliceState](e)
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(key, slicePrefix)
		run, _, _ := strings.Cut(name, "/")
		spec, _, err := load[Spec](r, specPrefix+run)
		out := &apiv1.Event{Kind: "slice", Name: name, Herd: spec.Herd, State: s.Phase, Message: sliceMessage(&s)}
		if e.Deleted {
			out.State, out.Message = "deleted", ""
		}
		return out, err
	}
	return nil, nil
}

func eventValue[T any](e barn.Event) (T, error) {
	var t T
	if e.Deleted {
		return t, nil
	}
	if err := json.Unmarshal(e.Value.Data, &t); err != nil {
		return t, errs.E(errs.Corrupt, "read event", "%w", err).WithField(e.Key)
	}
	return t, nil
}

func nodeEvent(name string, ns *NodeState) *apiv1.Event {
	out := &apiv1.Event{Kind: "node", Name: name, State: ns.State, Message: ns.Reason}
	if ns.Draining {
		out.State, out.Message = "draining", ns.DrainReason
	}
	if out.Message == "" && len(ns.Labels) > 0 {
		var l []string
		for _, k := range slices.Sorted(maps.Keys(ns.Labels)) {
			l = append(l, k+"="+ns.Labels[k])
		}
		out.Message = "labels " + strings.Join(l, ",")
	}
	return out
}

func sliceMessage(s *SliceState) string {
	var parts []string
	if s.Node != "" {
		parts = append(parts, "on "+s.Node)
	}
	if s.Epoch > 1 {
		parts = append(parts, fmt.Sprintf("attempt %d", s.Epoch))
	}
	var rows int64
	for _, c := range s.Counts {
		rows = max(rows, c.In, c.Out)
	}
	if rows > 0 {
		parts = append(parts, fmt.Sprintf("%d rows", rows))
	}
	if x := s.Exit; x != nil {
		parts = append(parts, x.Reason)
		if x.Message != "" && x.Reason != ExitSuccess {
			parts[len(parts)-1] += ": " + x.Message
		}
	}
	return strings.Join(parts, ", ")
}
