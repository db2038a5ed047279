package compile

import (
	"slices"
	"strings"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/lang"
)

// routing reports streams whose rows nobody takes, and makes the edges of the streams.
func (s *scenario) routing() {
	for _, b := range s.blocks {
		if b.stream == nil || b.broken() {
			continue
		}
		s.covered(b)
	}
	for _, b := range s.blocks {
		for _, st := range b.inputs {
			s.edge(st, b, 0)
		}
		if b.right != nil {
			s.edge(b.right, b, 1)
		}
	}
}

func (s *scenario) covered(b *block) {
	readers := b.stream.readers
	if len(readers) == 0 {
		s.diags.Add(lang.CodeRouting, b.Pos, b.ast.Head.Width(), "nothing reads stream %q", b.Name).
			WithHint(`add a sink for it, @sink("file://out/%s.jsonl", from="%s"), or remove the block`, b.Name, b.Name)
		return
	}
	var conditions []string
	for _, r := range readers {
		if r.when == "" || r.right == b.stream {
			return
		}
		if r.other {
			return
		}
		conditions = append(conditions, r.when)
	}
	last := readers[len(readers)-1]
	s.diags.Add(lang.CodeRouting, last.whenPos.Pos, last.whenPos.Width(), "rows of stream %q that no condition takes have nowhere to go", b.Name).
		Note("its readers take: %s", strings.Join(conditions, "; ")).
		WithHint(`add a reader with when="otherwise"`)
}

func (s *scenario) edge(from *stream, to *block, input int) {
	e := plan.Edge{From: from.block.Name, To: to.Name, Input: input}
	if from.schema != nil {
		e.Schema = from.schema.Name
	}
	if input == 0 {
		e.Otherwise = to.other
		if !to.other {
			e.When = to.when
		}
	}
	s.edges = append(s.edges, e)
}

// failures gives every way a row can be rejected an exit: the block's on_error, the
// @dlq beside it, one that names it, or the one that takes everything.
func (s *scenario) failures() {
	s.encodeFailures()
	everything, named := s.deadLetters()
	for _, b := range s.blocks {
		var beside *block
		for _, d := range s.blocks {
			if d.serves == b {
				beside = d
			}
		}
		if len(b.fails) == 0 {
			if b.OnError != "" && b.Kind != plan.KindDLQ {
				b.OnError = "" // nothing can fail: no exit is needed
			}
			if beside != nil {
				s.diags.Add(lang.CodeFailure, beside.Pos, beside.ast.Head.Width(), "block %q rejects nothing, so this @dlq would stay empty", b.Name).Warn().
					WithHint("remove it")
			}
			continue
		}
		if b.OnError == "fail" || b.OnError == "skip" {
			if beside != nil {
				s.diags.Add(lang.CodeFailure, beside.Pos, beside.ast.Head.Width(), "block %q has on_error=%s and a @dlq", b.Name, b.OnError).
					WithHint("remove one of them")
			}
			continue
		}
		s.exits(b, beside, everything, named)
	}
	s.leaveOutEmpty()
}

// leaveOutEmpty takes dead letters out of the pipeline that nothing can reach: no slice would
// run them. With errors it is too early to say which those are.
func (s *scenario) leaveOutEmpty() {
	if s.diags.HasErrors() {
		return
	}
	s.blocks = slices.DeleteFunc(s.blocks, func(d *block) bool {
		if d.Kind != plan.KindDLQ || slices.ContainsFunc(s.edges, func(e plan.Edge) bool { return e.To == d.Name }) {
			return false
		}
		if d.serves == nil { // one beside a head was told there
			s.diags.Add(lang.CodeFailure, d.Pos, d.ast.Head.Width(), "nothing is rejected that this @dlq takes, so it would stay empty and is left out").Warn().
				WithHint("remove it")
		}
		return true
	})
}

// exits makes the edges of a block's failures to dead letters.
func (s *scenario) exits(b, beside, everything *block, named map[string]*block) {
	explicit := b.OnError == "dlq"
	var open []string // kinds without an exit
	for _, f := range merged(b.fails) {
		to := beside
		for _, d := range []*block{named[b.Name+"."+f.port], named[b.Name], everything} {
			if to == nil {
				to = d
			}
		}
		if to == nil {
			open = append(open, f.kinds...)
			continue
		}
		b.OnError = "dlq"
		if b.DLQ == "" {
			b.DLQ = to.Name
		}
		s.edges = append(s.edges, plan.Edge{From: b.Name, Port: f.port, To: to.Name})
	}
	if len(open) == 0 || b.broken() {
		return
	}
	d := s.diags.Add(lang.CodeFailure, b.Pos, b.ast.Head.Width(), "%s %q can reject rows (%s), and nothing takes them", b.Kind, b.Name, strings.Join(open, ", "))
	if explicit {
		d.Note("on_error=dlq, and there is no @dlq for it")
	}
	d.WithHint(`add @dlq("file://out/rejected.jsonl") as a block of its own for everything rejected, or on_error=fail or skip here`)
}

// merged joins failures of the same port.
func merged(list []failure) []failure {
	var out []failure
next:
	for _, f := range list {
		for i := range out {
			if out[i].port == f.port {
				for _, k := range f.kinds {
					out[i].kinds = appendNew(out[i].kinds, k)
				}
				continue next
			}
		}
		out = append(out, failure{f.port, append([]string{}, f.kinds...)})
	}
	return out
}

// encodeFailures: JSON has no NaN and no infinity, so floats may not be writable.
func (s *scenario) encodeFailures() {
	for _, b := range s.blocks {
		if b.Kind != plan.KindSink || b.in == nil || b.Format != "jsonl" {
			continue
		}
		for _, f := range b.in.Fields {
			if isFloat(f.Type) {
				b.fails = append(b.fails, failure{"rejected", []string{"encode"}})
				break
			}
		}
	}
}

// deadLetters finds the @dlq that takes everything unrouted, and those that name what
// they take, by "block" or "block.port".
func (s *scenario) deadLetters() (everything *block, named map[string]*block) {
	named = map[string]*block{}
	for _, d := range s.blocks {
		if d.Kind != plan.KindDLQ || d.serves != nil {
			continue
		}
		from := d.ast.Head.Arg("from")
		if from == nil {
			if everything != nil {
				s.diags.Add(lang.CodeFailure, d.Pos, d.ast.Head.Width(), "two @dlq take everything").
					Note("the first is at %s", everything.Pos).WithHint(`give one of them from="…"`)
				continue
			}
			everything = d
			continue
		}
		for _, v := range from.Value.Elems() {
			s.deadLetterFrom(d, v, named)
		}
	}
	return everything, named
}

func (s *scenario) deadLetterFrom(d *block, v lang.Value, named map[string]*block) {
	name, port, hasPort := strings.Cut(v.Text, ".")
	b := s.byName[name]
	if b == nil || b.Kind == plan.KindDLQ {
		var names []string
		for _, x := range s.blocks {
			if x.Kind != plan.KindDLQ {
				names = append(names, x.Name)
			}
		}
		s.diags.Add(lang.CodeStream, v.At(0), max(len(name), 1), "unknown block %q", name).
			WithHint("%s", orElse(lang.DidYouMean(name, names), "the blocks are "+strings.Join(names, ", ")))
		return
	}
	found := !hasPort && len(b.fails) > 0
	for _, f := range b.fails {
		found = found || f.port == port
	}
	if !found {
		s.diags.Add(lang.CodeFailure, v.At(0), len(v.Text), "%q rejects nothing", v.Text).WithHint("remove it from the @dlq")
		return
	}
	if old := named[v.Text]; old != nil {
		s.diags.Add(lang.CodeFailure, v.At(0), len(v.Text), "two @dlq take %q", v.Text).
			Note("the first is at %s", old.Pos).WithHint("remove it from one of them")
		return
	}
	named[v.Text] = d
}
