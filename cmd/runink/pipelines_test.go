package main

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/runink/runink/controlplane/apiserver"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
)

// command runs one command line and returns what it printed.
func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	root := newRootCmd()
	var out, stderr bytes.Buffer
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&stderr)
	err := root.ExecuteContext(ctx)
	t.Logf("runink %s\n%s%s%v", strings.Join(args, " "), out.String(), stderr.String(), err)
	return out.String(), err
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(t, args...)
	if err != nil {
		t.Fatalf("runink %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// cluster founds a cluster of one control node in this process by the commands a user
// types. No agent runs: what is submitted waits.
func cluster(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv(envConfig, filepath.Join(dir, "config.json"))
	must(t, "cluster", "init", "test")
	cfg, err := loadClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	cc := cfg.Contexts["test"]
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	node := pki.NodeDir(filepath.Join(dir, "node"))
	up := make(chan net.Addr, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- apiserver.Run(ctx, apiserver.Options{
			Config:  nodecfg.Config{Cluster: "test", Node: "n1", Role: nodecfg.RoleControlWorker, CA: cc.CA, Operator: cc.Operator, TimeScale: 1},
			NodeDir: node, BarnDir: filepath.Join(dir, "barn"), BlobDir: filepath.Join(dir, "blobs"), KEKFile: filepath.Join(dir, "kek"),
			Listen: addr, RaftListen: "127.0.0.1:0",
			Addresses:  func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} },
			Extensions: []apiserver.Extension{apiserver.Pipelines(apiserver.PipelineOptions{})},
			Tune:       func(b *barn.Config) { b.SegmentSize = 1 << 20 },
			Ready:      func(a net.Addr) { up <- a },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-up:
	case err := <-done:
		t.Fatal(err)
	}
	key, err := node.Key()
	if err != nil {
		t.Fatal(err)
	}
	fp, err := pki.Fingerprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	must(t, "cluster", "bootstrap", "--node", "n1", "--address", addr, "--fingerprint", fp)
	t.Setenv(envAddress, addr)
}

const countDSL = `@herd("analytics")
Feature: Count

  Scenario: Big ones

    @source("file://in.jsonl", name="in") @contract("contracts.Row")
    Given rows

    @step("filter", where="a > 1", name="big")
    When they are big

    @sink("file://out.jsonl", name="out")
    Then they are stored

    @dlq("file://bad.jsonl")
`

func pipeline(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":           "module example.com/count\n\ngo 1.26\n",
		"contracts/row.go": "package contracts\n\ntype Row struct {\n\tA int `json:\"a\"`\n}\n",
		"in.jsonl":         "{\"a\":1}\n{\"a\":2}\n",
		"count.dsl":        countDSL,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "count.dsl")
}

func TestRunCommandsAgainstAServer(t *testing.T) {
	cluster(t)
	file := pipeline(t)
	if _, err := command(t, "run", file); errs.KindOf(err) != errs.NotFound {
		t.Errorf("a run in a herd that is not there: %v", err)
	}
	must(t, "herd", "put", "analytics", "--cpu", "2")
	if out := must(t, "run", file, "--dry-run"); !strings.Contains(out, "no node") {
		t.Errorf("dry run: %s", out)
	}
	idFile := filepath.Join(t.TempDir(), "id")
	id := strings.TrimSpace(must(t, "run", file, "--request-id", "request-1", "--id-file", idFile))
	if b, err := os.ReadFile(idFile); err != nil || strings.TrimSpace(string(b)) != id {
		t.Errorf("id file: %q, %v", b, err)
	}
	if again := strings.TrimSpace(must(t, "run", file, "--request-id", "request-1")); again != id {
		t.Errorf("the same request gave %s and %s", id, again)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"ps"}, id},
		{[]string{"ps", id}, "pending"},
		{[]string{"ps", id, "-o", "json"}, `"state": "pending"`},
		{[]string{"explain", id}, "no node"},
		{[]string{"artifact", "list", id}, "OUTPUT"},
		{[]string{"lineage"}, "DATASET"},
		{[]string{"stop", id}, "cancelled"},
		{[]string{"ps", "--all"}, "cancelled by operator"},
		{[]string{"logs", id}, ""},
	} {
		if out := must(t, tc.args...); !strings.Contains(out, tc.want) {
			t.Errorf("runink %s: %s", strings.Join(tc.args, " "), out)
		}
	}
	for _, tc := range []struct {
		args []string
		want errs.Kind
	}{
		{[]string{"watch", id}, errs.Internal}, // it did not succeed: exit status 1
		{[]string{"artifact", "get", id + "/out"}, errs.Conflict},
		{[]string{"artifact", "get", id}, errs.Invalid},
		{[]string{"lineage", id}, errs.NotFound},
		{[]string{"ps", "nope"}, errs.NotFound},
		{[]string{"logs", id, "nope"}, errs.NotFound},
		{[]string{"run", file, "--param", "x"}, errs.Invalid},
		{[]string{"run", file, "--param", "x=1"}, errs.Invalid},
		{[]string{"run", file, "--input", "other=" + file}, errs.Invalid},
		{[]string{"run", file, "--input", "in=/nowhere"}, errs.NotFound},
		{[]string{"run", "/nowhere.bundle"}, errs.NotFound},
		{[]string{"run"}, errs.Invalid},
	} {
		if _, err := command(t, tc.args...); err == nil || errs.KindOf(err) != tc.want {
			t.Errorf("runink %s: %v (%s), want %s", strings.Join(tc.args, " "), err, errs.KindOf(err), tc.want)
		}
	}
}

func TestRunLocal(t *testing.T) {
	file := pipeline(t)
	other := filepath.Join(t.TempDir(), "other.txt")
	if err := os.WriteFile(other, []byte("{\"a\":7}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, `{"a":2}`},
		{[]string{"--input", "in=" + other}, `{"a":7}`},
	} {
		if out := must(t, append([]string{"run", "--local", file}, tc.args...)...); !strings.Contains(out, "out") {
			t.Errorf("got %s", out)
		}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(file), "out.jsonl"))
		if err != nil || strings.TrimSpace(string(b)) != tc.want {
			t.Errorf("%v: output %q, %v", tc.args, b, err)
		}
	}
	for _, tc := range []struct {
		arg  string
		want errs.Kind
	}{
		{"x=" + other, errs.Invalid},
		{"in=/nowhere", errs.NotFound},
		{"in", errs.Invalid},
	} {
		if _, err := command(t, "run", "--local", file, "--input", tc.arg); errs.KindOf(err) != tc.want || errs.HintOf(err) == "" {
			t.Errorf("--input %s: %v", tc.arg, err)
		}
	}
}

// A pipeline whose sink is its source is refused by check, and one that --input makes so by
// the run; the data stays.
func TestARunKeepsItsInputs(t *testing.T) {
	file := pipeline(t)
	dir := filepath.Dir(file)
	bad := filepath.Join(dir, "bad.dsl")
	if err := os.WriteFile(bad, []byte(strings.Replace(countDSL, "file://out.jsonl", "file://in.jsonl", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, stderr, status := runink(t, "", "check", bad); status != exitUsage || !strings.Contains(stderr, bad+":12:12: error[E216]") {
		t.Errorf("check: %d %s", status, stderr)
	}
	for name, args := range map[string][]string{
		"sink is source":  {bad},
		"sink is --input": {file, "--input", "in=" + filepath.Join(dir, "out.jsonl")},
	} {
		const data = "{\"a\":2}\n{\"a\":0}\n"
		for _, f := range []string{"in.jsonl", "out.jsonl"} {
			if err := os.WriteFile(filepath.Join(dir, f), []byte(data), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		_, err := command(t, append([]string{"run", "--local"}, args...)...)
		if errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
		for _, f := range []string{"in.jsonl", "out.jsonl"} {
			if b, err := os.ReadFile(filepath.Join(dir, f)); err != nil || string(b) != data {
				t.Errorf("%s: %s is %q, %v", name, f, b, err)
			}
		}
	}
}

// A local run names places as check does, as they are seen from where it was typed.
func TestPlacesOfALocalRun(t *testing.T) {
	file := pipeline(t)
	dir := filepath.Dir(file)
	for name, text := range map[string]string{
		"fail.dsl":    strings.NewReplacer(`name="in")`, `name="in", on_error=fail)`, "\n    @dlq(\"file://bad.jsonl\")\n", "").Replace(countDSL),
		"clash.dsl":   strings.NewReplacer(`Feature: Count`, "@param(\"p\", default=\"out\")\nFeature: Count", `"file://bad.jsonl"`, `"file://${p}.jsonl", name="bad"`).Replace(countDSL),
		"bad.jsonl":   "{\"a\":\"x\"}\n",
		"unknown.dsl": strings.Replace(countDSL, "a > 1", "b > 1", 1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(filepath.Dir(dir))
	d := filepath.Base(dir)
	for _, tc := range []struct{ name, file, want string }{
		{"from above", d + "/fail.dsl", d + "/fail.dsl:6:5: source in: "},
		{"whole path", dir + "/fail.dsl", dir + "/fail.dsl:6:5: source in: "},
		{"files", d + "/clash.dsl", d + "/clash.dsl:16:5: run locally: sink out (" + d + "/clash.dsl:13:5) and dlq "},
		{"of a check", d + "/unknown.dsl", d + "/unknown.dsl:9:28: error["},
	} {
		_, stderr, status := runink(t, "", "run", "--local", tc.file, "--input", "in="+filepath.Join(dir, "bad.jsonl"))
		if status == 0 || !strings.HasPrefix(stderr, tc.want) {
			t.Errorf("%s: %d %s\nwant %s", tc.name, status, stderr, tc.want)
		}
	}
	if _, stderr, _ := runink(t, "", "check", d+"/unknown.dsl"); !strings.Contains(stderr, "= contracts.Row ("+d+"/contracts/row.go:3) has: a\n") {
		t.Errorf("a note of check: %s", stderr)
	}
	t.Chdir(d)
	if _, stderr, _ := runink(t, "", "run", "--local", "fail.dsl", "--input", "in=bad.jsonl"); !strings.HasPrefix(stderr, "fail.dsl:6:5: ") {
		t.Errorf("beside it: %s", stderr)
	}
}
