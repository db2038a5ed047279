// Command verify computes the result of flights.dsl a second time, with maps and the
// standard library alone, and compares it row by row with what the pipeline wrote.
//
//	go run ./verify out                 # compare; exit status 1 says that they differ
//	go run ./verify -print > want.csv   # the expected rows, sorted
//
// Flags -data and -min-delay tell it of another input or parameter.
package main

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	data := flag.String("data", "data", "folder of flights.jsonl and airports.csv")
	minDelay := flag.Float64("min-delay", 15, "the pipeline's parameter min_delay, minutes")
	show := flag.Bool("print", false, "print the expected rows instead of comparing")
	flag.Parse()
	if err := run(*data, *minDelay, *show, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "verify:", err)
		os.Exit(1)
	}
}

func run(data string, minDelay float64, show bool, args []string) error {
	want, err := expected(data, minDelay)
	if err != nil {
		return err
	}
	if show {
		for _, line := range want.lines() {
			fmt.Println(line)
		}
		return nil
	}
	if len(args) != 1 {
		return errors.New("name the folder with late.jsonl, rest.jsonl and rejected.jsonl")
	}
	got, err := written(args[0])
	if err != nil {
		return err
	}
	return compare(want, got)
}

// result is what the pipeline should have made, or has.
type result struct {
	rows     map[string]string // "file,origin,city" to "flights,mean_delay"
	rejected map[string]int    // "block kind rule field" to rows
}

func (r *result) lines() []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(r.rows)) {
		out = append(out, k+","+r.rows[k])
	}
	for _, k := range slices.Sorted(maps.Keys(r.rejected)) {
		out = append(out, fmt.Sprintf("rejected,%s,%d", k, r.rejected[k]))
	}
	return out
}

func (r *result) add(file, origin, city string, flights int, mean float64) error {
	k := strings.Join([]string{file, origin, city}, ",")
	if _, twice := r.rows[k]; twice {
		return fmt.Errorf("%s is there twice", k)
	}
	r.rows[k] = strconv.Itoa(flights) + "," + strconv.FormatFloat(mean, 'g', -1, 64)
	return nil
}

func newResult() *result { return &result{rows: map[string]string{}, rejected: map[string]int{}} }

// iata is the contract's ^[A-Z]{3}$.
func iata(s string) bool {
	return len(s) == 3 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

func expected(data string, minDelay float64) (*result, error) {
	r := newResult()
	cities, err := airports(filepath.Join(data, "airports.csv"), r)
	if err != nil {
		return nil, err
	}
	type group struct{ flights, delay int }
	groups := map[[2]string]*group{}
	err = lines(filepath.Join(data, "flights.jsonl"), func(line []byte) error {
		var f struct {
			Date                string
			Delay, Distance     *int
			Origin, Destination string
		}
		if err := json.Unmarshal(line, &f); err != nil {
			return err
		}
		if _, err := time.Parse("2006/01/02 15:04", f.Date); err != nil {
			return err
		}
		city, known := cities[f.Origin]
		switch {
		case f.Delay == nil || f.Distance == nil:
			return errors.New("a flight without delay or distance: the contract has more to say than this program")
		case *f.Delay > 480:
			r.rejected["flights contract max delay"]++
		case *f.Delay < -120:
			r.rejected["flights contract min delay"]++
		case *f.Distance < 1:
			r.rejected["flights contract min distance"]++
		case !iata(f.Origin):
			r.rejected["flights contract pattern origin"]++
		case !iata(f.Destination):
			r.rejected["flights contract pattern destination"]++
		case !known:
			r.rejected["JoinAirport unmatched  "]++
		case city == "NA":
			r.rejected["JoinAirport step  "]++
		default:
			g := groups[[2]string{f.Origin, city}]
			if g == nil {
				g = &group{}
				groups[[2]string{f.Origin, city}] = g
			}
			g.flights++
			g.delay += *f.Delay
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for k, g := range groups {
		file, mean := "rest", float64(g.delay)/float64(g.flights)
		if mean > minDelay {
			file = "late"
		}
		if err := r.add(file, k[0], k[1], g.flights, mean); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// airports returns the city of each airport that keeps its contract.
func airports(path string, r *result) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%s: empty", path)
	}
	at := map[string]int{}
	for i, name := range rows[0] {
		at[name] = i
	}
	cities := map[string]string{}
	for _, row := range rows[1:] {
		code := row[at["iata"]]
		if !iata(code) {
			r.rejected["airports contract pattern iata"]++
			continue
		}
		if _, twice := cities[code]; twice {
			return nil, fmt.Errorf("%s: airport %s twice", path, code)
		}
		cities[code] = row[at["city"]]
	}
	return cities, nil
}

func lines(path string, each func([]byte) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := each(line); err != nil {
			return fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
}

// written reads what the pipeline wrote.
func written(out string) (*result, error) {
	r := newResult()
	for _, file := range []string{"late", "rest"} {
		err := lines(filepath.Join(out, file+".jsonl"), func(line []byte) error {
			var row struct {
				Origin, City string
				Flights      int
				Mean         float64 `json:"mean_delay"`
			}
			if err := json.Unmarshal(line, &row); err != nil {
				return err
			}
			return r.add(file, row.Origin, row.City, row.Flights, row.Mean)
		})
		if err != nil {
			return nil, err
		}
	}
	return r, lines(filepath.Join(out, "rejected.jsonl"), func(line []byte) error {
		var row struct{ Kind, Rule, Field, Step string }
		if err := json.Unmarshal(line, &row); err != nil {
			return err
		}
		r.rejected[strings.Join([]string{row.Step, row.Kind, row.Rule, row.Field}, " ")]++
		return nil
	})
}

func compare(want, got *result) error {
	a, b := want.lines(), got.lines()
	bad := 0
	for _, l := range a {
		if !slices.Contains(b, l) {
			bad++
			fmt.Println("missing:   ", l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			bad++
			fmt.Println("unexpected:", l)
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d lines differ", bad)
	}
	rejected := 0
	for _, n := range want.rejected {
		rejected += n
	}
	fmt.Printf("%d airports and %d rejected rows are as expected\n", len(want.rows), rejected)
	return nil
}
