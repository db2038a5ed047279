package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// prose are the commands without -o: they print a sentence, or bytes that are what they are.
var prose = map[string]bool{
	"runink fmt": true, "runink logs": true, "runink join": true, "runink leave": true, "runink artifact get": true,
	"runink cluster bootstrap": true, "runink cluster remove-member": true, "runink cluster transfer-leadership": true,
	"runink cluster snapshot": true, "runink cluster restore": true, "runink context add": true, "runink context use": true,
	"runink node remove": true, "runink node forget": true, "runink netboot": true, "runink herd delete": true, "runink token revoke": true, "runink apikey revoke": true, "runink secret delete": true,
	"runink server recover-kek": true,
}

// TestEveryCommandTakesTheThreeForms holds all commands to -o table|json|yaml.
func TestEveryCommandTakesTheThreeForms(t *testing.T) {
	n := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.HasSubCommands() || c.Hidden || c.Name() == "help" || c.HasParent() && c.Parent().Name() == "completion" {
			return
		}
		path := c.CommandPath()
		f := c.Flags().Lookup("output")
		if prose[path] {
			// Of "artifact get" it is the file to write.
			if f != nil && path != "runink artifact get" {
				t.Errorf("%s has -o, and is listed as one without", path)
			}
			return
		}
		if f == nil {
			t.Errorf("%s has no -o", path)
			return
		}
		n++
		if f.Shorthand != "o" || f.DefValue != "table" {
			t.Errorf("%s: -%s, by default %q", path, f.Shorthand, f.DefValue)
		}
		for _, form := range []string{"table", "json", "yaml"} {
			if err := c.ParseFlags([]string{"-o", form}); err != nil {
				t.Errorf("%s -o %s: %v", path, form, err)
			}
			if !strings.Contains(f.Usage, form) {
				t.Errorf("%s: the help of -o is %q", path, f.Usage)
			}
		}
		if err := c.ParseFlags([]string{"-o", "xml"}); err == nil || !strings.Contains(err.Error(), "table, json, yaml") {
			t.Errorf("%s -o xml: %v", path, err)
		}
	}
	walk(newRootCmd())
	if n < 30 {
		t.Errorf("only %d commands have -o", n)
	}
}

// TestFormsSayTheSame compares what commands that need no cluster print as JSON and as YAML.
func TestFormsSayTheSame(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	dir := pipelineFolder(t, goodDSL)
	good := filepath.Join(dir, "p.dsl")
	bad := filepath.Join(pipelineFolder(t, strings.Replace(goodDSL, "n > 1", "m > 1", 1)), "p.dsl")
	if err := os.WriteFile(filepath.Join(dir, "a.csv"), []byte("n\n1\n5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "config.json")
	t.Setenv(envConfig, config)
	key := "rk_not_to_be_seen"
	if err := os.WriteFile(config, []byte(`{"current":"b","contexts":{"a":{"cluster":"a","ca":"x","api_key":"`+key+`"},"b":{"cluster":"b","ca":"y","addresses":["h:1"]}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		args   []string
		status int
		want   string // in the JSON
	}{
		{"check", []string{"check", good}, exitOK, `"diagnostics": []`},
		{"check of what is wrong", []string{"check", bad}, exitUsage, `"code": "E204"`},
		{"plan", []string{"plan", good}, exitOK, `"where": "n > 1"`},
		{"test", []string{"test", good}, exitOK, `"ok": true`},
		{"build", []string{"build", good, "--out", filepath.Join(t.TempDir(), "p.bundle")}, exitOK, `"digest": "sha256:`},
		{"run --local", []string{"run", "--local", good}, exitOK, `"rows": 1`},
		{"context list", []string{"context", "list"}, exitOK, `"current": true`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asJSON, stderr, status := runink(t, "", append(tc.args, "-o", "json")...)
			if status != tc.status || !strings.Contains(asJSON, tc.want) {
				t.Fatalf("%d %s%s", status, asJSON, stderr)
			}
			asYAML, stderr, status := runink(t, "", append(tc.args, "-o", "yaml")...)
			if status != tc.status || strings.HasPrefix(strings.TrimSpace(asYAML), "{") {
				t.Fatalf("%d %s%s", status, asYAML, stderr)
			}
			var fromJSON, fromYAML any
			if err := json.Unmarshal([]byte(asJSON), &fromJSON); err != nil {
				t.Fatal(err)
			}
			if err := yaml.Unmarshal([]byte(asYAML), &fromYAML); err != nil {
				t.Fatal(err)
			}
			if back, err := json.Marshal(fromYAML); err != nil {
				t.Fatal(err)
			} else if err := json.Unmarshal(back, &fromYAML); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(fromJSON, fromYAML) {
				t.Errorf("as JSON\n%s\nas YAML\n%s", asJSON, asYAML)
			}
			if strings.Contains(asYAML, "e+") || strings.Contains(asJSON+asYAML, key) {
				t.Errorf("as YAML\n%s", asYAML)
			}
			if _, stderr, status := runink(t, "", append(tc.args, "-o", "xml")...); status != exitUsage || !strings.Contains(stderr, "--output") {
				t.Errorf("-o xml: %d %s", status, stderr)
			}
		})
	}
}
