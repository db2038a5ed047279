package engine

import (
	"encoding/json"

	"github.com/runink/runink/internal/deadletter"
	"github.com/runink/runink/internal/seal"
	"github.com/runink/runink/sdk"
)

// appendReject appends the line of a rejected row (package deadletter), its content sealed
// unless sealer is nil.
func appendReject(dst []byte, block string, h *sdk.Head, r *sdk.Reject, sealer *seal.RowSealer) []byte {
	row := deadletter.Row{
		Kind: r.Kind, Rule: r.Rule, Field: r.Field, Step: block, Source: h.Source, Offset: max(r.Origin.Offset, -1),
		Err: r.Err, Original: h.Original(r.Origin),
	}
	return row.Append(dst, sealer)
}

// appendString appends s as a JSON string.
func appendString(dst []byte, s string) []byte {
	b, err := json.Marshal(s)
	if err != nil { // a string always marshals
		return append(dst, `""`...)
	}
	return append(dst, b...)
}
