// Package deadletter is the line of a dead-letter file: what a rejected row looks like at
// rest, sealed and in clear.
//
// It promises: what Append wrote with a sealer, Open turns into exactly what Append writes
// without one; a sealed line tells nothing of the row's content but kind, rule, field, step,
// source and offset. It does no I/O.
package deadletter

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"unicode/utf8"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/seal"
)

// Row is one rejected row.
type Row struct {
	Kind     string
	Rule     string // may be empty, like Field
	Field    string
	Step     string
	Source   string
	Offset   int64  // of its first byte in the source; -1: none
	Err      error  // why; may be nil. A step's may quote the row
	Original []byte // as it was read; nil: not at hand
}

// Append appends the row's JSON line to dst:
//
//	{"kind","rule","field","step","source","offset","error","original"}
//
// rule, field and error are left out where empty, offset where the row has none. An original
// that is no UTF-8 is in original_base64 instead. With a sealer, error and original are
// sealed together into the member "sealed" for the row's step, source and offset.
func (r *Row) Append(dst []byte, s *seal.RowSealer) []byte {
	dst = r.head(dst)
	if s == nil {
		dst = r.content(dst)
	} else if c := r.content(nil); len(c) > 0 {
		dst = append(dst, `,"sealed":"`...)
		dst = s.Append(dst, c, r.place())
		dst = append(dst, '"')
	}
	return append(dst, '}', '\n')
}

func (r *Row) place() []byte { return seal.Place(r.Step, r.Source, strconv.FormatInt(r.Offset, 10)) }

// head appends what everybody may know, without the closing brace.
func (r *Row) head(dst []byte) []byte {
	dst = append(dst, `{"kind":`...)
	dst = appendString(dst, r.Kind)
	if r.Rule != "" {
		dst = append(dst, `,"rule":`...)
		dst = appendString(dst, r.Rule)
	}
	if r.Field != "" {
		dst = append(dst, `,"field":`...)
		dst = appendString(dst, r.Field)
	}
	dst = append(dst, `,"step":`...)
	dst = appendString(dst, r.Step)
	dst = append(dst, `,"source":`...)
	dst = appendString(dst, r.Source)
	if r.Offset >= 0 {
		dst = append(dst, `,"offset":`...)
		dst = strconv.AppendInt(dst, r.Offset, 10)
	}
	return dst
}

// content appends what the row held.
func (r *Row) content(dst []byte) []byte {
	if r.Err != nil {
		dst = append(dst, `,"error":`...)
		dst = appendString(dst, r.Err.Error())
	}
	switch {
	case r.Original == nil:
	case utf8.Valid(r.Original):
		dst = append(dst, `,"original":`...)
		dst = appendString(dst, string(r.Original))
	default:
		dst = append(dst, `,"original_base64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, r.Original)
		dst = append(dst, '"')
	}
	return dst
}

// Open appends a line to dst as Append without a sealer would have written it. A line with
// nothing sealed is appended as it is.
//
// Errors: Corrupt if it is no line of a dead-letter file, or does not open.
func Open(dst, line []byte, o *seal.RowOpener) ([]byte, error) {
	const op = "open rejected row"
	var in struct {
		Kind, Rule, Field, Step, Source string
		Offset                          *int64
		Sealed                          *string
	}
	if err := json.Unmarshal(line, &in); err != nil {
		return dst, errs.E(errs.Corrupt, op, "%w", err)
	}
	if in.Sealed == nil {
		return append(dst, line...), nil
	}
	r := Row{Kind: in.Kind, Rule: in.Rule, Field: in.Field, Step: in.Step, Source: in.Source, Offset: -1}
	if in.Offset != nil {
		r.Offset = *in.Offset
	}
	c, err := o.Open(*in.Sealed, r.place())
	if err != nil {
		return dst, err
	}
	return append(append(r.head(dst), c...), '}', '\n'), nil
}

// appendString appends s as a JSON string. Rejects are rare enough for encoding/json.
func appendString(dst []byte, s string) []byte {
	b, err := json.Marshal(s)
	if err != nil { // a string always marshals
		return append(dst, `""`...)
	}
	return append(dst, b...)
}
