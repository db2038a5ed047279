// Package dynamic makes the stages of a plan from the plan alone, for the stock engine:
// rows are slices of values, expressions are closures. Generated code does the same with
// structs, several times faster; a test holds that both give the same bytes.
//
// It owns the table-driven forms of rows, formats, contracts and built-in steps. It runs
// no Go step: a plan that has one needs its own binary.
package dynamic

import (
	"math"
	"time"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/expr"
)

// Value is one field of a row. Its schema says which part counts: N holds integers,
// float64 bits, booleans, durations and Unix seconds, X the nanoseconds of a time, S text.
type Value struct {
	N    uint64
	S    string
	X    uint32
	Null bool
}

// Row is a record whose fields are in the order of its schema.
type Row []Value

func (v *Value) float() float64     { return math.Float64frombits(v.N) }
func (v *Value) setFloat(f float64) { v.N = math.Float64bits(f) }
func (v *Value) bool() bool         { return v.N != 0 }
func (v *Value) time() time.Time    { return time.Unix(int64(v.N), int64(v.X)).UTC() }

func (v *Value) setBool(b bool) {
	v.N = 0
	if b {
		v.N = 1
	}
}

func (v *Value) setTime(t time.Time) {
	v.N, v.X = uint64(t.Unix()), uint32(t.Nanosecond())
}

// zeroTime is the value of a time that was never set: the zero time.Time of a struct.
var zeroTime = time.Time{}.Unix()

// firstRows is for how many rows an arena begins: a slice of one row touches no memory for
// hundreds, and one of millions doubles it a few times.
const firstRows = 8

// arena gives out the values of rows; one worker's stage owns it and takes everything
// back at its next call.
type arena struct {
	free []Value
	all  []Value
}

func (a *arena) reset() { a.free = a.all }

// row returns a zeroed row of schema s.
func (a *arena) row(s *schema) Row {
	n := len(s.fields)
	if len(a.free) < n {
		a.all = make([]Value, max(firstRows*n, 2*len(a.all)))
		a.free = a.all
	}
	r := Row(a.free[:n:n])
	a.free = a.free[n:]
	copy(r, s.zero)
	return r
}

// field is a plan field with what is looked up for each value.
type field struct {
	plan.Field
	kind     expr.Kind
	bits     int
	unsigned bool
	check    func(v *Value) string // rule that the value breaks, "" for none
}

// schema is a plan schema, prepared.
type schema struct {
	plan.Schema
	fields []field
	index  map[string]int
	zero   Row
}

func (s *schema) find(name string) int {
	if i, ok := s.index[name]; ok {
		return i
	}
	return -1
}

func bitsOf(typ string) int {
	switch typ {
	case "int8", "uint8":
		return 8
	case "int16", "uint16":
		return 16
	case "int32", "uint32", "float32":
		return 32
	}
	return 64
}
