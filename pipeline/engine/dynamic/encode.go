package dynamic

import (
	"math"
	"strconv"
	"time"

	"github.com/runink/runink/pipeline/expr"
	"github.com/runink/runink/pipeline/format/csv"
	"github.com/runink/runink/pipeline/format/jsonl"
	"github.com/runink/runink/pipeline/format/text"
	"github.com/runink/runink/sdk"
)

func float32bits(f float64) uint32      { return math.Float32bits(float32(f)) }
func float32from(u uint32) float32      { return math.Float32frombits(u) }
func durationOf(v *Value) time.Duration { return time.Duration(v.N) }

// appendJSON appends a row as one JSON object, without a line end.
func (s *schema) appendJSON(dst []byte, row *Row) ([]byte, error) {
	dst = append(dst, '{')
	for i := range s.fields {
		f := &s.fields[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = jsonl.AppendString(dst, f.Name)
		dst = append(dst, ':')
		v := &(*row)[i]
		quote := f.kind == expr.Time || f.kind == expr.Duration
		switch {
		case v.Null:
			dst = append(dst, "null"...)
			continue
		case f.kind == expr.String:
			dst = jsonl.AppendString(dst, v.S)
			continue
		case quote:
			dst = append(dst, '"')
		}
		var err error
		if dst, err = f.appendText(dst, v); err != nil {
			return dst, err
		}
		if quote {
			dst = append(dst, '"')
		}
	}
	return append(dst, '}'), nil
}

// appendText appends a value that is not null and no string.
func (f *field) appendText(dst []byte, v *Value) ([]byte, error) {
	switch f.kind {
	case expr.Float:
		out, err := text.AppendFloat(dst, v.float(), f.bits)
		if err != nil {
			return dst, &sdk.RowError{Field: f.Name, Err: err}
		}
		return out, nil
	case expr.Bool:
		return strconv.AppendBool(dst, v.bool()), nil
	case expr.Time:
		return text.AppendTime(dst, v.time(), f.Layout), nil
	case expr.Duration:
		return append(dst, durationOf(v).String()...), nil
	}
	if f.unsigned {
		return strconv.AppendUint(dst, v.N, 10), nil
	}
	return strconv.AppendInt(dst, int64(v.N), 10), nil
}

func (s *schema) jsonLine(dst []byte, row *Row) ([]byte, error) {
	dst, err := s.appendJSON(dst, row)
	return append(dst, '\n'), err
}

func (s *schema) csvHeader() []byte {
	var names []string
	for _, f := range s.fields {
		names = append(names, f.Name)
	}
	return csv.AppendHeader(nil, names)
}

func (s *schema) csvLine(dst []byte, row *Row) ([]byte, error) {
	for i := range s.fields {
		f := &s.fields[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		v := &(*row)[i]
		var err error
		switch {
		case v.Null:
		case f.kind == expr.String:
			dst = csv.AppendString(dst, v.S)
		case f.kind == expr.Time:
			dst = csv.AppendString(dst, string(text.AppendTime(nil, v.time(), f.Layout)))
		default:
			if dst, err = f.appendText(dst, v); err != nil {
				return dst, err
			}
		}
	}
	return append(dst, '\n'), nil
}
