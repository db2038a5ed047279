package governance

import (
	"encoding/json"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// Query asks for a part of the graph.
type Query struct {
	Run     string // root: a run, or
	Dataset string // a dataset, "<herd>/<uri>"
	Up      bool
	Down    bool
	Depth   int // how many runs away from the root; 0: 5
	// Visible says whether the caller may see a herd. What it may not see is left out.
	Visible func(herd string) bool
}

// Bounds of an answer.
const (
	defaultDepth = 5
	maxNodes     = 2000
	maxVersions  = 20 // runs that used a dataset, looked at from it
)

// Walk returns the part of the graph that q reaches, each node and edge once.
//
// Errors: NotFound if the root is not there, or not visible.
func Walk(r Reader, q Query) (*apiv1.LineageResponse, error) {
	if q.Depth == 0 {
		q.Depth = defaultDepth
	}
	w := &walk{r: r, q: q, out: &apiv1.LineageResponse{}, nodes: map[string]bool{}, edges: map[[2]string]bool{}, seen: map[string]bool{}}
	var err error
	if q.Run != "" {
		err = w.fromRun()
	} else {
		err = w.fromDataset()
	}
	return w.out, err
}

type walk struct {
	r     Reader
	q     Query
	out   *apiv1.LineageResponse
	nodes map[string]bool
	edges map[[2]string]bool
	seen  map[string]bool // run + node + direction
}

func (w *walk) fromRun() error {
	rec, ok, err := Find(w.r, w.q.Run)
	if err != nil {
		return err
	}
	if !ok || !w.q.Visible(rec.Herd) {
		return errs.E(errs.NotFound, "read lineage", "run %q has none", w.q.Run).WithField("run").
			WithHint("lineage is recorded when a run succeeds; `runink ps -a` shows runs")
	}
	all := make([]bool, len(rec.Nodes))
	for i := range all {
		all[i] = true
	}
	w.add(&rec, all)
	return w.onward(&rec, all, 1)
}

func (w *walk) fromDataset() error {
	const op = "read lineage"
	herd, _, _ := strings.Cut(w.q.Dataset, "/")
	missing := errs.E(errs.NotFound, op, "there is no dataset %q", w.q.Dataset).WithField("dataset").
		WithHint("datasets are named <herd>/<uri>, as `runink lineage` without arguments lists them")
	if !w.q.Visible(herd) {
		return missing
	}
	n := 0
	var err error
	prefix := usePrefix + escaped(w.q.Dataset) + "/"
	w.r.Range(prefix, func(key string, v barn.Value) bool {
		if n++; n > maxVersions {
			w.out.Truncated = true
			return false
		}
		var u use
		if err = json.Unmarshal(v.Data, &u); err != nil {
			err = errs.E(errs.Corrupt, op, "%w", err).WithField(key)
			return false
		}
		run := key[strings.LastIndexByte(key, '/')+1:]
		if u.Written && w.q.Up || !u.Written && w.q.Down {
			err = w.visit(run, u.Digest, u.Written, 1)
			return err == nil
		}
		// The other end is not asked for, but the dataset itself is there.
		err = w.only(run, u)
		return err == nil
	})
	if err == nil && n == 0 {
		return missing
	}
	return err
}

// only adds the dataset node of a use, without its run.
func (w *walk) only(run string, u use) error {
	rec, ok, err := Find(w.r, run)
	if err != nil || !ok {
		return err
	}
	keep := make([]bool, len(rec.Nodes))
	for i, n := range rec.Nodes {
		keep[i] = n.Kind == KindDataset && n.Written == u.Written && DatasetID(rec.Herd, n.Name) == w.q.Dataset
	}
	w.add(&rec, keep)
	if w.q.Down && u.Written || w.q.Up && !u.Written {
		return w.onward(&rec, keep, 1)
	}
	return nil
}

// visit adds what of a run lies above (up) or below a dataset of it, and goes on from
// there.
func (w *walk) visit(run, digest string, up bool, depth int) error {
	key := run + "/" + digest
	if up {
		key += "/up"
	}
	if w.seen[key] {
		return nil
	}
	w.seen[key] = true
	rec, ok, err := Find(w.r, run)
	if err != nil || !ok || !w.q.Visible(rec.Herd) {
		return err
	}
	keep := make([]bool, len(rec.Nodes))
	for i, n := range rec.Nodes {
		keep[i] = n.Kind == KindDataset && n.Written == up && n.Digest == digest
	}
	rec.spread(keep, up)
	w.add(&rec, keep)
	return w.onward(&rec, keep, depth)
}

// spread marks what leads to the marked nodes (up), or follows from them.
func (r *Record) spread(keep []bool, up bool) {
	for changed := true; changed; {
		changed = false
		for _, e := range r.Edges {
			from, to := e.From, e.To
			if up {
				from, to = to, from
			}
			if keep[from] && !keep[to] {
				keep[to], changed = true, true
			}
		}
	}
}

// onward follows the datasets among the kept nodes to the runs that wrote or read the same
// content.
func (w *walk) onward(rec *Record, keep []bool, depth int) error {
	for i, n := range rec.Nodes {
		if !keep[i] || n.Kind != KindDataset || n.Digest == "" {
			continue
		}
		up := !n.Written
		if up && !w.q.Up || !up && !w.q.Down {
			continue
		}
		var runs []string
		prefix := dataKey(n.Digest, up)
		w.r.Range(prefix, func(key string, _ barn.Value) bool {
			runs = append(runs, strings.TrimPrefix(key, prefix))
			return len(runs) < maxVersions
		})
		for _, run := range runs {
			if run == rec.Run {
				continue
			}
			if depth >= w.q.Depth || len(w.out.Nodes) >= maxNodes {
				w.out.Truncated = true
				return nil
			}
			if err := w.visit(run, n.Digest, up, depth+1); err != nil {
				return err
			}
			if err := w.join(rec, &n, run); err != nil {
				return err
			}
		}
	}
	return nil
}

// join adds an edge where the same content has another name in the other run.
func (w *walk) join(rec *Record, n *Node, run string) error {
	other, ok, err := Find(w.r, run)
	if err != nil || !ok {
		return err
	}
	for i := range other.Nodes {
		o := &other.Nodes[i]
		if o.Kind != KindDataset || o.Digest != n.Digest || o.Written == n.Written {
			continue
		}
		from, to := w.id(&other, o), w.id(rec, n)
		if n.Written {
			from, to = to, from
		}
		if from != to && w.nodes[from] && w.nodes[to] {
			w.edge(from, to, n.Rows)
		}
	}
	return nil
}

func (w *walk) id(r *Record, n *Node) string {
	if n.Kind == KindDataset {
		id := "dataset:" + DatasetID(r.Herd, n.Name)
		if n.Digest != "" {
			id += "@" + n.Digest
		}
		return id
	}
	return "step:" + r.Run + "/" + n.Name
}

func (w *walk) add(r *Record, keep []bool) {
	for i := range r.Nodes {
		n := &r.Nodes[i]
		id := w.id(r, n)
		if !keep[i] || w.nodes[id] {
			continue
		}
		w.nodes[id] = true
		out := &apiv1.LineageNode{
			Id: id, Kind: n.Kind, Name: n.Name, Run: r.Run, Rows: n.Rows, Contract: n.Contract, ContractDigest: n.Schema,
			CodeDigest: r.Code, DataDigest: n.Digest, Rejected: n.Rejected, Time: timestamppb.New(r.Time),
		}
		if n.Kind == KindDataset {
			out.Name, out.CodeDigest = DatasetID(r.Herd, n.Name), ""
		}
		w.out.Nodes = append(w.out.Nodes, out)
	}
	for _, e := range r.Edges {
		if keep[e.From] && keep[e.To] {
			w.edge(w.id(r, &r.Nodes[e.From]), w.id(r, &r.Nodes[e.To]), e.Rows)
		}
	}
}

func (w *walk) edge(from, to string, rows int64) {
	k := [2]string{from, to}
	if !w.edges[k] {
		w.edges[k] = true
		w.out.Edges = append(w.out.Edges, &apiv1.LineageEdge{From: from, To: to, Rows: rows})
	}
}
