package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "github.com/runink/runink/api/runink/v1"
)

// printRun shows one run: where its slices are, and what they have done.
func printRun(w io.Writer, r *v1.Run) {
	fmt.Fprintf(w, "run %s (%s) in herd %s: %s", r.Id, r.Name, r.Herd, r.State)
	if d := took(r); d != "" {
		fmt.Fprintf(w, ", %s", d)
	}
	fmt.Fprintln(w)
	if r.Reason != "" {
		fmt.Fprintf(w, "  %s\n", r.Reason)
	}
	if r.Hint != "" {
		fmt.Fprintf(w, "  hint: %s\n", r.Hint)
	}
	for _, what := range r.NotEnforced {
		fmt.Fprintf(w, "  not enforced: %s\n", what)
	}
	fmt.Fprintln(w)
	row(w, "SLICE", "REGION", "EPOCH", "NODE", "STATE", "ADDRESS")
	for _, reg := range r.Regions {
		for _, s := range reg.Slices {
			row(w, s.Name, reg.Id, reg.Epoch, s.Node, sliceState(reg, s), s.Address)
		}
	}
	if len(r.Counts) > 0 {
		fmt.Fprintln(w)
		row(w, "BLOCK", "ROWS IN", "ROWS OUT", "REJECTED")
		for _, b := range slices.Sorted(maps.Keys(r.Counts)) {
			row(w, b, r.Counts[b].In, r.Counts[b].Out, rejections(r.Counts[b]))
		}
	}
	if len(r.Outputs) > 0 {
		fmt.Fprintln(w)
		printOutputs(w, r)
	}
}

func printOutputs(w io.Writer, r *v1.Run) {
	row(w, "OUTPUT", "URI", "ROWS", "SIZE", "PARTS")
	for _, o := range r.Outputs {
		row(w, r.Id+"/"+o.Block, o.Uri, o.Rows, size(o.Bytes), len(o.Parts))
	}
}

// sliceState says in a word or two what a slice does, or how it ended.
func sliceState(reg *v1.RunRegion, s *v1.RunSlice) string {
	st := s.Status
	switch {
	case st == nil || st.Phase == "":
		return reg.State
	case st.Phase == "exited":
		e := st.GetExit()
		switch e.GetReason() {
		case "exit":
			return fmt.Sprintf("exit %d", e.GetCode())
		case "signal":
			return fmt.Sprintf("signal %d", e.GetSignal())
		}
		return strings.ReplaceAll(e.GetReason(), "_", " ")
	case st.Detail != "":
		return st.Phase + ": " + st.Detail
	}
	return st.Phase
}

// through is how many rows have gone through a slice: what the busiest of its blocks took.
// (A sum would count a row once for each block it passed.)
func through(counts map[string]*v1.BlockCount) (rows, rejected int64) {
	for _, c := range counts {
		rows = max(rows, c.In)
		rejected += rejections(c)
	}
	return rows, rejected
}

func rejections(c *v1.BlockCount) (n int64) {
	for _, k := range c.GetRejected() {
		n += k
	}
	return n
}

// printRejected shows rejected rows by block and kind.
func printRejected(w io.Writer, r *v1.Run) {
	row(w, "BLOCK", "KIND", "ROWS")
	for _, b := range slices.Sorted(maps.Keys(r.Counts)) {
		rej := r.Counts[b].Rejected
		for _, k := range slices.Sorted(maps.Keys(rej)) {
			if rej[k] > 0 {
				row(w, b, k, rej[k])
			}
		}
	}
}

// took says how long a run ran, or has been running.
func took(r *v1.Run) string {
	if r.Started == nil {
		return ""
	}
	end := time.Now()
	if r.Ended != nil {
		end = r.Ended.AsTime()
	}
	return end.Sub(r.Started.AsTime()).Round(100 * time.Millisecond).String()
}

func finalState(s string) bool { return s == "succeeded" || s == "failed" || s == "cancelled" }
