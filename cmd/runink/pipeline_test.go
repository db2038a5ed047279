package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runink/runink/internal/plan"
)

// runink runs a command as the shell would and returns what it printed and its status.
func runink(t *testing.T, stdin string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	var out, errOut bytes.Buffer
	root := newRootCmd()
	root.SetArgs(args)
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errOut)
	if err := root.ExecuteContext(t.Context()); err != nil {
		status = exitCode(err)
		errOut.WriteString(err.Error())
	}
	return out.String(), errOut.String(), status
}

// pipelineFolder is a pipeline of built-in steps, with its contract.
func pipelineFolder(t *testing.T, dsl string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "contracts"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"p.dsl": dsl, "contracts/c.go": "package contracts\n\ntype Row struct{ N int }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const goodDSL = `@source("file://a.csv") @contract("contracts.Row")

@step("filter", where="n > 1")

@sink("file://o.csv")

@dlq("file://r.jsonl")

Examples: filter
  | n | -> n     |
  | 2 | 2        |
  | 1 | !dropped |
`

func TestCheckCommand(t *testing.T) {
	good := filepath.Join(pipelineFolder(t, goodDSL), "p.dsl")
	if out, errOut, status := runink(t, "", "check", good); status != 0 || errOut != "" || !strings.Contains(out, "4 blocks, 1 slice, 1 region") {
		t.Errorf("%d %q %q", status, out, errOut)
	}
	bad := filepath.Join(pipelineFolder(t, strings.Replace(goodDSL, "n > 1", "m > 1", 1)), "p.dsl")
	_, errOut, status := runink(t, "", "check", bad)
	if status != exitUsage || !strings.HasPrefix(errOut, bad+":3:24: error[E204]") {
		t.Errorf("%d %s", status, errOut)
	}
	out, _, status := runink(t, "", "check", "-o", "json", bad)
	var v struct {
		Diagnostics []struct {
			Path, Code string
			Pos        plan.Pos
		}
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || status != exitUsage || len(v.Diagnostics) == 0 || v.Diagnostics[0].Path != bad || v.Diagnostics[0].Pos.Col != 24 {
		t.Errorf("%d %v %s", status, err, out)
	}
	if _, _, status := runink(t, "", "check", "nowhere.dsl"); status != exitNotFound {
		t.Errorf("a missing file: %d", status)
	}
	if _, _, status := runink(t, "", "check", "-o", "xml", good); status != exitUsage {
		t.Errorf("a bad flag: %d", status)
	}
}

func TestFmtCommand(t *testing.T) {
	const untidy = "@sink(  \"file://o.csv\" )\n\n\n@dlq(\"file://r.jsonl\")"
	const tidy = "@sink(\"file://o.csv\")\n\n@dlq(\"file://r.jsonl\")\n"
	dir := pipelineFolder(t, untidy)
	file := filepath.Join(dir, "p.dsl")
	if _, _, status := runink(t, "", "fmt", "--check", dir); status != exitUsage {
		t.Errorf("--check of an untidy file: %d", status)
	}
	if got, _ := os.ReadFile(file); string(got) != untidy {
		t.Errorf("--check wrote %q", got)
	}
	if out, _, status := runink(t, "", "fmt", dir); status != 0 || out != file+"\n" {
		t.Errorf("%d %q", status, out)
	}
	if got, _ := os.ReadFile(file); string(got) != tidy {
		t.Errorf("wrote %q", got)
	}
	if out, _, status := runink(t, untidy, "fmt", "-"); status != 0 || out != tidy {
		t.Errorf("%d %q", status, out)
	}
	const broken = "@sink(\n"
	if err := os.WriteFile(file, []byte(broken), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, errOut, status := runink(t, "", "fmt", file); status != exitUsage || !strings.Contains(errOut, "E102") {
		t.Errorf("%d %s", status, errOut)
	}
	if got, _ := os.ReadFile(file); string(got) != broken {
		t.Errorf("a broken file became %q", got)
	}
}

func TestPlanCommand(t *testing.T) {
	file := filepath.Join(pipelineFolder(t, goodDSL), "p.dsl")
	out, _, status := runink(t, "", "plan", "-o", "json", file)
	var plans []*plan.Plan
	if err := json.Unmarshal([]byte(out), &plans); err != nil || status != 0 || len(plans) != 1 {
		t.Fatalf("%d %v %s", status, err, out)
	}
	if err := plans[0].Validate(); err != nil {
		t.Error(err)
	}
	if out, _, _ := runink(t, "", "plan", file); !strings.Contains(out, "the stock engine") || !strings.Contains(out, "a, filter, o, r") {
		t.Error(out)
	}
}

func TestTestAndBuildCommands(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir := pipelineFolder(t, goodDSL)
	file := filepath.Join(dir, "p.dsl")
	if out, errOut, status := runink(t, "", "test", dir); status != 0 || out != "2 examples passed, 0 failed\n" {
		t.Errorf("%d %q %q", status, out, errOut)
	}
	bundle := filepath.Join(t.TempDir(), "p.bundle")
	out, errOut, status := runink(t, "", "build", "-o", "json", "--out", bundle, file)
	if status != 0 || !strings.Contains(out, `"digest": "sha256:`) {
		t.Errorf("%d %s %s", status, out, errOut)
	}
	if _, _, status := runink(t, "", "build", "--scenario", "x", file); status != exitNotFound {
		t.Errorf("an unknown scenario: %d", status)
	}
	failing := filepath.Join(pipelineFolder(t, strings.Replace(goodDSL, "| 2 | 2 ", "| 2 | 3 ", 1)), "p.dsl")
	out, _, status = runink(t, "", "test", failing)
	if status != exitFailed || !strings.Contains(out, failing+":11:3: filter: n is 2, expected 3") {
		t.Errorf("%d %q", status, out)
	}
}
