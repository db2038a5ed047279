package artifacts

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// What a bundle may hold. Binaries are skipped, not read, so only their number counts.
const (
	maxPlanBytes     = 4 << 20
	maxBundleEntries = 1024
)

// ReadPlan finds plan.json in a bundle archive (an uncompressed tar) and returns it,
// validated.
//
// Errors: errs.Invalid, whatever is wrong with the archive or the plan.
func ReadPlan(r io.Reader) (*plan.Plan, error) {
	const op = "read bundle"
	hint := "build it again with `runink build`"
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil, errs.E(errs.Invalid, op, "it has no plan.json").WithField("bundle").WithHint("%s", hint)
		case err != nil:
			return nil, errs.E(errs.Invalid, op, "it is not a bundle archive: %w", err).WithField("bundle").WithHint("%s", hint)
		case n == maxBundleEntries:
			return nil, errs.E(errs.Invalid, op, "it has more than %d entries", maxBundleEntries).WithField("bundle")
		}
		if h.Name != "plan.json" {
			continue
		}
		if h.Typeflag != tar.TypeReg || h.Size > maxPlanBytes {
			return nil, errs.E(errs.Invalid, op, "plan.json is no regular file of at most %d bytes", maxPlanBytes).WithField("bundle")
		}
		data, err := io.ReadAll(io.LimitReader(tr, maxPlanBytes))
		if err != nil {
			return nil, errs.E(errs.Invalid, op, "plan.json: %w", err).WithField("bundle").WithHint("%s", hint)
		}
		p := &plan.Plan{}
		if err := json.Unmarshal(data, p); err != nil {
			return nil, errs.E(errs.Invalid, op, "plan.json: %w", err).WithField("bundle").WithHint("%s", hint)
		}
		if err := p.Validate(); err != nil {
			return nil, errs.E(errs.Invalid, op, "plan.json: %w", err).WithField("bundle").WithHint("%s", hint)
		}
		return p, nil
	}
}
