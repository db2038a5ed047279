package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/runink/runink/image"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// metal builds a metal image, with a program in it that does nothing.
func metal(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	src, init, out := filepath.Join(dir, "src"), filepath.Join(dir, "init"), filepath.Join(dir, "metal")
	if err := os.CopyFS(src, fstest.MapFS{
		"go.mod":  {Data: []byte("module example.org/init\n\ngo 1.26\n"), Mode: 0o644},
		"main.go": {Data: []byte("package main\n\nfunc main() {}\n"), Mode: 0o644},
	}); err != nil {
		t.Fatal(err)
	}
	if err := image.GoBuild(t.Context(), src, ".", init); err != nil {
		t.Fatal(err)
	}
	lock, err := image.MetalLock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := image.Build(t.Context(), image.Options{
		Binary: init, Out: out, Cache: filepath.Join("..", "..", "build", "cache"), Level: 1, Lock: lock, Log: slog.Default(),
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// texts are how the words on each kind of medium are read, by programs that are not ours.
var texts = map[string]struct {
	args []string // that make one
	read func(ctx context.Context, medium string) ([]byte, error)
}{
	"config": {nil, func(ctx context.Context, medium string) ([]byte, error) {
		return exec.CommandContext(ctx, "mtype", "-i", medium, "::"+nodecfg.ConfigName).Output()
	}},
	"iso": {nil, func(ctx context.Context, medium string) ([]byte, error) {
		menu := medium + ".cfg"
		if out, err := exec.CommandContext(ctx, "xorriso", "-osirrox", "on", "-indev", medium, "-extract", "/boot/grub/grub.cfg", menu).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w\n%s", err, out)
		}
		return os.ReadFile(menu)
	}},
	"disk": {[]string{"-state-size", "256"}, func(ctx context.Context, medium string) ([]byte, error) {
		// Behind the first table and the partition that BIOS boots, one MiB each.
		return exec.CommandContext(ctx, "mtype", "-i", medium+"@@2M", "::boot/grub/grub.cfg").Output()
	}},
}

// The node's keys may be flags, words, or one line in quotes as `runink token create -q`
// prints it; on each kind of medium they are all of them, as they were given.
func TestWords(t *testing.T) {
	img := metal(t)
	pin := "sha256:" + strings.Repeat("a", 64)
	line := "runink.cluster=c1 runink.node=n7 runink.role=worker runink.ca=" + pin + " runink.join=10.0.0.1:7460 runink.token=t"
	for _, tt := range []struct {
		kind, name string
		args       []string
	}{
		{"config", "flags", []string{"--cluster", "c1", "--node", "n7", "--role=worker", "--ca", pin, "--join", "10.0.0.1:7460", "--token", "t"}},
		{"config", "words", strings.Fields(line)},
		{"config", "one line", []string{line}},
		{"config", "both", append([]string{"-node", "n7"}, strings.Fields(strings.Replace(line, "runink.node=n7", "", 1))...)},
		{"iso", "flags", []string{"--node", "n7", "--cluster", "c1", "--role", "worker", "--ca", pin, "--join", "10.0.0.1:7460", "--token", "t"}},
		{"disk", "both", append([]string{"-node", "n7"}, strings.Replace(line, "runink.node=n7", "", 1))},
	} {
		t.Run(tt.kind+", "+tt.name, func(t *testing.T) {
			args := []string{"-out", filepath.Join(t.TempDir(), "medium")}
			if tt.kind != "config" {
				args = append(args, "-image", img)
			}
			args = append(args, texts[tt.kind].args...)
			if err := writeMedia(t.Context(), tt.kind, append(args, tt.args...)); err != nil {
				t.Fatal(err)
			}
			text, err := texts[tt.kind].read(t.Context(), args[1])
			if err != nil {
				t.Fatal(err)
			}
			var words []string
			for _, w := range strings.Fields(string(text)) {
				if strings.HasPrefix(w, nodecfg.Prefix) {
					words = append(words, w)
				}
			}
			cfg, err := nodecfg.ParseSources(nodecfg.Source{Name: tt.kind, Text: strings.Join(words, " ")})
			if err != nil || cfg.Node != "n7" || cfg.Token != "t" || cfg.Join[0] != "10.0.0.1:7460" {
				t.Errorf("%+v, %v in %q", cfg, err, words)
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
