package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/runink/runink/internal/plan"
)

func newPlanCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "plan FILE.dsl",
		Short: "Show what a pipeline becomes: slices, edges, constraints",
		Long: `Plan compiles a pipeline and shows how it will run: which blocks are fused into which
slice, which edges cross slices, what each slice needs of its node, and where rejected
rows go. It runs nothing.`,
		Example: `  runink plan flights.dsl
  runink plan -o json flights.dsl | jq '.[0].slices'`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			form, err := c.Flags().GetString("output")
			if err != nil {
				return err
			}
			r, err := compileFile(c.Context(), c.ErrOrStderr(), args[0])
			if err != nil {
				return err
			}
			if form != "table" {
				return writeJSON(c, form, r.Plans)
			}
			for i, p := range r.Plans {
				if i > 0 {
					fmt.Fprintln(c.OutOrStdout())
				}
				if err := printPlan(c.OutOrStdout(), p); err != nil {
					return err
				}
			}
			return nil
		},
	}
	addOutputFlag(c)
	return c
}

func printPlan(w io.Writer, p *plan.Plan) error {
	title := []string{p.Name}
	for _, t := range []string{p.Feature, p.Scenario} {
		if t != "" {
			title = append(title, t)
		}
	}
	fmt.Fprintln(w, strings.Join(title, ": "))
	served := "the stock engine (built-in steps only)"
	if p.Native {
		served = "a program of its own (Go steps)"
	}
	fmt.Fprintf(w, "herd %s, %s, served by %s\n", orDash(p.Herd), plural(len(p.Regions), "region"), served)
	for _, prm := range p.Params {
		value := "required"
		if !prm.Required {
			value = "default " + prm.Default
		}
		fmt.Fprintf(w, "parameter %s %s, %s\n", prm.Name, prm.Type, value)
	}
	for _, s := range p.Slices {
		for _, x := range s.Secrets {
			fmt.Fprintf(w, "secret %s %s, in slice %s only\n", x.Path, secretForm(x), s.Name)
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nSLICE\tREGION\tCPU\tMEMORY\tPLACEMENT\tBLOCKS")
	for _, s := range p.Slices {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\n", s.Name, s.Region, planCPU(s.Requires), planMemory(s.Requires), slicePlacement(s), strings.Join(s.Blocks, ", "))
	}
	fmt.Fprintln(t, "\nBLOCK\tKIND\tREADS\tMAKES\tREJECTS\tWHAT")
	for _, b := range p.Blocks {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", b.Name, blockKind(b), blockReads(p, b), orDash(b.Out), blockRejects(p, b), orDash(b.Prose))
	}
	fmt.Fprintln(t, "\nEDGE\tFROM\tTO\tCARRIES\tWAY")
	for _, e := range p.Edges {
		if e.Port != "" {
			continue // shown with the block
		}
		way := "in memory"
		if e.Remote {
			way = "between slices"
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\n", e.ID, e.From, e.To, e.Schema, way)
	}
	return t.Flush()
}

// secretForm says how a step reads a secret.
func secretForm(x plan.Secret) string {
	switch {
	case x.Env != "":
		return "as variable " + x.Env
	case x.File != "":
		return "as file " + x.File
	}
	return "through its context"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func planCPU(r plan.Requires) string {
	m := r.MilliCPU
	if m == 0 {
		m = plan.DefaultMilliCPU
	}
	return fmt.Sprintf("%.3g", float64(m)/1000)
}

func planMemory(r plan.Requires) string {
	b := r.Memory
	if b == 0 {
		b = plan.DefaultMemory
	}
	if b%(1<<30) == 0 {
		return fmt.Sprintf("%dGi", b>>30)
	}
	return fmt.Sprintf("%.5gMi", float64(b)/(1<<20))
}

func slicePlacement(s plan.Slice) string {
	var out []string
	if s.Affinity.SpreadNode {
		out = append(out, "alone on its node")
	}
	if l := s.Affinity.Label; l != "" {
		out = append(out, "label "+l)
	}
	for _, l := range s.Requires.Labels {
		out = append(out, "label "+l)
	}
	if d := s.Affinity.Domain; d != "" {
		out = append(out, "same "+d)
	}
	for _, c := range s.Affinity.ColocateWith {
		out = append(out, "with "+c)
	}
	if s.Requires.Disk > 0 {
		out = append(out, "disk "+planMemory(plan.Requires{Memory: s.Requires.Disk}))
	}
	if s.Requires.TimeSec > 0 {
		out = append(out, fmt.Sprintf("at most %ds", s.Requires.TimeSec))
	}
	return orDash(strings.Join(out, ", "))
}

func blockKind(b plan.Block) string {
	if b.Step == nil {
		return string(b.Kind)
	}
	if b.Step.Func != "" {
		return string(b.Step.Kind) + " (Go)"
	}
	return string(b.Step.Kind)
}

func blockReads(p *plan.Plan, b plan.Block) string {
	if b.Kind == plan.KindSource {
		return b.URI
	}
	var in []string
	for _, e := range p.Edges {
		if e.To != b.Name || e.Port != "" {
			continue
		}
		s := e.From
		switch {
		case e.Otherwise:
			s += " otherwise"
		case e.When != "":
			s += " when " + asWritten(p, e.When)
		}
		in = append(in, s)
	}
	if b.Kind == plan.KindSink || b.Kind == plan.KindDLQ {
		in = append(in, "into "+b.URI)
	}
	return strings.Join(in, ", ")
}

// asWritten is an expression of a plan as the .dsl has it: there a parameter is ${name}.
func asWritten(p *plan.Plan, expr string) string {
	return variable.ReplaceAllStringFunc(expr, func(v string) string {
		if slices.ContainsFunc(p.Params, func(d plan.Param) bool { return d.Name == v[1:] }) {
			return "${" + v[1:] + "}"
		}
		return v
	})
}

var variable = regexp.MustCompile(`\$\w+`)

func blockRejects(p *plan.Plan, b plan.Block) string {
	var to []string
	for _, e := range p.Edges {
		if e.From == b.Name && e.Port != "" && !slices.Contains(to, e.To) {
			to = append(to, e.To)
		}
	}
	if len(to) == 0 {
		return orDash(b.OnError)
	}
	return "to " + strings.Join(to, ", ")
}
