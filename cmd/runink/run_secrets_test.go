package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

func TestSecretsHere(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	if err := os.WriteFile(file, []byte("from file\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(line int) plan.Pos { return plan.Pos{File: "x.dsl", Line: line, Col: 3} }
	p := &plan.Plan{Slices: []plan.Slice{
		{Secrets: []plan.Secret{{Path: "db/pw", Env: "DB_PW", Pos: at(4)}, {Path: "tls.key", File: "tls.key", Pos: at(5)}}},
		{Secrets: []plan.Secret{{Path: "db/pw", Env: "DB_PW", Pos: at(9)}}},
	}}
	for _, c := range []struct {
		name  string
		flags []string
		env   map[string]string
		want  map[string]string
		kind  errs.Kind
		says  []string
	}{
		{name: "a flag before the variables", flags: []string{"db/pw=@" + file, "tls.key=@" + file}, env: map[string]string{"DB_PW": "x", "RUNINK_SECRET_DB_PW": "y"}, want: map[string]string{"db/pw": "from file\x00", "tls.key": "from file\x00"}},
		{name: "its own variable before the pipeline's", env: map[string]string{"DB_PW": "x", "RUNINK_SECRET_DB_PW": "y", "RUNINK_SECRET_TLS_KEY": ""}, want: map[string]string{"db/pw": "y", "tls.key": ""}},
		{name: "the pipeline's variable", flags: []string{"tls.key=@" + file}, env: map[string]string{"DB_PW": "x"}, want: map[string]string{"db/pw": "x", "tls.key": "from file\x00"}},
		{name: "all that is missing, once", kind: errs.NotFound, says: []string{"2 secrets", "db/pw (x.dsl:4:3), tls.key (x.dsl:5:3)"}},
		{name: "a value on the command line", flags: []string{"db/pw=hunter2"}, kind: errs.Invalid, says: []string{`"db/pw" is not PATH=@FILE`}},
		{name: "no such file", flags: []string{"db/pw=@" + filepath.Join(dir, "none")}, kind: errs.NotFound, says: []string{"none"}},
		{name: "one that the pipeline does not name", flags: []string{"db/pw=@" + file, "tls.key=@" + file, "other=@" + file}, kind: errs.Invalid, says: []string{`no secret "other"`}},
		{name: "twice", flags: []string{"db/pw=@" + file, "db/pw=@" + file}, kind: errs.Invalid, says: []string{"twice"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := secretsHere(p, c.flags, func(k string) (string, bool) { v, ok := c.env[k]; return v, ok })
			if c.want == nil {
				if !errors.Is(err, c.kind) || strings.Contains(err.Error(), "hunter2") {
					t.Fatalf("%v", err)
				}
				for _, s := range c.says {
					if !strings.Contains(err.Error(), s) {
						t.Errorf("%q is not in %q", s, err)
					}
				}
				return
			}
			if err != nil || len(got) != len(c.want) {
				t.Fatalf("%q, %v", got, err)
			}
			for k, v := range c.want {
				if string(got[k]) != v {
					t.Errorf("%s is %q, want %q", k, got[k], v)
				}
			}
		})
	}
	clash := &plan.Plan{Slices: []plan.Slice{{Secrets: []plan.Secret{{Path: "a.b"}, {Path: "a/b"}}}}}
	if _, err := secretsHere(clash, nil, func(string) (string, bool) { return "x", true }); !errors.Is(err, errs.Invalid) {
		t.Errorf("one variable for two secrets: %v", err)
	}
	if got := withoutSecrets([]string{"A=1", "RUNINK_SECRET_X=2", "B=3"}); !slices.Equal(got, []string{"A=1", "B=3"}) {
		t.Errorf("environment %q", got)
	}
}

// TestRunLocalDeliversSecrets runs a Go step that reads its secrets in each way there is. What
// is missing is told before anything is built or written.
func TestRunLocalDeliversSecrets(t *testing.T) {
	sdkDir, err := filepath.Abs("../../sdk")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/sec\n\ngo 1.26\n\nrequire github.com/runink/runink/sdk v0.0.0\n\nreplace github.com/runink/runink/sdk => " + sdkDir + "\n",
		"contracts/c.go": `package contracts

type Row struct{ N int }
`,
		"steps.go": `package sec

import (
	"errors"
	"os"

	"example.com/sec/contracts"
	"github.com/runink/runink/sdk"
)

type Out struct{ Env, File, Ctx string }

func Use(c *sdk.Context, r contracts.Row) (Out, error) {
	f, err := c.SecretFile("tls/key")
	if err != nil {
		return Out{}, err
	}
	b, err := os.ReadFile(f)
	if err != nil {
		return Out{}, err
	}
	v, err := c.Secret("only/ctx")
	if err != nil {
		return Out{}, err
	}
	if w, err := c.Secret("tls/key"); err != nil || w != string(b) {
		return Out{}, errors.New("the file's value differs")
	}
	if _, err := c.Secret("another"); !errors.Is(err, sdk.ErrNoSecret) {
		return Out{}, errors.New("a secret that is not named")
	}
	if os.Getenv("RUNINK_SECRET_ONLY_CTX") != "" {
		return Out{}, errors.New("the caller's variable is here")
	}
	return Out{os.Getenv("DB_PW"), string(b), v}, nil
}
`,
		"sec.dsl":  "@source(\"file://in.jsonl\") @contract(\"contracts.Row\")\n\n@step(\"Use\") @secret(\"db/pw\", as=\"env:DB_PW\") @secret(\"tls/key\", as=\"file\")\n@secret(\"only/ctx\")\n\n@sink(\"file://out.jsonl\")\n\n@dlq(\"file://bad.jsonl\")\n",
		"in.jsonl": "{\"n\":1}\n",
		"key":      "KEY",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "sec.dsl")
	t.Setenv("DB_PW", "from env")
	if _, err := command(t, "run", "--local", file); !errors.Is(err, errs.NotFound) || !strings.Contains(err.Error(), "only/ctx ("+file+":4:1), tls/key ("+file+":3:") {
		t.Errorf("two are missing: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "out.jsonl")); err == nil {
		t.Error("the refused run wrote its output")
	}
	t.Setenv("RUNINK_SECRET_ONLY_CTX", "from ctx")
	must(t, "run", "--local", file, "--secret", "tls/key=@"+filepath.Join(dir, "key"))
	b, err := os.ReadFile(filepath.Join(dir, "out.jsonl"))
	if err != nil || string(b) != `{"env":"from env","file":"KEY","ctx":"from ctx"}`+"\n" {
		bad, _ := os.ReadFile(filepath.Join(dir, "bad.jsonl"))
		t.Errorf("%s, %v; rejected: %s", b, err, bad)
	}

	// The program that was built names places as check does: as they are seen from here.
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	failing := strings.Replace(string(text), `@source("file://in.jsonl")`, `@source("file://wrong.jsonl", on_error=fail)`, 1)
	for name, text := range map[string]string{"fail.dsl": failing, "wrong.jsonl": "{\"n\":\"x\"}\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(filepath.Dir(dir))
	rel := filepath.Join(filepath.Base(dir), "fail.dsl")
	key := "tls/key=@" + filepath.Join(dir, "key")
	_, stderr, status := runink(t, "", "run", "--local", rel, "--secret", key)
	if status != exitFailed || !strings.Contains(stderr, "error: "+rel+":1:1: source wrong: ") || !strings.Contains(stderr, "hint: ") {
		t.Errorf("a run that fails: %d %s", status, stderr)
	}
}
