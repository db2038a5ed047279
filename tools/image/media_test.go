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
		{"config", "flags behind words", append(strings.Fields(strings.Replace(line, "runink.node=n7", "", 1)), "--node", "n7")},
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

// A config disk may bring the token alone, or where a disk or an address is, to a node that is
// told by another way who it is. What it brings is judged all the same.
func TestConfigDiskForOneThatIsNamed(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		says string // in the error, if there is one
	}{
		"the token alone":        {[]string{"--token", "rt_x"}, ""},
		"disk and address":       {[]string{"--install", "path:/dev/sda", "runink.ip=eth0,10.0.0.7/24"}, ""},
		"a disk that is none":    {[]string{"--install", "sda"}, "none of serial:"},
		"an address that is not": {[]string{"--token", "rt_x", "--ip", "eth0"}, "runink.ip"},
		"no key of ours":         {[]string{"--token", "rt_x", "quiet"}, "no key of ours"},
		"the name beside it":     {[]string{"--token", "rt_x", "--node", "n7"}, "--cluster, --role, --ca, --join: missing"},
	} {
		t.Run(name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "cfg.img")
			err := writeMedia(t.Context(), "config", append([]string{"-out", out}, tt.args...))
			if tt.says != "" {
				if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("got %v, want invalid: %s", err, tt.says)
				}
				if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("something was written: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			text, err := texts["config"].read(t.Context(), out)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Fields(string(text)); len(got) != (len(tt.args)+1)/2 {
				t.Errorf("on the disk: %q", got)
			}
			wants, err := nodecfg.WantsConfigDisk(nodecfg.Source{Name: nodecfg.ConfigDisk, Text: string(text)})
			if err != nil || !wants {
				t.Errorf("it says who the node is: %v, %v", wants, err)
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
			if err := complete("iso", words); err != nil {
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
