package compile

import (
	"strings"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/lang"
)

// files reports sinks and dead letters that would write what a source reads or what another
// of them writes. A run would end well and have destroyed its input, or lost an output.
//
// It goes by the names of the files; what is one file under two names is found when they are
// there to be looked at (engine.RunLocal).
func (s *scenario) files() {
	type use struct {
		block *block
		uri   lang.Value
	}
	readers, writers := map[string]use{}, map[string]use{}
	for _, b := range s.blocks {
		if f, ok := s.fileOf(b); ok && b.Kind == plan.KindSource {
			if _, seen := readers[f]; !seen { // two sources may read one file
				readers[f] = use{b, b.ast.Head.Positional(0).Value}
			}
		}
	}
	for _, b := range s.blocks {
		f, ok := s.fileOf(b)
		if !ok || b.Kind == plan.KindSource {
			continue
		}
		v := b.ast.Head.Positional(0).Value
		if r, reads := readers[f]; reads {
			s.diags.Add(lang.CodeURI, v.At(0), len(v.Text), "%s %q would overwrite the file that source %q reads", b.Kind, b.Name, r.block.Name).
				Note("the source is at %s", r.uri.At(0)).
				WithHint("write another file: what a run reads must stay for the next one")
			continue
		}
		if w, written := writers[f]; written {
			s.diags.Add(lang.CodeURI, v.At(0), len(v.Text), "%s %q writes the same file as %s %q", b.Kind, b.Name, w.block.Kind, w.block.Name).
				Note("the first is at %s", w.uri.At(0)).
				WithHint("give one of them another file")
			continue
		}
		writers[f] = use{b, v}
	}
}

// fileOf names the file of a source, sink or dlq, in one way for all spellings that a run
// resolves to the same path; false where it has none or its URI was found to be wrong.
//
// What a parameter stands for may hold a slash, so "${dir}/../x" is not shortened.
func (s *scenario) fileOf(b *block) (string, bool) {
	if b.Kind == plan.KindStep || b.broken() {
		return "", false
	}
	if strings.Contains(b.URI, "${") && strings.Contains(b.URI, "..") {
		return b.URI, true
	}
	f, err := engine.FilePath(withoutBraces(b.URI), s.world.dir)
	return f, err == nil
}

// withoutBraces puts other marks around the names of parameters: FilePath takes braces for
// fields of a row.
func withoutBraces(uri string) string {
	return strings.NewReplacer("${", "\x00", "}", "\x01").Replace(uri)
}
