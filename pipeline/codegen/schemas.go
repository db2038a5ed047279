package codegen

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/expr"
	"github.com/runink/runink/pipeline/format/jsonl"
)

// schemasFile writes, for each schema, its struct if it has none, its frame codec, its
// JSON and, where a block needs them, CSV and contract.
func (g *gen) schemasFile(w *writer) error {
	for _, s := range g.order {
		if !s.user {
			w.p("// row%s is a row of %s.", s.id, s.Name)
			w.p("type row%s struct {", s.id)
			for _, f := range s.fields {
				star := ""
				if f.Nullable {
					star = "*"
				}
				w.p("%s %s%s", f.goid, star, goType(f.Type))
			}
			w.p("}\n")
		}
		w.p("// type%s knows the rows of %s.", s.id, s.Name)
		w.p("func type%s() *engine.RowType[%s] {", s.id, s.typ)
		w.p("return &engine.RowType[%s]{", s.typ)
		w.p("Schema: %q, Digest: %#x,", s.Name, engine.SchemaHash(&s.Schema))
		w.p("Cols: cols%s, Rows: rows%s, ToJSON: json%s,", s.id, s.id, s.id)
		w.p("FromJSON: func() func([]byte, *sdk.Batch[%s]) (int, error) { return readJSON%s(0) },", s.typ, s.id)
		w.p("}\n}\n")
		g.encodeColumns(w, s)
		g.decodeColumns(w, s)
		g.writeJSON(w, s)
		g.readJSON(w, s)
		if g.uses(s, "source", "csv") {
			g.readCSV(w, s)
		}
		if g.uses(s, "sink", "csv") {
			g.writeCSV(w, s)
		}
		for _, b := range g.p.Blocks {
			if b.Contract == s.Name {
				if err := g.contract(w, s); err != nil {
					return err
				}
				break
			}
		}
	}
	return nil
}

// uses reports whether a source reads s, or a sink writes it, in a format.
func (g *gen) uses(s *schema, kind, format string) bool {
	for i := range g.p.Blocks {
		b := &g.p.Blocks[i]
		if string(b.Kind) != kind || b.Format != format {
			continue
		}
		if kind == "source" && b.Out == s.Name || kind == "sink" && engine.SinkSchema(g.p, b) == s.Name {
			return true
		}
	}
	return false
}

// required returns the names of the required fields and their mask.
func required(s *schema) (names []string, mask uint64) {
	for _, f := range s.fields {
		if f.bit >= 0 {
			names = append(names, f.Name)
			mask |= 1 << f.bit
		}
	}
	return names, mask
}

// stringList is a Go literal.
func stringList(list []string) string {
	if len(list) == 0 {
		return "nil"
	}
	q := make([]string, len(list))
	for i, s := range list {
		q[i] = strconv.Quote(s)
	}
	return "[]string{" + strings.Join(q, ", ") + "}"
}

func (g *gen) encodeColumns(w *writer, s *schema) {
	w.p("// cols%s appends the columns of rows.", s.id)
	w.p("func cols%s(dst []byte, rows []%s) []byte {", s.id, s.typ)
	for i := range s.fields {
		f := &s.fields[i]
		value := rvalue(s, "rows[i]", f)
		loop := func(stmt string) {
			w.p("for i := range rows {")
			if f.Nullable {
				w.p("var v %s", goType(f.Type))
				w.p("if p := rows[i].%s; p != nil { v = *p }", f.goid)
			}
			w.p("%s\n}", stmt)
		}
		if f.Nullable {
			value = "v"
			w.p("for i := range rows { dst = frame.AppendBool(dst, rows[i].%s == nil) }", f.goid)
		}
		switch {
		case f.kind == expr.String:
			loop("dst = frame.AppendU32(dst, uint32(len(" + value + ")))")
			loop("dst = append(dst, " + value + "...)")
		case f.kind == expr.Time:
			loop("dst = frame.AppendU64(dst, frame.SecOf(" + value + "))")
			loop("dst = frame.AppendU32(dst, frame.NsecOf(" + value + "))")
		case f.kind == expr.Bool:
			loop("dst = frame.AppendBool(dst, " + value + ")")
		case f.kind == expr.Float && f.bits == 64:
			loop("dst = frame.AppendU64(dst, math.Float64bits(" + value + "))")
		case f.kind == expr.Float:
			loop("dst = frame.AppendU32(dst, math.Float32bits(" + value + "))")
		case f.bits == 8:
			loop("dst = append(dst, byte(" + value + "))")
		default:
			loop(fmt.Sprintf("dst = frame.AppendU%d(dst, uint%d(%s))", f.bits, f.bits, value))
		}
	}
	w.p("return dst\n}\n")
}

func (g *gen) decodeColumns(w *writer, s *schema) {
	w.p("// rows%s fills rows from columns.", s.id)
	w.p("func rows%s(c *frame.Cols, rows []%s) {", s.id, s.typ)
	for i := range s.fields {
		f := &s.fields[i]
		w.p("{")
		if f.Nullable {
			w.p("nulls := c.Fixed(1)")
		}
		set := func(cols, value string) {
			w.p("if c.Err() != nil { return }")
			if f.kind == expr.String {
				w.p("at := 0")
			}
			w.p("for i := range rows {")
			if f.kind == expr.String {
				w.p("n := frame.Len(lens, i)")
			}
			if f.Nullable {
				w.p("if nulls[i] == 0 { v := %s; rows[i].%s = &v }", value, f.goid)
			} else {
				w.p("%s = %s", lvalue(s, "rows[i]", f), value)
			}
			if f.kind == expr.String {
				w.p("at += n")
			}
			w.p("}")
		}
		switch {
		case f.kind == expr.String:
			w.p("lens, text := c.Text()")
			set("", "text[at:at+n]")
		case f.kind == expr.Time:
			w.p("sec, nsec := c.Fixed(8), c.Fixed(4)")
			set("", "frame.Time(frame.U64(sec, i), frame.U32(nsec, i))")
		case f.kind == expr.Bool:
			w.p("col := c.Fixed(1)")
			set("", "col[i] != 0")
		case f.kind == expr.Float && f.bits == 64:
			w.p("col := c.Fixed(8)")
			set("", "math.Float64frombits(frame.U64(col, i))")
		case f.kind == expr.Float:
			w.p("col := c.Fixed(4)")
			set("", "math.Float32frombits(frame.U32(col, i))")
		case f.bits == 8:
			w.p("col := c.Fixed(1)")
			set("", goType(f.Type)+"(col[i])")
		default:
			w.p("col := c.Fixed(%d)", f.bits/8)
			set("", fmt.Sprintf("%s(frame.U%d(col, i))", goType(f.Type), f.bits))
		}
		w.p("}")
	}
	w.p("}\n")
}

// readValue returns the call that reads a field's value into a pointer, with sc as
// scanner; csv has the field's bytes in v.
func readValue(f *field, ptr, format string) string {
	arg := ""
	if format == "csv" {
		arg = "v, "
	}
	layout := strconv.Quote(f.Layout)
	switch f.kind {
	case expr.String:
		return "sc.String(" + arg + ptr + ")"
	case expr.Bool:
		return "sc.Bool(" + arg + ptr + ")"
	case expr.Time:
		return "sc.Time(" + arg + ptr + ", " + layout + ")"
	case expr.Duration:
		return "sc.Duration(" + arg + ptr + ")"
	case expr.Float:
		return fmt.Sprintf("%s.Float(sc, %s%s, %d)", format, arg, ptr, f.bits)
	}
	if unsigned(f.Type) {
		return fmt.Sprintf("%s.Uint(sc, %s%s, %d)", format, arg, ptr, f.bits)
	}
	return fmt.Sprintf("%s.Int(sc, %s%s, %d)", format, arg, ptr, f.bits)
}

// readField writes the statements that read a field into row.
func readField(w *writer, s *schema, f *field, format string) {
	mark := ""
	if f.bit >= 0 {
		mark = fmt.Sprintf("seen |= 1<<%d", f.bit)
	}
	switch {
	case f.Nullable:
		w.p("p := new(%s)", goType(f.Type))
		w.p("if %s { row.%s = p\n%s }", readValue(f, "p", format), f.goid, mark)
	case mark == "":
		w.p("%s", readValue(f, pointer(s, "row", f), format))
	default:
		w.p("if %s { %s }", readValue(f, pointer(s, "row", f), format), mark)
	}
}

func (g *gen) readJSON(w *writer, s *schema) {
	names, _ := required(s)
	w.p("// readJSON%s makes a decoder of JSON lines for one worker; required has the bits of the", s.id)
	w.p("// fields that must be there.")
	w.p("func readJSON%s(required uint64) func([]byte, *sdk.Batch[%s]) (int, error) {", s.id, s.typ)
	w.p("sc := &jsonl.Scanner{}")
	w.p("names := %s", orNilStrings(names))
	w.p("return func(data []byte, b *sdk.Batch[%s]) (int, error) {", s.typ)
	w.p("sc.Reset(data, b.Base, &b.Slab)")
	w.p("for sc.NextLine() {")
	w.p("row := b.Append(sc.Origin())")
	w.p("var seen uint64")
	w.p("for sc.NextKey() {")
	w.p("switch string(sc.Key()) {")
	for i := range s.fields {
		f := &s.fields[i]
		w.p("case %q:", f.Name)
		readField(w, s, f, "jsonl")
	}
	w.p("default: sc.Skip()\n}\n}")
	w.p("jsonl.Finish(sc, b, seen, required, names)\n}")
	w.p("return len(data), nil\n}\n}\n")
}

func orNilStrings(list []string) string {
	if len(list) == 0 {
		return "[]string(nil)"
	}
	return stringList(list)
}

func (g *gen) readCSV(w *writer, s *schema) {
	reqNames, mask := required(s)
	var names, must []string
	for _, f := range s.fields {
		names = append(names, f.Name)
		must = append(must, fmt.Sprintf("required&%#x != 0", maskOf(&f)))
	}
	_ = mask
	w.p("// readCSV%s makes a decoder of CSV records for one worker; required has the bits of the", s.id)
	w.p("// fields that must be there.")
	w.p("func readCSV%s(header []byte, required uint64) (func([]byte, *sdk.Batch[%s]) (int, error), error) {", s.id, s.typ)
	w.p("cols, err := csv.Bind(header, %s, []bool{%s})", stringList(names), strings.Join(must, ", "))
	w.p("if err != nil { return nil, err }")
	w.p("names := %s", orNilStrings(reqNames))
	w.p("sc := &csv.Scanner{}")
	w.p("return func(data []byte, b *sdk.Batch[%s]) (int, error) {", s.typ)
	w.p("sc.Reset(data, b.Base, &b.Slab)")
	w.p("for sc.Next() {")
	w.p("row := b.Append(sc.Origin())")
	w.p("var seen uint64")
	for i := range s.fields {
		f := &s.fields[i]
		w.p("if v, ok := sc.Field(&cols, %d, %q); ok {", i, f.Name)
		readField(w, s, f, "csv")
		w.p("}")
	}
	w.p("csv.Finish(sc, &cols, b, seen, required, names)\n}")
	w.p("return len(data), nil\n}, nil\n}\n")
}

func maskOf(f *field) uint64 {
	if f.bit < 0 {
		return 0
	}
	return 1 << f.bit
}

// appendText returns the statements that append a value that is no string.
func appendText(f *field, v string) string {
	switch f.kind {
	case expr.Float:
		return fmt.Sprintf("if dst, err = text.AppendFloat(dst, float64(%s), %d); err != nil { return dst, &sdk.RowError{Field: %q, Err: err} }", v, f.bits, f.Name)
	case expr.Bool:
		return "dst = strconv.AppendBool(dst, " + v + ")"
	case expr.Time:
		return fmt.Sprintf("dst = text.AppendTime(dst, %s, %q)", v, f.Layout)
	case expr.Duration:
		return "dst = append(dst, " + v + ".String()...)"
	}
	if unsigned(f.Type) {
		return "dst = strconv.AppendUint(dst, uint64(" + v + "), 10)"
	}
	return "dst = strconv.AppendInt(dst, int64(" + v + "), 10)"
}

func (g *gen) writeJSON(w *writer, s *schema) {
	w.p("// json%s appends a row as one object.", s.id)
	w.p("func json%s(dst []byte, row *%s) ([]byte, error) {", s.id, s.typ)
	g.declareErr(w, s)
	for i := range s.fields {
		f := &s.fields[i]
		sep := ","
		if i == 0 {
			sep = "{"
		}
		key := sep + jsonKey(f.Name) + ":"
		v := rvalue(s, "row", f)
		if f.Nullable {
			w.p("if p := row.%s; p == nil {", f.goid)
			w.p("dst = append(dst, %s...)", strconv.Quote(key+"null"))
			w.p("} else {")
			w.p("v := *p")
			v = "v"
		}
		switch f.kind {
		case expr.String:
			w.p("dst = append(dst, %s...)", strconv.Quote(key))
			w.p("dst = jsonl.AppendString(dst, %s)", v)
		case expr.Time, expr.Duration:
			w.p("dst = append(dst, %s...)", strconv.Quote(key+`"`))
			w.p("%s", appendText(f, v))
			w.p("dst = append(dst, '\"')")
		default:
			w.p("dst = append(dst, %s...)", strconv.Quote(key))
			w.p("%s", appendText(f, v))
		}
		if f.Nullable {
			w.p("}")
		}
	}
	if len(s.fields) == 0 {
		w.p("dst = append(dst, '{')")
	}
	w.p("return append(dst, '}'), nil\n}\n")
	if g.uses(s, "sink", "jsonl") {
		w.p("// lineJSON%s appends a row as one line.", s.id)
		w.p("func lineJSON%s(dst []byte, row *%s) ([]byte, error) {", s.id, s.typ)
		w.p("dst, err := json%s(dst, row)", s.id)
		w.p("return append(dst, '\\n'), err\n}\n")
	}
}

func (g *gen) declareErr(w *writer, s *schema) {
	for _, f := range s.fields {
		if f.kind == expr.Float {
			w.p("var err error")
			return
		}
	}
}

func (g *gen) writeCSV(w *writer, s *schema) {
	var names []string
	for _, f := range s.fields {
		names = append(names, f.Name)
	}
	w.p("// headerCSV%s is the header line.", s.id)
	w.p("func headerCSV%s() []byte { return csv.AppendHeader(nil, %s) }\n", s.id, stringList(names))
	w.p("// lineCSV%s appends a row as one record.", s.id)
	w.p("func lineCSV%s(dst []byte, row *%s) ([]byte, error) {", s.id, s.typ)
	g.declareErr(w, s)
	for i := range s.fields {
		f := &s.fields[i]
		if i > 0 {
			w.p("dst = append(dst, ',')")
		}
		v := rvalue(s, "row", f)
		if f.Nullable {
			w.p("if p := row.%s; p != nil {", f.goid)
			w.p("v := *p")
			v = "v"
		}
		switch f.kind {
		case expr.String:
			w.p("dst = csv.AppendString(dst, %s)", v)
		case expr.Time:
			w.p("dst = csv.AppendString(dst, string(text.AppendTime(nil, %s, %q)))", v, f.Layout)
		default:
			w.p("%s", appendText(f, v))
		}
		if f.Nullable {
			w.p("}")
		}
	}
	w.p("return append(dst, '\\n'), nil\n}\n")
}

// jsonKey is a field's name as a JSON string.
func jsonKey(name string) string { return string(jsonl.AppendString(nil, name)) }
