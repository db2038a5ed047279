package secrets

import (
	"encoding/json"
	"fmt"
	"strings"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// Event says what a changed key of this package's table means for people; nil if it is none
// of it. Of a value it tells the version. Cursor, time and who did it are the caller's to add.
func Event(e barn.Event) (*apiv1.Event, error) {
	name, ok := strings.CutPrefix(e.Key, prefix)
	if !ok {
		return nil, nil
	}
	herd, path, _ := strings.Cut(name, "/")
	out := &apiv1.Event{Kind: "secret", Name: path, Herd: herd, State: "deleted"}
	if e.Deleted {
		return out, nil
	}
	var r record
	if err := json.Unmarshal(e.Value.Data, &r); err != nil {
		return nil, errs.E(errs.Corrupt, "read event", "%w", err).WithField(e.Key)
	}
	if !r.Deleted {
		out.State, out.Message = "set", fmt.Sprintf("version %d", r.Version)
	}
	return out, nil
}
