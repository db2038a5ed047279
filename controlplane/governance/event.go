package governance

import (
	"encoding/json"
	"fmt"
	"strings"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// Event says what a changed key of this package's tables means for people: a dataset that a
// run wrote or read. It is nil for everything else. Cursor, time and who did it are the
// caller's to add.
func Event(e barn.Event) (*apiv1.Event, error) {
	if !strings.HasPrefix(e.Key, datasetPrefix) || e.Deleted {
		return nil, nil
	}
	var d Dataset
	if err := json.Unmarshal(e.Value.Data, &d); err != nil {
		return nil, errs.E(errs.Corrupt, "read event", "%w", err).WithField(e.Key)
	}
	out := &apiv1.Event{Kind: "dataset", Name: d.Node.Name, Herd: d.Herd, State: "read", Message: fmt.Sprintf("by run %s, %d rows", d.Run, d.Node.Rows)}
	if d.Node.Written {
		out.State = "written"
	}
	return out, nil
}
