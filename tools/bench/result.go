package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Result is one figure of ours beside one of a peer.
type Result struct {
	Name      string  `json:"name"`  // group/what/case
	Value     float64 `json:"value"` // ours, the median of the rounds
	Unit      string  `json:"unit"`
	Peer      string  `json:"peer"` // empty: there is none
	PeerValue float64 `json:"peer_value"`
	Ratio     float64 `json:"ratio"` // above 1 we are better; 0: no peer
	Isolation string  `json:"isolation"`
	Note      string  `json:"note"`
}

// better says which way a unit is good.
type better bool

const (
	lower  better = false
	higher better = true
)

// against fills in the peer and the ratio.
func (r Result) against(peer string, value float64, b better) Result {
	r.Peer, r.PeerValue, r.Ratio = peer, value, ratio(r.Value, value, b)
	return r
}

// ratio is above 1 where ours is better; 0 where one of the two was not measured.
func ratio(ours, peer float64, b better) float64 {
	if ours <= 0 || peer <= 0 || math.IsInf(ours, 0) || math.IsInf(peer, 0) {
		return 0
	}
	if b == higher {
		return ours / peer
	}
	return peer / ours
}

// quantile is the q-th of the values by nearest rank, 0 of none. It does not change values.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	return s[min(max(int(math.Ceil(q*float64(len(s))))-1, 0), len(s)-1)]
}

// median is the middle value, or the mean of the two in the middle.
func median(values []float64) float64 {
	n := len(values)
	if n == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(values))
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// number prints three significant digits, and no exponent.
func number(v float64) string {
	switch a := math.Abs(v); {
	case v == 0:
		return "0"
	case a >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	digits := min(2-int(math.Floor(math.Log10(math.Abs(v)))), 9)
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// table prints results for people. Notes follow it, numbered, each once.
func table(w io.Writer, results []Result) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tVALUE\tUNIT\tPEER\tPEER'S\tRATIO\tNOTE")
	var notes []string
	for _, r := range results {
		peer, theirs, times, mark := "-", "-", "-", ""
		if r.Peer != "" {
			peer, theirs = r.Peer, number(r.PeerValue)
			if r.Ratio > 0 {
				times = number(r.Ratio)
			}
		}
		for _, n := range []string{r.Isolation, r.Note} {
			if n == "" {
				continue
			}
			i := slices.Index(notes, n)
			if i < 0 {
				i = len(notes)
				notes = append(notes, n)
			}
			mark = strings.TrimSpace(mark + fmt.Sprintf(" [%d]", i+1))
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, number(r.Value), r.Unit, peer, theirs, times, mark)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for i, n := range notes {
		if _, err := fmt.Fprintf(w, "[%d] %s\n", i+1, n); err != nil {
			return err
		}
	}
	return nil
}

// save writes the results as JSON, all or nothing. Results of groups that did not run are
// kept, so that a run of one group does not lose the figures of the others.
func save(path string, results []Result) error {
	var old []Result
	raw, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := json.Unmarshal(raw, &old); err != nil {
			return fmt.Errorf("%s: %w (remove it and run again)", path, err)
		}
	case !os.IsNotExist(err):
		return err
	}
	ran := map[string]bool{}
	for _, r := range results {
		ran[groupOf(r.Name)] = true
	}
	all := slices.DeleteFunc(old, func(r Result) bool { return ran[groupOf(r.Name)] })
	all = append(all, results...)
	out, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, append(out, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func groupOf(name string) string {
	g, _, _ := strings.Cut(name, "/")
	return g
}
