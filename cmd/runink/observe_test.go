package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/runink/runink/internal/errs"
)

func hint(err error) string { return errs.HintOf(err) }

// TestWatchingACluster types what tells of a cluster, at a cluster: events, decisions,
// versions, lineage, and the words that a shell completes.
func TestWatchingACluster(t *testing.T) {
	c := startRealCluster(t, "600m")
	badFiles(t, c.work)
	c.ok("herd", "put", "analytics", "--cpu", "2", "--memory", "1Gi")
	c.ok("herd", "put", "archive")
	run := regexp.MustCompile(`[0-9a-z]{16}`).FindString(c.ok("run", "count.dsl"))
	if run == "" {
		t.Fatal("no run id")
	}
	c.ok("token", "create", "--node", "w1", "--role", "worker")

	t.Run("events", func(t *testing.T) {
		type event struct{ Cursor, Kind, Name, Herd, State, Principal, Command, Time string }
		read := func(args ...string) (out []event) {
			for line := range strings.Lines(c.ok(append([]string{"events", "-o", "json"}, args...)...)) {
				var e event
				if err := json.Unmarshal([]byte(line), &e); err != nil {
					t.Fatalf("%v: %s", err, line)
				}
				out = append(out, e)
			}
			return out
		}
		all := read()
		names := map[string]event{}
		for _, e := range all {
			names[e.Kind+" "+e.Name] = e
			if e.Cursor == "" || e.Time == "" || e.Command == "" {
				t.Errorf("%+v does not say enough", e)
			}
		}
		for _, want := range []string{"herd analytics", "herd archive", "run " + run, "node n1"} {
			if names[want].Cursor == "" {
				t.Errorf("there is no event of %s in %v", want, all)
			}
		}
		if e := names["run "+run]; e.State != "pending" || e.Herd != "analytics" || !strings.HasPrefix(e.Principal, "operator:") {
			t.Errorf("the run's event: %+v", e)
		}
		// From any event on it goes on with the next.
		for i, e := range all {
			rest := read("--since", e.Cursor)
			if !slices.Equal(rest, all[i+1:]) {
				t.Errorf("since %s: %v, want %v", e.Cursor, rest, all[i+1:])
			}
		}
		if got := read("--herd", "archive"); len(got) != 1 {
			t.Errorf("of herd archive: %v", got)
		}
		if out := c.ok("events", "--kind", "herd"); !strings.Contains(out, "CURSOR") || strings.Contains(out, run) {
			t.Errorf("of herds:\n%s", out)
		}
		_, stderr, status := c.typed("events", "--since", "99999.0")
		if status != exitUsage || !strings.Contains(stderr, "ahead") || !strings.Contains(stderr, "hint:") {
			t.Errorf("of the future: %d, %s", status, stderr)
		}
		if _, stderr, status := c.typed("events", "--kind", "rnu"); status != exitUsage || !strings.Contains(stderr, "--kind") || !strings.Contains(stderr, "hint:") {
			t.Errorf("of no kind: %d, %s", status, stderr)
		}
	})

	t.Run("events that are followed", func(t *testing.T) {
		herds := 0
		change := func() {
			herds++
			c.ok("herd", "put", fmt.Sprint("followed", herds))
		}
		f := c.follow("events", "--follow", "-o", "json")
		got := []string{f.next(change)}
		change()
		cursor := f.interrupt()
		got = append(got, f.rest()...)
		for range 2 { // each time it goes on from where it was interrupted
			change() // while nobody follows
			f = c.follow("events", "--follow", "-o", "json", "--since", cursor)
			got = append(got, f.next(nil))
			change()
			cursor = f.interrupt()
			got = append(got, f.rest()...)
		}
		got = append(got, slices.Collect(strings.Lines(c.ok("events", "-o", "json", "--since", cursor)))...)
		all := slices.Collect(strings.Lines(c.ok("events", "-o", "json")))
		if i := slices.Index(all, got[0]); i < 0 || !slices.Equal(all[i:], got) {
			t.Errorf("followed, with interruptions:\n%s\nof what happened:\n%s", strings.Join(got, ""), strings.Join(all, ""))
		}
	})

	t.Run("replay", func(t *testing.T) {
		// No node has an agent, so the run waits; that was decided.
		for {
			if strings.Contains(c.ok("explain", run), "no node") {
				break
			}
			time.Sleep(20 * time.Millisecond) // a poll, not an assertion
		}
		out := c.ok("replay", "--save", "decisions.jsonl")
		if !strings.Contains(out, "equal") {
			t.Errorf("from the cluster:\n%s", out)
		}
		if again := c.ok("replay", "decisions.jsonl"); again != out {
			t.Errorf("from the file:\n%s", again)
		}
		if _, err := os.Stat(filepath.Join(c.work, "decisions.jsonl.part")); err == nil {
			t.Error("a half file is left")
		}
	})

	t.Run("version", func(t *testing.T) {
		var v versions
		if err := json.Unmarshal([]byte(c.ok("version", "-o", "json")), &v); err != nil {
			t.Fatal(err)
		}
		if v.Go == "" || !strings.HasPrefix(v.Program, "sha256:") || v.Cluster == nil || v.Cluster.Server.Node != "n1" || v.Cluster.Server.Version != v.Version || v.Cluster.Server.Go != v.Go || len(v.Cluster.Nodes) != 1 {
			t.Errorf("got %+v", v)
		}
		if out := c.ok("version"); !strings.Contains(out, "NODE") || !strings.Contains(out, "server") {
			t.Errorf("got\n%s", out)
		}
		if out := c.ok("version", "--client"); strings.Contains(out, "NODE") {
			t.Errorf("got\n%s", out)
		}
	})

	t.Run("docs/observe.md", func(t *testing.T) {
		page, err := os.ReadFile(filepath.Join("..", "..", "docs", "observe.md"))
		if err != nil {
			t.Fatal(err)
		}
		var first struct{ Cursor string }
		if err := json.NewDecoder(strings.NewReader(c.ok("events", "-o", "json"))).Decode(&first); err != nil {
			t.Fatal(err)
		}
		here := strings.NewReplacer("RUN", run, "n2", "n1", "4711.0", first.Cursor)
		typed := 0
		for line := range strings.Lines(string(page)) {
			text, ok := strings.CutPrefix(line, "  runink ")
			if !ok {
				continue
			}
			text, _, _ = strings.Cut(text, "  #")
			args := strings.Fields(here.Replace(text))
			typed++
			if slices.Contains(args, "--follow") {
				f := c.follow(args...)
				f.next(func() { c.ok("run", "count.dsl") })
				f.interrupt()
				continue
			}
			_, stderr, status := c.typed(args...)
			if status != 0 && (args[0] != "doctor" || status != exitFailed) { // this machine may lack something
				t.Errorf("runink %s: %d\n%s", strings.TrimSpace(text), status, stderr)
			}
		}
		if typed < 8 {
			t.Errorf("only %d commands were found in docs/observe.md", typed)
		}
	})

	t.Run("lineage", func(t *testing.T) {
		if out := c.ok("lineage", run, "-o", "openlineage"); out != "" {
			t.Errorf("a run that waits has no events:\n%s", out)
		}
		c.ok("stop", run)
		out := strings.Split(strings.TrimSpace(c.ok("lineage", run, "-o", "openlineage")), "\n")
		if len(out) != 2 || !strings.Contains(out[0], `"START"`) || !strings.Contains(out[1], `"ABORT"`) || !strings.Contains(out[1], `"runink://test/analytics"`) {
			t.Errorf("events of a run that was stopped: %v", out)
		}
		for _, args := range [][]string{{"-o", "openlineage"}, {"analytics/file://in.jsonl", "-o", "openlineage"}, {run, "--up", "-o", "openlineage"}} {
			if _, stderr, status := c.typed(append([]string{"lineage"}, args...)...); status != exitUsage || !strings.Contains(stderr, "hint:") {
				t.Errorf("%v: %d, %s", args, status, stderr)
			}
		}
	})

	t.Run("doctor", func(t *testing.T) {
		out := c.ok("doctor", "--for", "cluster")
		for _, want := range []string{"operator's certificate", "control plane", "n1 answers", "clock of the cluster"} {
			if !strings.Contains(out, want) {
				t.Errorf("lacks %q:\n%s", want, out)
			}
		}
		out, stderr, status := c.typed("doctor", "--node", "n1")
		if status != exitFailed || !strings.Contains(out, "joining") || !strings.Contains(stderr, "node n1 lacks: state") {
			t.Errorf("a node without an agent: %d\n%s%s", status, out, stderr)
		}
		if _, _, status := c.typed("doctor", "--node", "n9"); status != exitNotFound {
			t.Errorf("no such node: %d", status)
		}
	})

	t.Run("completion", func(t *testing.T) {
		key := strings.TrimSpace(regexp.MustCompile(`(?m)^[a-z2-7]{8}\b`).FindString(c.ok("token", "list", "-o", "table")))
		for _, tc := range []struct {
			args      string
			want, not string
		}{
			{"ps ", run + "\tcount, cancelled", "analytics"},
			{"explain ", run, ""},
			{"logs ", run, ""},
			{"lineage ", run, ""},
			{"artifact get ", run + "/", ""},
			{"node get ", "n1\tcontrol+worker", run},
			{"node drain n", "n1", ""},
			{"node drain n1 ", "", "n1\t"},
			{"cluster transfer-leadership ", "n1", ""},
			{"herd get ar", "archive", "analytics"},
			{"run --herd ", "analytics", run},
			{"events --kind ", "node", ""},
			{"events --herd ", "archive", ""},
			{"lineage -o ", "openlineage", ""},
			{"ps -o ", "yaml", "openlineage"},
			{"ps --context ", "test", ""},
			{"context use ", "test", ""},
			{"ps --state ", "committing", ""},
			{"token create --role ", "control+worker", "viewer"},
			{"apikey create --role ", "viewer", "control"},
			{"token revoke ", key, "n1\t"},
			{"check ", "dsl", run},
			{"doctor --for ", "pipelines", run},
			{"doctor --node ", "n1", ""},
			{"node ", "drain", run},
		} {
			args := strings.Split(tc.args, " ")
			out := c.ok(append([]string{cobra.ShellCompRequestCmd}, args...)...)
			if !strings.Contains(out, tc.want) || tc.not != "" && strings.Contains(out, tc.not) {
				t.Errorf("%q completes to\n%s", tc.args, out)
			}
			if tc.want != "dsl" && strings.Contains(out, ":0\n") {
				t.Errorf("%q completes to files, too:\n%s", tc.args, out)
			}
		}
		for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
			if out := c.ok("completion", shell); !strings.Contains(out, "runink") || !strings.Contains(out, cobra.ShellCompRequestCmd) {
				t.Errorf("%s: %d bytes", shell, len(out))
			}
		}
	})
}

// TestCompletionWithoutACluster: a Tab is never an error message.
func TestCompletionWithoutACluster(t *testing.T) {
	t.Setenv(envConfig, filepath.Join(t.TempDir(), "config.json"))
	t.Setenv(envContext, "")
	out, err := cli(t, "", cobra.ShellCompRequestCmd, "ps", "")
	if err != nil || !strings.HasPrefix(out, ":") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestEveryArgumentIsCompleted: a command whose usage names something that can be looked up
// completes it.
func TestEveryArgumentIsCompleted(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		for _, s := range c.Commands() {
			walk(s)
		}
		if !c.HasSubCommands() && c.Name() != "help" && c.ValidArgsFunction == nil && parent(c) != "completion" {
			t.Errorf("%s completes nothing", c.CommandPath())
		}
	}
	walk(newRootCmd())
	for use, want := range map[string][]string{
		"x":                                {"", ""},
		"x RUN [SLICE]":                    {"RUN", "SLICE", ""},
		"x NAME --reason TEXT":             {"NAME", ""},
		"x --herd HERD PATH":               {"PATH", ""},
		"x FILE.dsl…":                      {"FILE.dsl", "FILE.dsl"},
		"x NAME KEY=VALUE… KEY-…":          {"NAME", "KEY=VALUE", "KEY-", "KEY-"},
		"x bootstrap --node N --address A": {"bootstrap", ""},
	} {
		for n, w := range want {
			if got, _ := placeholder(&cobra.Command{Use: use}, n); got != w {
				t.Errorf("%q, argument %d: %q, want %q", use, n, got, w)
			}
		}
	}
}

// TestManPages: one for each command that people type, the same bytes at the same date.
func TestManPages(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1767225600")
	a, b := filepath.Join(t.TempDir(), "a", "man1"), filepath.Join(t.TempDir(), "b")
	ok(t, "", "man", a)
	ok(t, "", "man", b)
	want := map[string]bool{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" {
			return
		}
		want[strings.ReplaceAll(c.CommandPath(), " ", "-")+".1"] = true
		for _, s := range c.Commands() {
			walk(s)
		}
	}
	walk(newRootCmd())
	files, err := os.ReadDir(a)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		x, err := os.ReadFile(filepath.Join(a, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(filepath.Join(b, f.Name()))
		if err != nil || string(x) != string(y) {
			t.Errorf("%s differs, or %v", f.Name(), err)
		}
		if !want[f.Name()] && !strings.HasPrefix(f.Name(), "runink-completion") {
			t.Errorf("%s is of no command", f.Name())
		}
		delete(want, f.Name())
		title := strings.ToUpper(strings.TrimSuffix(f.Name(), ".1"))
		for _, part := range []string{".TH", title, "Jan 2026", ".SH NAME", ".SH SYNOPSIS"} {
			if !strings.Contains(string(x), part) {
				t.Errorf("%s lacks %s", f.Name(), part)
			}
		}
	}
	// A name with underscores is the name, not a word in italics.
	if run, err := os.ReadFile(filepath.Join(a, "runink-run.1")); err != nil || !strings.Contains(string(run), "variable RUNINK_SECRET_ and") {
		t.Errorf("the page of run has another name of the variable, or %v:\n%s", err, run)
	}
	for f := range want {
		if !strings.HasPrefix(f, "runink-completion") {
			t.Errorf("%s was not written", f)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cli(t, "", "man", file); exitCode(err) != exitUsage {
		t.Errorf("into a file: %v", err)
	}
}

// TestVersionOfANode: what the image says of itself.
func TestVersionOfANode(t *testing.T) {
	image := filepath.Join(t.TempDir(), "os-release")
	if err := os.WriteFile(image, []byte("IMAGE_VERSION=sha256:abc\nRUNINK_BUILD_TIME=1767225600\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := thisProgram(image)
	if err != nil || v.Image != "sha256:abc" || v.Commit == nil || v.Commit.Unix() != 1767225600 {
		t.Errorf("got %+v, %v", v, err)
	}
	if err := os.WriteFile(image, []byte("RUNINK_BUILD_TIME=soon\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := thisProgram(image); err == nil {
		t.Error("a broken description is accepted")
	}
	if v, err := thisProgram(filepath.Join(t.TempDir(), "none")); err != nil || v.Image != "" || v.Commit != nil {
		t.Errorf("an ordinary host: %+v, %v", v, err)
	}
}
