package openlineage

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// Run is what the events tell.
type Run struct {
	Cluster   string // its name
	ClusterID string
	ID        string
	Herd      string
	Version   string // of the program that ran it
	State     string // as in the API
	Reason    string // of failed and cancelled
	Submitted time.Time
	Started   time.Time // zero: it has not begun
	Ended     time.Time // zero: it has not ended
	Plan      *plan.Plan
	Inputs    []Dataset // in the order of the plan
	Outputs   []Dataset
}

// Dataset is what a source read or a sink wrote.
type Dataset struct {
	Block  string // in the plan
	URI    string // parameters resolved
	Digest string // of the content; empty: not known, or none
	// Stats are there once they are final, and for outputs once they are published.
	Stats *Stats
}

// Stats are what was read or written.
type Stats struct {
	Rows, Bytes int64
	Files       int
}

// Events returns the run's events as JSON documents, in the order of their times: nothing of
// a run that waits, START of one that runs, and COMPLETE, FAIL or ABORT of one that ended. A
// run that ended before it began has a START, too, at its submission: readers need one.
func Events(r Run) ([]string, error) {
	start := r.Started
	if start.IsZero() {
		start = r.Submitted
	}
	last := map[string]string{"succeeded": "COMPLETE", "failed": "FAIL", "cancelled": "ABORT"}[r.State]
	var out []string
	add := func(typ string, at time.Time, final bool) error {
		text, err := encode(r.event(typ, at, final))
		out = append(out, text)
		return err
	}
	if !r.Started.IsZero() || last != "" {
		if err := add("START", start, false); err != nil {
			return nil, err
		}
	}
	if last != "" {
		if err := add(last, r.Ended, true); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func encode(e event) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // a "<" in a message is a "<"
	if err := enc.Encode(e); err != nil {
		return "", errs.E(errs.Internal, "write OpenLineage", "%w", err)
	}
	return string(bytes.TrimSpace(b.Bytes())), nil
}

// Where the documents say what they are, and who made them.
const (
	producer  = "https://github.com/runink/runink"
	schemaURL = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
	facetBase = "https://openlineage.io/spec/facets/"
)

// event is a RunEvent.
type event struct {
	EventType string    `json:"eventType"`
	EventTime string    `json:"eventTime"`
	Run       runRef    `json:"run"`
	Job       job       `json:"job"`
	Inputs    []dataset `json:"inputs"`
	Outputs   []dataset `json:"outputs"`
	Producer  string    `json:"producer"`
	SchemaURL string    `json:"schemaURL"`
}

type runRef struct {
	RunID  string         `json:"runId"`
	Facets map[string]any `json:"facets"`
}

type job struct {
	Namespace string         `json:"namespace"`
	Name      string         `json:"name"`
	Facets    map[string]any `json:"facets"`
}

// dataset is an InputDataset or an OutputDataset.
type dataset struct {
	Namespace    string         `json:"namespace"`
	Name         string         `json:"name"`
	Facets       map[string]any `json:"facets,omitempty"`
	InputFacets  map[string]any `json:"inputFacets,omitempty"`
	OutputFacets map[string]any `json:"outputFacets,omitempty"`
}

func (r *Run) namespace() string { return "runink://" + r.Cluster + "/" + r.Herd }

// runID is a UUID of version 7 (RFC 9562, section 5.7): the time is that of the submission,
// and what else is random there is a digest of the run's id in its cluster.
func (r *Run) runID() string {
	sum := sha256.Sum256([]byte(r.ClusterID + "/" + r.ID))
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(max(0, r.Submitted.UnixMilli())))
	var u [16]byte
	copy(u[:6], ms[2:])
	copy(u[6:], sum[:])
	u[6] = u[6]&0x0f | 0x70
	u[8] = u[8]&0x3f | 0x80
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func (r *Run) event(typ string, at time.Time, final bool) event {
	e := event{
		EventType: typ, EventTime: at.UTC().Format(time.RFC3339Nano),
		Run:    runRef{RunID: r.runID(), Facets: map[string]any{"processing_engine": engineFacet(r.Version)}},
		Job:    job{Namespace: r.namespace(), Name: r.Plan.Name, Facets: map[string]any{"jobType": jobTypeFacet()}},
		Inputs: []dataset{}, Outputs: []dataset{}, Producer: producer, SchemaURL: schemaURL,
	}
	if typ == "FAIL" || typ == "ABORT" {
		e.Run.Facets["errorMessage"] = errorFacet(r.Reason)
	}
	for _, d := range r.Inputs {
		x := dataset{Namespace: r.namespace(), Name: d.URI, Facets: r.facets(d)}
		if final && d.Stats != nil {
			x.InputFacets = map[string]any{"inputStatistics": statsFacet(inputStats, *d.Stats)}
		}
		e.Inputs = append(e.Inputs, x)
	}
	for _, d := range r.Outputs {
		x := dataset{Namespace: r.namespace(), Name: d.URI, Facets: r.facets(d)}
		if c := r.columnFacet(d.Block); c != nil {
			x.Facets["columnLineage"] = c
		}
		if final && d.Stats != nil {
			x.OutputFacets = map[string]any{"outputStatistics": statsFacet(outputStats, *d.Stats)}
		}
		e.Outputs = append(e.Outputs, x)
	}
	return e
}
