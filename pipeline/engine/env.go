package engine

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/sdk"
)

// Env is what stages may ask of the run: its parameters, typed, and the context for steps.
type Env struct {
	Ctx *sdk.Context
	// Slice is the only slice whose blocks will run; empty: all may. A builder may leave out
	// what the others need.
	Slice  string
	values map[string]any
	text   map[string]string
}

// Resolve checks given parameters against the plan and fills in defaults. It names every
// bad parameter by its flag.
func Resolve(p *plan.Plan, given map[string]string) (map[string]string, error) {
	const op = "resolve parameters"
	out := map[string]string{}
	known := map[string]bool{}
	for _, prm := range p.Params {
		known[prm.Name] = true
		v, ok := given[prm.Name]
		if !ok {
			if prm.Required {
				return nil, errs.E(errs.Invalid, op, "parameter %q has no value", prm.Name).WithField(prm.Name).
					WithHint("pass --param %s=<%s>", prm.Name, prm.Type)
			}
			v = prm.Default
		}
		if _, err := parseParam(prm.Type, v); err != nil {
			return nil, errs.E(errs.Invalid, op, "%q is not a %s: %w", v, prm.Type, err).WithField(prm.Name).
				WithHint("pass --param %s=<%s>", prm.Name, prm.Type)
		}
		out[prm.Name] = v
	}
	for name := range given {
		if !known[name] {
			return nil, errs.E(errs.Invalid, op, "the pipeline has no parameter %q", name).WithField(name).
				WithHint("it has: %s", strings.Join(paramNames(p), ", "))
		}
	}
	return out, nil
}

func paramNames(p *plan.Plan) []string {
	names := make([]string, len(p.Params))
	for i, prm := range p.Params {
		names[i] = prm.Name
	}
	return names
}

// NewEnv makes the environment of a run; text holds every parameter of the plan (Resolve).
func NewEnv(p *plan.Plan, text map[string]string, ctx *sdk.Context) (*Env, error) {
	e := &Env{Ctx: ctx, values: map[string]any{}, text: text}
	for _, prm := range p.Params {
		v, err := parseParam(prm.Type, text[prm.Name])
		if err != nil {
			return nil, errs.E(errs.Invalid, "read parameters", "%q is not a %s: %w", text[prm.Name], prm.Type, err).WithField(prm.Name)
		}
		e.values[prm.Name] = v
	}
	return e, nil
}

// CheckParam reports whether a run takes text as a parameter of a type.
func CheckParam(typ, text string) error {
	_, err := parseParam(typ, text)
	return err
}

// parseParam returns string, int64, float64, bool, time.Duration or time.Time.
func parseParam(typ, s string) (any, error) {
	switch typ {
	case "string", "":
		return s, nil
	case "int":
		return strconv.ParseInt(s, 10, 64)
	case "float":
		f, err := strconv.ParseFloat(s, 64)
		if err == nil && (math.IsNaN(f) || math.IsInf(f, 0)) {
			err = fmt.Errorf("not finite")
		}
		return f, err
	case "bool":
		return strconv.ParseBool(s)
	case "duration":
		return time.ParseDuration(s)
	case "time":
		t, err := time.Parse(time.RFC3339Nano, s)
		return t.UTC(), err
	}
	return nil, fmt.Errorf("unknown parameter type %q", typ)
}

// Param returns a parameter's value: string, int64, float64, bool, time.Duration or time.Time.
func (e *Env) Param(name string) any { return e.values[name] }

// ParamOf returns a parameter as the type that its declaration has.
func ParamOf[T any](e *Env, name string) T {
	v, _ := e.values[name].(T)
	return v
}

// Expand replaces each ${name} in s by the parameter's text.
func (e *Env) Expand(s string) (string, error) { return expand(s, e.text) }

func expand(s string, text map[string]string) (string, error) {
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String(), nil
		}
		j := strings.IndexByte(s[i:], '}')
		if j < 0 {
			return "", errs.E(errs.Invalid, "expand parameters", "%q: missing }", s).WithHint("a parameter is written ${name}")
		}
		name := s[i+2 : i+j]
		v, ok := text[name]
		if !ok {
			return "", errs.E(errs.Invalid, "expand parameters", "%q: no parameter %q", s, name).WithHint("declare it with @param(%q)", name)
		}
		b.WriteString(s[:i])
		b.WriteString(v)
		s = s[i+j+1:]
	}
}
