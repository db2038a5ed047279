package main

import (
	"errors"
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
