package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// parsedOnly are examples that are not typed at the server of TestExamplesOfHelpWork, and why.
// TestExamplesOfHelpAreAccepted still parses them.
var parsedOnly = map[string]string{
	"runink artifact get 1hkz3v0c8q2m4x7a/late | head":                                       "no run has outputs without an agent; TestFlightsOnThreeNodes fetches them",
	"runink artifact get 1hkz3v0c8q2m4x7a/late -o late.jsonl":                                "as above",
	"runink cluster bootstrap --node n1 --address 10.0.0.11 --fingerprint sha256:3f…":        "it is done once, by startRealCluster",
	"runink cluster remove-member n3":                                                        "there is only one member",
	"runink cluster transfer-leadership n2":                                                  "there is only one member",
	"runink join --cluster prod --node n4 --role worker --join 10.0.0.11:7460 --ca sha256:…": "it makes this host a node",
	"runink keeper": "it wants the cgroups of a node",
	"runink keeper --unenforced --socket /tmp/k.sock": "it does not end; make dev runs it so",
	"runink leave":         "it undoes what makes this host a node; TestJoinUnderSystemd types it",
	"runink leave --purge": "as above",
	"RUNINK_API_KEY=rk_… runink netboot --listen 10.0.0.5 --image build/metal": "it serves a network that this host is on; TestNetworkBoot has one",
	"runink watchdog --config /var/lib/runink/config.json":                     "it wants a host that joined; TestJoinUnderSystemd has one",
	"runink lineage --down analytics/file://data/airports.csv":                 "no run has committed; TestFlightsOnThreeNodes",
	"runink lineage 1hkz3v0c8q2m4x7a":                                          "as above",
	"runink logs -f 1hkz3v0c8q2m4x7a":                                          "no slice has begun; TestLogsOfEveryAttempt follows",
	"runink logs 1hkz3v0c8q2m4x7a join-airport":                                "as above",
	"runink node remove n4":                                                    "the only node is the control node itself",
	"runink run flights.dsl --herd analytics --wait":                           "no agent would end the wait; TestFlightsOnThreeNodes waits so",
	"runink server recover-kek < recovery-key.txt":                             "the key is where it belongs",
	"runink server --cluster prod --node n1 --role control --ca sha256:… --operator sha256:… --state-dir /var/lib/runink": "startRealCluster starts it",
}

// typedLast are examples that change what others need, in their order.
var typedLast = []string{
	"runink node drain n2 --reason 'new disk'",
	"runink node resume n2",
	"runink stop 1hkz3v0c8q2m4x7a",
	"runink watch 1hkz3v0c8q2m4x7a",
	"runink secret delete --herd analytics warehouse/password",
	"runink token revoke k3vq7a2m",
	"runink apikey revoke k3vq7a2m",
	"runink cluster restore prod-2026-11-22.barn --yes",
	"runink herd delete analytics",
	"runink cluster init prod",
	"runink context add prod --address 10.0.0.11 --ca sha256:3f… --api-key-stdin < key",
	"runink context use prod",
}

// examplesOfHelp are the lines of all commands' examples, each once.
func examplesOfHelp() []string {
	var out []string
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for line := range strings.Lines(regexp.MustCompile(`\\\n\s*`).ReplaceAllString(c.Example, "")) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), "  #")
			if line = strings.TrimSpace(line); line != "" && !slices.Contains(out, line) && c.Name() != "completion" && parent(c) != "completion" {
				out = append(out, line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRootCmd())
	return out
}

// TestExamplesOfHelpWork types the examples of --help, which are those of the man pages, at a
// cluster that has what they name. Names of other clusters become those of this one.
func TestExamplesOfHelpWork(t *testing.T) {
	examples := examplesOfHelp()
	for line := range parsedOnly {
		if !slices.ContainsFunc(examples, func(e string) bool { return strings.TrimPrefix(e, "RUNINK_TOKEN=rt_… ") == line }) {
			t.Errorf("parsedOnly has %q, which is no example any more", line)
		}
	}
	for _, line := range typedLast {
		if !slices.Contains(examples, line) {
			t.Errorf("typedLast has %q, which is no example any more", line)
		}
	}

	c := startRealCluster(t, "600m")
	if err := os.CopyFS(c.work, os.DirFS(filepath.Join("..", "..", "examples", "flights"))); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(c.home, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, "runink")); err != nil {
		t.Fatal(err)
	}
	cfg, err := loadClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	decoded := func(v any, args ...string) {
		t.Helper()
		if err := json.Unmarshal([]byte(c.ok(append(args, "-o", "json")...)), v); err != nil {
			t.Fatal(err)
		}
	}
	c.ok("herd", "put", "analytics", "--cpu", "8", "--memory", "8Gi")
	c.ok("herd", "put", "empty")
	var key struct {
		Key    struct{ ID string }
		Secret string
	}
	decoded(&key, "apikey", "create", "--herd", "analytics", "--role", "viewer")
	var token struct{ ID string }
	decoded(&token, "token", "create", "--node", "n9", "--role", "worker")
	for name, text := range map[string]string{"key": key.Secret + "\n", "key.pem": "pem\n", "password.txt": "hunter2\n"} {
		if err := os.WriteFile(filepath.Join(c.work, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := regexp.MustCompile(`[0-9a-z]{16}`).FindString(c.ok("run", "flights.dsl"))
	for !strings.Contains(c.ok("explain", run), "no node") { // then there is a decision to replay
		time.Sleep(20 * time.Millisecond) // a poll, not an assertion
	}
	var cursor string
	for line := range strings.Lines(c.ok("events", "-o", "json")) {
		var e struct{ Cursor string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if cursor == "" {
			cursor = e.Cursor
		}
	}

	here := func(line string) string {
		id := key.Key.ID
		if strings.Contains(line, "token") {
			id = token.ID
		}
		node := strings.NewReplacer("n2", "n1")
		if strings.Contains(line, "token create") {
			node = strings.NewReplacer() // it names one that is not there yet
		}
		return strings.NewReplacer(
			"1hkz3v0c8q2m4x7a", run, "k3vq7a2m", id, "4711.0", cursor, "rk_…", key.Secret,
			"herd delete analytics", "herd delete empty", "10.0.0.11", c.addr, "sha256:3f…", cfg.Contexts["test"].CA,
			"/data/airports.csv", filepath.Join(c.work, "data", "airports.csv"), "/tmp/", c.tmp+"/", "/usr/local/share/man", filepath.Join(c.tmp, "man"),
		).Replace(node.Replace(line))
	}
	typed := 0
	do := func(line string) {
		t.Helper()
		typed++
		text := here(line)
		if args := strings.Fields(text); slices.Contains(args, "--follow") {
			f := c.follow(args[1:]...)
			f.next(func() { c.ok("herd", "put", "followed", "--cpu", "1") })
			f.interrupt()
			return
		}
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", text)
		cmd.Dir = c.work
		config := filepath.Join(c.home, "config.json")
		switch {
		case strings.HasPrefix(line, "runink cluster init"): // which makes a root, and a context of it
			config = filepath.Join(c.home, "init.json")
		case strings.HasPrefix(line, "runink context"):
			config = filepath.Join(c.home, "contexts.json")
		}
		cmd.Env = append(os.Environ(), "PASSWORD=hunter2", asBinary+"=1", envConfig+"="+config, "TMPDIR="+c.tmp, "PATH="+bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
		said, err := cmd.CombinedOutput()
		// This machine may lack something, and n1 has no agent; and the run that is watched was
		// stopped: that is what they say.
		if (strings.HasPrefix(line, "runink doctor") || strings.HasPrefix(line, "runink watch")) && cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == exitFailed {
			return
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", text, err, said)
		}
	}
	for _, line := range examples {
		if parsedOnly[strings.TrimPrefix(line, "RUNINK_TOKEN=rt_… ")] == "" && !slices.Contains(typedLast, line) {
			do(line)
		}
	}
	for _, line := range typedLast {
		do(line)
	}
	if typed+len(parsedOnly) != len(examples) {
		t.Errorf("%d examples were typed, and %d are only parsed, of %d", typed, len(parsedOnly), len(examples))
	}
}
