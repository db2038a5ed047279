package compile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runink/runink/pipeline/lang"
)

// A step whose imports nobody provides, or that no module is around, is told what to type.
func TestMissingModule(t *testing.T) {
	const (
		module = "module example.com/m\n\ngo 1.26\n"
		hint   = "hint: run it in the .dsl's folder"
	)
	step := func(ip, params, body string) string {
		return "package m\n\nimport (\n\t\"example.com/m/contracts\"\n\t\"" + ip + "\"\n)\n\nfunc Act(" + params + ") (contracts.Row, error) { " + body + " }\n"
	}
	for name, tc := range map[string]struct {
		module, steps string
		says          []string
	}{
		"a module that is not required": {
			module, step("example.org/absent", "r contracts.Row", "return absent.Do(r)"),
			[]string{"steps.go:5:2: error[E301]", hint + ": go get example.org/absent\n"},
		},
		"the sdk": {
			module, step(sdkPath, "ctx *sdk.Context, r contracts.Row", "return r, nil"),
			[]string{"steps.go:5:2: error[E301]", "go mod edit -require " + sdkPath + "@v0.0.0 -replace " + sdkPath + "=/RUNINK/sdk\n"},
		},
		"no module": {
			"", step("fmt", "r contracts.Row", "return r, fmt.Errorf(\"no\")"),
			[]string{"steps.go:4:2: error[E301]", "hint: run go mod init PATH beside the .dsl"},
		},
		"no module, and nothing to import": {
			"", "package m\n\ntype Row struct {\n\tN int `json:\"n\"`\n}\n\nfunc Act(r Row) (Row, error) { return r, nil }\n",
			[]string{"go.mod: error[E302]: there is none beside the .dsl or above", "hint: run go mod init PATH beside the .dsl"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range map[string]string{
				"go.mod":           tc.module,
				"contracts/row.go": "package contracts\n\ntype Row struct {\n\tN int `json:\"n\"`\n}\n",
				"steps.go":         tc.steps,
				"p.dsl":            "@herd(\"h\") @owner(\"a@b.c\")\nFeature: F\n\n  Scenario: S\n\n    @source(\"file://in.jsonl\", name=\"in\", on_error=fail) @contract(\"contracts.Row\")\n    Given rows\n\n    @step(\"Act\", on_error=fail)\n    When done\n\n    @sink(\"file://out.jsonl\", on_error=fail)\n    Then kept\n",
			} {
				if text == "" {
					continue
				}
				file := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			r, err := Compile(t.Context(), filepath.Join(dir, "p.dsl"))
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tc.says {
				if got := r.Diags.Render(); !strings.Contains(got, want) {
					t.Errorf("it says, without %q:\n%s", want, got)
				}
			}
		})
	}
}

// Every way to be wrong is told as these files show, and nothing is compiled.
func TestDiagnostics(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "diag", "*.dsl"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join("testdata", "diag", "*", "*.dsl"))
	if err != nil {
		t.Fatal(err)
	}
	if files = append(files, more...); len(files) < 8 {
		t.Fatalf("only %v", files)
	}
	codes := map[lang.Code]bool{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".dsl"), func(t *testing.T) {
			before := listing(t, filepath.Dir(file))
			r, err := Compile(t.Context(), file)
			if err != nil {
				t.Fatal(err)
			}
			if !r.Diags.HasErrors() || r.Plans != nil {
				t.Errorf("%d plans of a broken pipeline", len(r.Plans))
			}
			for _, d := range r.Diags.Sorted() {
				codes[d.Code] = true
				if d.Pos.Line == 0 && d.Pos.File == "" {
					t.Errorf("no place: %+v", d)
				}
				if d.Hint == "" {
					t.Errorf("no next step: %s %s %s", lang.Place(d.Pos), d.Code, d.Message)
				}
			}
			if after := listing(t, filepath.Dir(file)); after != before {
				t.Errorf("compiling changed the folder:\n%s\n%s", before, after)
			}
			golden(t, strings.TrimSuffix(file, ".dsl")+".stderr", []byte(r.Diags.Render()))
		})
	}
	if t.Failed() {
		return
	}
	for _, c := range []lang.Code{
		lang.CodeLine, lang.CodeUnclosed, lang.CodeString, lang.CodeArgs, lang.CodeTable, lang.CodeAnnotation,
		lang.CodeKey, lang.CodeValue, lang.CodeBlock, lang.CodeMisplaced, lang.CodeStream, lang.CodeAmbiguous, lang.CodeStep,
		lang.CodeField, lang.CodeType, lang.CodeSignature, lang.CodeRouting, lang.CodeFailure, lang.CodeExpr, lang.CodeDuplicate,
		lang.CodeParam, lang.CodeContract, lang.CodeSchema, lang.CodePlacement, lang.CodeExamples, lang.CodeURI, lang.CodeGo, lang.CodeNotBuilt,
	} {
		if !codes[c] {
			t.Errorf("no file shows %s", c)
		}
	}
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		b.WriteString(e.Name() + "\n")
	}
	return b.String()
}

// A Go file that does not parse is reported with its place, and so is the rest.
func TestGoSyntaxErrorHidesNothing(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":         "module example.com/x\n\ngo 1.26\n",
		"steps.go":       "package x\n\nfunc Syntax( {\n",
		"contracts/c.go": "package contracts\n\ntype Row struct{ N int }\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	src := "@source(\"file://a.csv\") @contract(\"contracts.Row\")\n\n@step(\"Syntax\")\n\n@step(\"filter\", from=\"a\", where=\"m > 0\")\n\n@sink(\"file://b.csv\")\n\n@dlq(\"file://r.jsonl\")\n"
	r, err := Source(t.Context(), dir, "x.dsl", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	got := r.Diags.Render()
	for _, want := range []string{
		"steps.go:3:14: error[E301]: expected ')', found '{'",
		`x.dsl:5:34: error[E204]: the expression needs field "m", and stream "a" has none`,
		"contracts.Row (contracts/c.go:3) has: n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
}
