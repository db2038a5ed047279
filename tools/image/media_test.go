package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// The node's keys may be flags, words, or one line in quotes as `runink token create -q`
// prints it.
func TestWords(t *testing.T) {
	pin := "sha256:" + strings.Repeat("a", 64)
	line := "runink.cluster=c1 runink.node=n7 runink.role=worker runink.ca=" + pin + " runink.join=10.0.0.1:7460 runink.token=t"
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"flags", []string{"--cluster", "c1", "--node", "n7", "--role=worker", "--ca", pin, "--join", "10.0.0.1:7460", "--token", "t"}},
		{"words", strings.Fields(line)},
		{"one line", []string{line}},
		{"both", append([]string{"-node", "n7"}, strings.Fields(strings.Replace(line, "runink.node=n7", "", 1))...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "cfg.img")
			if err := writeMedia(t.Context(), "config", append([]string{"-out", out}, tt.args...)); err != nil {
				t.Fatal(err)
			}
			text, err := exec.CommandContext(t.Context(), "mtype", "-i", out, "::"+nodecfg.ConfigName).Output()
			if err != nil {
				t.Fatal(err)
			}
			cfg, err := nodecfg.ParseSources(nodecfg.Source{Name: "config disk", Text: string(text)})
			if err != nil || cfg.Node != "n7" || cfg.Token != "t" || cfg.Join[0] != "10.0.0.1:7460" {
				t.Errorf("%+v, %v", cfg, err)
			}
		})
	}
	for name, args := range map[string][]string{
		"nothing": nil, "an unknown flag": {"--nod", "n7"}, "half": {"--node", "n7"}, "twice": {"--node", "n7", line},
	} {
		t.Run(name, func(t *testing.T) {
			err := writeMedia(t.Context(), "config", append([]string{"-out", filepath.Join(t.TempDir(), "cfg.img")}, args...))
			if !errors.Is(err, errs.Invalid) {
				t.Errorf("got %v, want kind invalid", err)
			}
		})
	}
}

// Whoever leaves keys out is told of all of them at once, by the names of the flags, and
// where to take them from. Nothing is written.
func TestMissingKeys(t *testing.T) {
	pin := "sha256:" + strings.Repeat("a", 64)
	for name, tt := range map[string]struct {
		args  []string
		field string
		hint  string
	}{
		"as in the issue":       {[]string{"--node", "n7", "--token", "t"}, "--cluster, --role, --ca, --join", "`runink token create -q --node n7 --role worker`"},
		"as words":              {[]string{"runink.node=n7", "runink.token=t"}, "--cluster, --role, --ca, --join", "--node n7 --role worker`"},
		"the role alone":        {[]string{"--role", "worker"}, "--cluster, --node, --ca, --join", "--node NAME --role worker`"},
		"only the pin":          {[]string{"--cluster", "c1", "--node", "n7", "--role", "worker", "--join", "10.0.0.1:7460"}, "--ca", "--node n7 --role worker`"},
		"a worker's join":       {[]string{"--cluster", "c1", "--node", "n7", "--role", "worker", "--ca", pin}, "--join", "--node n7 --role worker`"},
		"a control node's join": {[]string{"--cluster", "c1", "--node", "n7", "--role", "control", "--ca", pin, "--token", "t"}, "--join", "--node n7 --role control`"},
		"the first node's":      {[]string{"--node", "n1", "--role", "control+worker"}, "--cluster, --ca, --operator", "`runink cluster init` printed"},
	} {
		for kind := range media {
			t.Run(kind+", "+name, func(t *testing.T) {
				out := filepath.Join(t.TempDir(), "medium.img")
				err := writeMedia(t.Context(), kind, append([]string{"-out", out}, tt.args...))
				if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), ": "+tt.field+": missing") || !strings.Contains(errs.HintOf(err), tt.hint) {
					t.Errorf("%v\n%s", err, errs.HintOf(err))
				}
				if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("something was written: %v", err)
				}
			})
		}
	}
	// What asks for nothing more than nodecfg does.
	for name, text := range map[string]string{
		"none":              "",
		"a worker":          "cluster=c1 node=n7 role=worker ca=" + pin + " join=10.0.0.1:7460 token=t",
		"one that is known": "cluster=c1 node=n7 role=worker ca=" + pin + " join=10.0.0.1:7460",
		"the first":         "cluster=c1 node=n1 role=control ca=" + pin + " operator=" + pin,
		"another":           "cluster=c1 node=n2 role=control ca=" + pin + " join=10.0.0.1:7460 token=t",
	} {
		t.Run(name, func(t *testing.T) {
			words := strings.Fields(text)
			for i, w := range words {
				words[i] = nodecfg.Prefix + w
			}
			if err := complete(words); err != nil {
				t.Error(err)
			}
			if len(words) > 0 {
				if _, err := nodecfg.Parse(strings.Join(words, " ")); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// The help lists every command with an example, and says so of an unknown one.
func TestUsage(t *testing.T) {
	text := usage()
	for name, m := range media {
		if !strings.Contains(text, "\n"+name+" ") || !strings.Contains(text, "  runink-image "+m.example+"\n") || !strings.Contains(text, m.what) {
			t.Errorf("%s is not in\n%s", name, text)
		}
	}
}
