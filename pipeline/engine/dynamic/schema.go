package dynamic

import (
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/expr"
	"github.com/runink/runink/pipeline/format/csv"
	"github.com/runink/runink/pipeline/format/jsonl"
	"github.com/runink/runink/sdk"
	"github.com/runink/runink/sdk/frame"
)

func newSchema(ps plan.Schema) (*schema, error) {
	s := &schema{Schema: ps, index: map[string]int{}}
	for i, pf := range ps.Fields {
		k, ok := expr.KindOf(pf.Type)
		if !ok {
			return nil, errs.E(errs.Invalid, "read schema", "%s.%s has type %q", ps.Name, pf.Name, pf.Type)
		}
		f := field{Field: pf, kind: k, bits: bitsOf(pf.Type), unsigned: pf.Type[0] == 'u'}
		check, err := compileRules(&f)
		if err != nil {
			return nil, err
		}
		f.check = check
		s.fields = append(s.fields, f)
		s.index[pf.Name] = i
		z := Value{Null: pf.Nullable}
		if k == expr.Time && !pf.Nullable {
			z.N = uint64(zeroTime)
		}
		s.zero = append(s.zero, z)
	}
	return s, nil
}

// required lists the fields with that rule, in order.
func (s *schema) required() (names []string, bit []uint64, mask uint64) {
	bit = make([]uint64, len(s.fields))
	for i, f := range s.fields {
		for _, r := range f.Rules {
			if r.Name == "required" && len(names) < 64 {
				bit[i] = 1 << len(names)
				mask |= bit[i]
				names = append(names, f.Name)
			}
		}
	}
	return names, bit, mask
}

func (s *schema) rowType() *engine.RowType[Row] {
	return &engine.RowType[Row]{
		Schema: s.Name, Digest: engine.SchemaHash(&s.Schema),
		Cols: s.columns, Rows: s.fill, ToJSON: s.appendJSON,
		FromJSON: func() func([]byte, *sdk.Batch[Row]) (int, error) { return s.jsonDecoder(false) },
	}
}

// columns appends the rows in the form of package frame.
func (s *schema) columns(dst []byte, rows []Row) []byte {
	for i := range s.fields {
		f := &s.fields[i]
		if f.Nullable {
			for _, r := range rows {
				dst = frame.AppendBool(dst, r[i].Null)
			}
		}
		switch {
		case f.kind == expr.String:
			for _, r := range rows {
				dst = frame.AppendU32(dst, uint32(len(r[i].S)))
			}
			for _, r := range rows {
				dst = append(dst, r[i].S...)
			}
		case f.kind == expr.Time:
			for _, r := range rows {
				dst = frame.AppendU64(dst, r[i].N)
			}
			for _, r := range rows {
				dst = frame.AppendU32(dst, r[i].X)
			}
		case f.kind == expr.Bool || f.bits == 8:
			for _, r := range rows {
				dst = append(dst, byte(r[i].N))
			}
		case f.bits == 16:
			for _, r := range rows {
				dst = frame.AppendU16(dst, uint16(r[i].N))
			}
		case f.bits == 32 && f.kind == expr.Float:
			for _, r := range rows {
				dst = frame.AppendU32(dst, float32bits(r[i].float()))
			}
		case f.bits == 32:
			for _, r := range rows {
				dst = frame.AppendU32(dst, uint32(r[i].N))
			}
		default:
			for _, r := range rows {
				dst = frame.AppendU64(dst, r[i].N)
			}
		}
	}
	return dst
}

// fill makes the values of rows from columns, in one allocation.
func (s *schema) fill(c *frame.Cols, rows []Row) {
	n := len(s.fields)
	all := make([]Value, len(rows)*n)
	for k := range rows {
		rows[k] = Row(all[k*n : (k+1)*n : (k+1)*n])
	}
	for i := range s.fields {
		f := &s.fields[i]
		if f.Nullable {
			nulls := c.Fixed(1)
			for k := range nulls {
				rows[k][i].Null = nulls[k] != 0
			}
		}
		switch {
		case f.kind == expr.String:
			lens, text := c.Text()
			if c.Err() != nil {
				return
			}
			at := 0
			for k := range rows {
				l := frame.Len(lens, k)
				rows[k][i].S = text[at : at+l]
				at += l
			}
		case f.kind == expr.Time:
			sec, nsec := c.Fixed(8), c.Fixed(4)
			if c.Err() != nil {
				return
			}
			for k := range rows {
				rows[k][i].N, rows[k][i].X = frame.U64(sec, k), frame.U32(nsec, k)
			}
		default:
			if !s.fillFixed(c, rows, i) {
				return
			}
		}
	}
}

func (s *schema) fillFixed(c *frame.Cols, rows []Row, i int) bool {
	f := &s.fields[i]
	width := f.bits / 8
	if f.kind == expr.Bool {
		width = 1
	}
	col := c.Fixed(width)
	if c.Err() != nil {
		return false
	}
	for k := range rows {
		v := &rows[k][i]
		switch width {
		case 8:
			v.N = frame.U64(col, k)
		case 4:
			u := frame.U32(col, k)
			switch {
			case f.kind == expr.Float:
				v.setFloat(float64(float32from(u)))
			case f.unsigned:
				v.N = uint64(u)
			default:
				v.N = uint64(int64(int32(u)))
			}
		case 2:
			v.N = uint64(frame.U16(col, k))
			if !f.unsigned {
				v.N = uint64(int64(int16(v.N)))
			}
		default:
			v.N = uint64(col[k])
			if !f.unsigned && f.kind == expr.Int {
				v.N = uint64(int64(int8(v.N)))
			}
			if f.kind == expr.Bool && v.N != 0 {
				v.N = 1
			}
		}
	}
	return true
}

// jsonDecoder makes a decoder of JSON lines; strict enforces the required fields.
func (s *schema) jsonDecoder(strict bool) func([]byte, *sdk.Batch[Row]) (int, error) {
	names, bit, mask := s.required()
	if !strict {
		mask = 0
	}
	sc, mem := &jsonl.Scanner{}, &arena{}
	return func(data []byte, b *sdk.Batch[Row]) (int, error) {
		mem.reset()
		sc.Reset(data, b.Base, &b.Slab)
		for sc.NextLine() {
			row := mem.row(s)
			*b.Append(sc.Origin()) = row
			var seen uint64
			next := 0
			for sc.NextKey() {
				i := next
				if i >= len(s.fields) || string(sc.Key()) != s.fields[i].Name {
					var ok bool
					if i, ok = s.index[string(sc.Key())]; !ok {
						sc.Skip()
						continue
					}
				}
				next = i + 1
				if s.fields[i].fromJSON(sc, &row[i]) {
					row[i].Null = false
					seen |= bit[i]
				}
			}
			jsonl.Finish(sc, b, seen, mask, names)
		}
		return len(data), nil
	}
}

func (f *field) fromJSON(sc *jsonl.Scanner, v *Value) bool {
	switch f.kind {
	case expr.String:
		return sc.String(&v.S)
	case expr.Float:
		var x float64
		ok := sc.Float64(&x, f.bits)
		if ok {
			v.setFloat(x)
		}
		return ok
	case expr.Bool:
		var x bool
		ok := sc.Bool(&x)
		if ok {
			v.setBool(x)
		}
		return ok
	case expr.Time:
		t := v.time()
		ok := sc.Time(&t, f.Layout)
		if ok {
			v.setTime(t)
		}
		return ok
	case expr.Duration:
		d := durationOf(v)
		ok := sc.Duration(&d)
		if ok {
			v.N = uint64(d)
		}
		return ok
	}
	if f.unsigned {
		return sc.Uint64(&v.N, f.bits)
	}
	x := int64(v.N)
	ok := sc.Int64(&x, f.bits)
	v.N = uint64(x)
	return ok
}

// csvDecoder makes a decoder of CSV records; strict enforces the required fields.
func (s *schema) csvDecoder(header []byte, strict bool) (func([]byte, *sdk.Batch[Row]) (int, error), error) {
	reqNames, bit, mask := s.required()
	if !strict {
		mask = 0
	}
	var names []string
	var must []bool
	for i, f := range s.fields {
		names = append(names, f.Name)
		must = append(must, strict && bit[i] != 0)
	}
	cols, err := csv.Bind(header, names, must)
	if err != nil {
		return nil, errs.E(errs.Invalid, "read csv header", "%w", err)
	}
	sc, mem := &csv.Scanner{}, &arena{}
	return func(data []byte, b *sdk.Batch[Row]) (int, error) {
		mem.reset()
		sc.Reset(data, b.Base, &b.Slab)
		for sc.Next() {
			row := mem.row(s)
			*b.Append(sc.Origin()) = row
			var seen uint64
			for i := range s.fields {
				if v, ok := sc.Field(&cols, i, s.fields[i].Name); ok && s.fields[i].fromCSV(sc, v, &row[i]) {
					row[i].Null = false
					seen |= bit[i]
				}
			}
			csv.Finish(sc, &cols, b, seen, mask, reqNames)
		}
		return len(data), nil
	}, nil
}

func (f *field) fromCSV(sc *csv.Scanner, b []byte, v *Value) bool {
	switch f.kind {
	case expr.String:
		return sc.String(b, &v.S)
	case expr.Float:
		var x float64
		ok := csv.Float(sc, b, &x, f.bits)
		v.setFloat(x)
		return ok
	case expr.Bool:
		var x bool
		ok := sc.Bool(b, &x)
		v.setBool(x)
		return ok
	case expr.Time:
		t := v.time()
		ok := sc.Time(b, &t, f.Layout)
		v.setTime(t)
		return ok
	case expr.Duration:
		d := durationOf(v)
		ok := sc.Duration(b, &d)
		v.N = uint64(d)
		return ok
	}
	if f.unsigned {
		return csv.Uint(sc, b, &v.N, f.bits)
	}
	x := int64(v.N)
	ok := csv.Int(sc, b, &x, f.bits)
	v.N = uint64(x)
	return ok
}
