package governance

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"strings"
	"time"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

const (
	recordPrefix  = "/lineage/run/"
	datasetPrefix = "/lineage/dataset/"
	usePrefix     = "/lineage/use/"
	dataPrefix    = "/lineage/data/"
)

// Kinds of nodes.
const (
	KindDataset = "dataset"
	KindStep    = "step"
)

// Reader is the state to read from: a barn.View or, in a handler, a *barn.Tx.
type Reader interface {
	Get(key string) (barn.Value, bool)
	Range(prefix string, fn func(key string, v barn.Value) bool)
}

// Record is one committed run as a graph.
type Record struct {
	Run  string    `json:"run"`
	Herd string    `json:"herd"`
	Name string    `json:"name"`
	Code string    `json:"code,omitempty"` // digest of .dsl and Go sources
	Time time.Time `json:"time"`
	// Nodes are in the order of the plan; edges name them by index.
	Nodes []Node `json:"nodes"`
	Edges []Edge `json:"edges"`
}

// Node is a dataset the run read or wrote, or one of its steps.
type Node struct {
	Kind     string           `json:"kind"`
	Name     string           `json:"name"` // uri of a dataset, block name of a step
	Rows     int64            `json:"rows"`
	Written  bool             `json:"written,omitempty"` // a dataset the run made
	Digest   string           `json:"digest,omitempty"`  // of a dataset's content
	Contract string           `json:"contract,omitempty"`
	Schema   string           `json:"schema,omitempty"` // digest of the contract
	Rejected map[string]int64 `json:"rejected,omitempty"`
}

// Edge carried rows from a node to a node.
type Edge struct {
	From int   `json:"from"`
	To   int   `json:"to"`
	Rows int64 `json:"rows"`
}

// Dataset is the newest version of a dataset.
type Dataset struct {
	Herd string    `json:"herd"`
	Run  string    `json:"run"`
	Time time.Time `json:"time"`
	Node Node      `json:"node"`
}

// use is one run's use of a dataset.
type use struct {
	Written bool   `json:"written"`
	Digest  string `json:"digest"`
}

// DatasetID is "<herd>/<uri>".
func DatasetID(herd, uri string) string { return herd + "/" + uri }

func escaped(dataset string) string { return url.QueryEscape(dataset) }

// Store records a run. It is for the handler that commits it.
func Store(tx *barn.Tx, r Record) error {
	if err := r.check(); err != nil {
		return err
	}
	if err := put(tx, recordPrefix+r.Run, r); err != nil {
		return err
	}
	newest := fmt.Sprintf("%016x", uint64(math.MaxInt64-r.Time.UnixNano()))
	for _, n := range r.Nodes {
		if n.Kind != KindDataset {
			continue
		}
		id := escaped(DatasetID(r.Herd, n.Name))
		if err := put(tx, datasetPrefix+id, Dataset{Herd: r.Herd, Run: r.Run, Time: r.Time, Node: n}); err != nil {
			return err
		}
		if err := put(tx, usePrefix+id+"/"+newest+"/"+r.Run, use{n.Written, n.Digest}); err != nil {
			return err
		}
		if n.Digest != "" {
			tx.Put(dataKey(n.Digest, n.Written)+r.Run, []byte("{}"))
		}
	}
	return nil
}

func dataKey(digest string, written bool) string {
	if written {
		return dataPrefix + digest + "/w/"
	}
	return dataPrefix + digest + "/r/"
}

func (r *Record) check() error {
	const op = "store lineage"
	if r.Run == "" || r.Herd == "" || strings.Contains(r.Run, "/") {
		return errs.E(errs.Invalid, op, "a record without run or herd")
	}
	for _, e := range r.Edges {
		if e.From < 0 || e.To < 0 || e.From >= len(r.Nodes) || e.To >= len(r.Nodes) {
			return errs.E(errs.Invalid, op, "edge %d to %d of %d nodes", e.From, e.To, len(r.Nodes))
		}
	}
	return nil
}

func put(tx *barn.Tx, key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return errs.E(errs.Internal, "write lineage", "%w", err).WithField(key)
	}
	tx.Put(key, data)
	return nil
}

// Find returns the record of a run; false if it has none (yet).
func Find(r Reader, run string) (Record, bool, error) {
	var rec Record
	v, ok := r.Get(recordPrefix + run)
	if !ok {
		return rec, false, nil
	}
	if err := json.Unmarshal(v.Data, &rec); err != nil {
		return rec, false, errs.E(errs.Corrupt, "read lineage", "%w", err).WithField(run)
	}
	return rec, true, nil
}

// Datasets lists the newest version of each dataset whose herd is visible, by name.
func Datasets(r Reader, visible func(herd string) bool) ([]Dataset, error) {
	var out []Dataset
	var err error
	r.Range(datasetPrefix, func(key string, v barn.Value) bool {
		var d Dataset
		if err = json.Unmarshal(v.Data, &d); err != nil {
			err = errs.E(errs.Corrupt, "read lineage", "%w", err).WithField(key)
			return false
		}
		if visible(d.Herd) {
			out = append(out, d)
		}
		return true
	})
	return out, err
}
