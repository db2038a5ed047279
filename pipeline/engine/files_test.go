package engine_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/pipeline/engine"
	"github.com/runink/runink/pipeline/engine/dynamic"
	"github.com/runink/runink/pipeline/engine/enginetest"
)

// A local run that would destroy what it reads, or write one file twice, is refused before
// it writes anything, whatever names lead to the file.
func TestLocalRunKeepsItsInputs(t *testing.T) {
	const row = `{"id":1,"city":"SLC","delay":30,"at":"2001/01/01 00:47","kind":"bus","late":true,"seats":3}` + "\n"
	link := func(t *testing.T, make func(string, string) error, from, to string) {
		t.Helper()
		if err := make(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name    string
		uris    map[string]string // of blocks
		params  map[string]string
		input   string // for --input trips=
		prepare func(t *testing.T, dir string)
		want    []string // of the error; none: it runs
	}{
		{name: "nothing in common"},
		{
			name: "a sink writes the source", uris: map[string]string{"rest": "file://trips.jsonl"},
			want: []string{"trips.dsl:7:5", "sink rest would overwrite", "source trips (trips.dsl:1:5)"},
		},
		{
			name: "a dlq writes the source", uris: map[string]string{"bad": "file://trips.jsonl"},
			want: []string{"trips.dsl:8:5", "dlq bad would overwrite", "source trips (trips.dsl:1:5)"},
		},
		{
			name: "by a parameter", uris: map[string]string{"rest": "file://${ext}.jsonl"}, params: map[string]string{"ext": "trips"},
			want: []string{"trips.dsl:7:5", "sink rest would overwrite"},
		},
		{
			name: "by another spelling", uris: map[string]string{"rest": "file://out/../trips.jsonl"},
			want: []string{"sink rest would overwrite"},
		},
		{
			name: "by a symbolic link of the file", uris: map[string]string{"rest": "file://alias.jsonl"},
			prepare: func(t *testing.T, dir string) { link(t, os.Symlink, "trips.jsonl", filepath.Join(dir, "alias.jsonl")) },
			want:    []string{"sink rest would overwrite", "alias.jsonl", " as ", "trips.jsonl"},
		},
		{
			name: "by a hard link", uris: map[string]string{"rest": "file://alias.jsonl"},
			prepare: func(t *testing.T, dir string) {
				link(t, os.Link, filepath.Join(dir, "trips.jsonl"), filepath.Join(dir, "alias.jsonl"))
			},
			want: []string{"sink rest would overwrite", "alias.jsonl", " as ", "trips.jsonl"},
		},
		{
			name: "by a link of the folder", uris: map[string]string{"rest": "file://here/trips.jsonl"},
			prepare: func(t *testing.T, dir string) { link(t, os.Symlink, ".", filepath.Join(dir, "here")) },
			want:    []string{"sink rest would overwrite"},
		},
		{
			name: "the file of --input", uris: map[string]string{"rest": "file://other.jsonl"}, input: "other.jsonl",
			want: []string{"--input trips", "sink rest would overwrite", "other.jsonl"},
		},
		{
			name: "what the URI names is not read", uris: map[string]string{"rest": "file://trips.jsonl"}, input: "other.jsonl",
		},
		{
			name: "two sinks", uris: map[string]string{"rest": "file://${ext}/late.jsonl"},
			want: []string{"trips.dsl:7:5", "sink late (trips.dsl:6:5) and sink rest both write", "late.jsonl"},
		},
		{
			name: "two sinks whose file is not there yet, by a link of its folder",
			uris: map[string]string{"late": "file://here/new/x.jsonl", "rest": "file://new/x.jsonl"},
			prepare: func(t *testing.T, dir string) {
				link(t, os.Symlink, ".", filepath.Join(dir, "here"))
			},
			want: []string{"sink late (trips.dsl:6:5) and sink rest both write"},
		},
		{
			name: "a sink and a dlq", uris: map[string]string{"bad": "file://out/late.jsonl"},
			want: []string{"trips.dsl:8:5", "sink late (trips.dsl:6:5) and dlq bad both write"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, f := range []string{"trips.jsonl", "other.jsonl"} {
				if err := os.WriteFile(filepath.Join(dir, f), []byte(row), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if tc.prepare != nil {
				tc.prepare(t, dir)
			}
			p := enginetest.Pipeline(true, "jsonl")
			for i := range p.Blocks {
				if uri := tc.uris[p.Blocks[i].Name]; uri != "" {
					p.Blocks[i].URI = uri
				}
			}
			opt := engine.LocalOptions{}
			if tc.input != "" {
				opt.Inputs = map[string]string{"trips": filepath.Join(dir, tc.input)}
			}
			before := tree(t, dir)
			_, err := engine.RunLocal(t.Context(), p, dir, tc.params, dynamic.New(p), opt)
			if tc.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if errs.KindOf(err) != errs.Invalid || errs.HintOf(err) == "" {
				t.Errorf("%v, hint %q", err, errs.HintOf(err))
			}
			for _, w := range tc.want {
				if err != nil && !strings.Contains(err.Error(), w) {
					t.Errorf("%v\ndoes not say %q", err, w)
				}
			}
			if after := tree(t, dir); after != before {
				t.Errorf("the folder was\n%sand is\n%s", before, after)
			}
		})
	}
}

// tree lists what is in a folder, with the content of its files.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		b.WriteString(path + " " + e.Type().String() + "\n")
		if e.Type().IsRegular() {
			text, err := os.ReadFile(path)
			b.Write(text)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
