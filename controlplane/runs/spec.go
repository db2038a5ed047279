package runs

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/scheduler"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// newSpec turns a request and the plan of its bundle into what is recorded. Everything
// that can be said about the request without looking at the cluster's state is said here.
// id, owner and time are the caller's to set.
//
// Errors: errs.Invalid and errs.Unimplemented, with the field of the request.
func newSpec(req *apiv1.SubmitRunRequest, p *plan.Plan) (*Spec, error) {
	const op = "submit run"
	if p.Herd != "" && p.Herd != req.Herd {
		return nil, errs.E(errs.Invalid, op, "the bundle was built for herd %s, not %s", p.Herd, req.Herd).
			WithField("herd").WithHint("submit it with --herd %s, or change @herd and build it again", p.Herd)
	}
	params, err := resolveParams(p.Params, req.Params)
	if err != nil {
		return nil, err
	}
	s := &Spec{
		Name: p.Name, Herd: req.Herd, BundleDigest: req.BundleDigest, CodeDigest: p.CodeDigest,
		Params: params, Regions: len(p.Regions),
	}
	if len(p.Slices) == 0 {
		return nil, errs.E(errs.Invalid, op, "the bundle's plan has no slices").WithField("bundle_digest")
	}
	if err := s.addBlocks(p, req.Inputs); err != nil {
		return nil, err
	}
	owner := map[string]string{}
	kinds := map[string]plan.BlockKind{}
	for _, b := range p.Blocks {
		kinds[b.Name] = b.Kind
	}
	for _, sl := range p.Slices {
		s.Slices = append(s.Slices, sliceSpec(&sl, kinds))
		for _, b := range sl.Blocks {
			if !kinds[b].Shared() || owner[b] == "" {
				owner[b] = sl.Name
			}
		}
	}
	for _, e := range p.Edges {
		if e.Remote {
			s.Edges = append(s.Edges, EdgeSpec{ID: e.ID, From: owner[e.From], To: owner[e.To]})
		}
	}
	return s, nil
}

// addBlocks resolves the URIs of sources and sinks and joins the uploaded inputs to their
// sources.
func (s *Spec) addBlocks(p *plan.Plan, inputs []*apiv1.RunInput) error {
	const op = "submit run"
	given := map[string]*apiv1.RunInput{}
	for _, in := range inputs {
		if given[in.Block] != nil {
			return errs.E(errs.Invalid, op, "the source has two inputs").WithField("inputs." + in.Block)
		}
		given[in.Block] = in
	}
	var sources []string
	for _, b := range p.Blocks {
		uri, err := expand(b.URI, s.Params)
		if err != nil {
			return errs.E(errs.Invalid, op, "block %s: %w", b.Name, err).WithField("params")
		}
		switch b.Kind {
		case plan.KindSource:
			if !strings.HasPrefix(uri, "file://") {
				return errs.E(errs.Unimplemented, op, "source %s reads %s; a cluster reads file:// inputs only", b.Name, uri).WithField("bundle_digest")
			}
			sources = append(sources, b.Name)
			in := given[b.Name]
			if in == nil {
				return errs.E(errs.Invalid, op, "source %s (%s) has no input", b.Name, uri).
					WithField("inputs."+b.Name).WithHint("add --input %s=FILE", b.Name)
			}
			delete(given, b.Name)
			s.Inputs = append(s.Inputs, Input{Block: b.Name, Digest: in.Digest, Size: in.Size, File: in.File, URI: uri})
		case plan.KindSink, plan.KindDLQ:
			if !strings.HasPrefix(uri, "file://") {
				return errs.E(errs.Unimplemented, op, "sink %s writes %s; a cluster writes file:// outputs only", b.Name, uri).WithField("bundle_digest")
			}
			s.Sinks = append(s.Sinks, Sink{Block: b.Name, URI: uri, Rejected: b.Kind == plan.KindDLQ})
			s.seals = s.seals || b.Kind == plan.KindDLQ
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		return errs.E(errs.Invalid, op, "the pipeline has no source of that name").WithField("inputs."+name).
			WithHint("its sources: %s", strings.Join(sources, ", "))
	}
	return nil
}

func sliceSpec(sl *plan.Slice, kinds map[string]plan.BlockKind) SliceSpec {
	r := sl.Requires
	out := SliceSpec{
		Name: sl.Name, Region: sl.Region,
		Needs:  scheduler.Resources{MilliCPU: r.MilliCPU, Memory: r.Memory, Disk: r.Disk},
		Labels: slices.Clone(r.Labels), Colocate: sl.Affinity.ColocateWith,
		Domain: sl.Affinity.Domain, Spread: sl.Affinity.SpreadNode, TimeSec: r.TimeSec,
	}
	for _, x := range sl.Secrets {
		out.Secrets = append(out.Secrets, SecretUse{Path: x.Path, Env: x.Env, File: x.File, Place: place(x.Pos)})
	}
	if out.Needs.MilliCPU == 0 {
		out.Needs.MilliCPU = plan.DefaultMilliCPU
	}
	if out.Needs.Memory == 0 {
		out.Needs.Memory = plan.DefaultMemory
	}
	if l := sl.Affinity.Label; l != "" {
		out.Labels = append(out.Labels, l)
	}
	for _, b := range sl.Blocks {
		switch kinds[b] {
		case plan.KindSource:
			out.Sources = append(out.Sources, b)
		case plan.KindSink, plan.KindDLQ:
			out.Sinks = append(out.Sinks, b)
		}
	}
	return out
}

// place reads file:line:col.
func place(p plan.Pos) string {
	if p.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// resolveParams checks the values given against the declared types, and fills in defaults.
func resolveParams(declared []plan.Param, given map[string]string) (map[string]string, error) {
	const op = "submit run"
	out := make(map[string]string, len(declared))
	var names []string
	for _, d := range declared {
		names = append(names, d.Name)
		v, ok := given[d.Name]
		if !ok {
			if d.Required {
				return nil, errs.E(errs.Invalid, op, "the parameter has no value and no default").WithField("params."+d.Name).
					WithHint("add --param %s=… (%s)", d.Name, d.Type)
			}
			v = d.Default
		}
		if err := checkParam(d.Type, v); err != nil {
			return nil, errs.E(errs.Invalid, op, "%.80q is no %s", v, d.Type).WithField("params."+d.Name).WithHint("%s", err.Error())
		}
		out[d.Name] = v
	}
	for _, k := range slices.Sorted(maps.Keys(given)) {
		if _, ok := out[k]; !ok {
			return nil, errs.E(errs.Invalid, op, "the pipeline has no parameter of that name").WithField("params."+k).
				WithHint("its parameters: %s", strings.Join(names, ", "))
		}
	}
	return out, nil
}

func checkParam(typ, v string) (err error) {
	switch typ {
	case "string":
	case "int":
		_, err = strconv.ParseInt(v, 10, 64)
	case "float":
		_, err = strconv.ParseFloat(v, 64)
	case "bool":
		_, err = strconv.ParseBool(v)
	case "duration":
		_, err = time.ParseDuration(v)
	case "time":
		_, err = time.Parse(time.RFC3339, v)
	default:
		err = errs.E(errs.Unimplemented, "check parameter", "type %q is not known", typ)
	}
	return err
}

var paramRef = regexp.MustCompile(`\$\{([^}]*)\}`)

// expand replaces ${name} in a URI.
func expand(s string, params map[string]string) (string, error) {
	var err error
	out := paramRef.ReplaceAllStringFunc(s, func(m string) string {
		v, ok := params[m[2:len(m)-1]]
		if !ok && err == nil {
			err = errs.E(errs.Invalid, "expand", "%s names no parameter", m)
		}
		return v
	})
	return out, err
}
