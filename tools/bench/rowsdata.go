package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// flight is one departure of examples/flights/data.
type flight struct {
	Date        string `json:"date"` // 2001/01/01 00:47
	Delay       int    `json:"delay"`
	Distance    int    `json:"distance"`
	Origin      string `json:"origin"`
	Destination string `json:"destination"`
}

// readFlights reads the committed flights.
func readFlights(path string) ([]flight, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []flight
	d := json.NewDecoder(bufio.NewReader(f))
	for {
		var x flight
		switch err := d.Decode(&x); {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, fmt.Errorf("%s: flight %d: %w", path, len(out)+1, err)
		}
		out = append(out, x)
	}
}

// shape is a way to write the rows.
type shape string

const (
	canonical shape = "canonical"
	shuffled  shape = "shuffled" // keys in any order, spaces between tokens
	threeText shape = "3-strings"
	dirty     shape = "1%-bad"
)

// badEvery is the distance of bad rows in a dirty file.
const badEvery = 100

// writeRows writes n rows of a shape. The same arguments give the same bytes: the flights
// again and again, in each pass with other delays and distances. It returns how many rows
// are bad.
func writeRows(path string, base []flight, n int, s shape) (bad int, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	var line []byte
	for i := range n {
		x := base[i%len(base)]
		pass := i / len(base)
		x.Delay += pass % 5
		x.Distance += pass % 7
		if s == dirty && i%badEvery == badEvery-1 {
			line = appendBad(line[:0], x, i)
			bad++
		} else {
			line = appendRow(line[:0], x, i, s)
		}
		if _, err := w.Write(line); err != nil {
			return 0, errors.Join(err, f.Close())
		}
	}
	if err := w.Flush(); err != nil {
		return 0, errors.Join(err, f.Close())
	}
	return bad, f.Close()
}

// hour is the time of day as a decimal, half a minute late: then it is never whole, and
// everybody writes it the same way.
func hour(date string) string {
	_, clock, _ := strings.Cut(date, " ")
	h, m, _ := strings.Cut(clock, ":")
	hh, err1 := strconv.Atoi(h)
	mm, err2 := strconv.Atoi(m)
	if err1 != nil || err2 != nil {
		return "0.5"
	}
	hundredths := hh*100 + (mm*60+30)*100/3600
	if hundredths%100 == 0 {
		hundredths++
	}
	return strconv.FormatFloat(float64(hundredths)/100, 'f', -1, 64)
}

// fields are a row's keys with their values as JSON.
func fields(x flight, s shape) [][2]string {
	text := func(v string) string { return `"` + v + `"` }
	number := strconv.Itoa
	if s == threeText {
		return [][2]string{
			{"date", text(x.Date)},
			{"delay", number(x.Delay)},
			{"distance", number(x.Distance)},
			{"origin", text(x.Origin)},
			{"destination", text(x.Destination)},
		}
	}
	return [][2]string{
		{"time", hour(x.Date)},
		{"delay", number(x.Delay)},
		{"distance", number(x.Distance)},
		{"origin", text(x.Origin)},
	}
}

func appendRow(b []byte, x flight, i int, s shape) []byte {
	fs := fields(x, s)
	sp := ""
	if s == shuffled {
		sp = " "
		for k := len(fs) - 1; k > 0; k-- { // another order in each of 24 rows
			j := i % (k + 1)
			i /= k + 1
			fs[k], fs[j] = fs[j], fs[k]
		}
	}
	return appendObject(b, fs, sp)
}

func appendObject(b []byte, fs [][2]string, sp string) []byte {
	b = append(append(b, '{'), sp...)
	for k, f := range fs {
		if k > 0 {
			b = append(append(b, ','), sp...)
		}
		b = append(append(append(b, '"'), f[0]...), '"')
		b = append(append(append(b, sp...), ':'), sp...)
		b = append(b, f[1]...)
	}
	return append(append(b, sp...), '}', '\n')
}

// appendBad writes a row that breaks the contract: a delay that is text, null, or missing.
func appendBad(b []byte, x flight, i int) []byte {
	fs := fields(x, dirty)
	switch i / badEvery % 3 {
	case 0:
		fs[1][1] = `"NA"`
	case 1:
		fs[1][1] = "null"
	default:
		fs = append(fs[:1:1], fs[2:]...)
	}
	return appendObject(b, fs, "")
}
