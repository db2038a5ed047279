//go:build cluster

package media

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runink/runink/internal/nodecfg"
)

// The commands of docs/boot.md that make media, typed as they stand there by somebody who has
// built, and who is an operator of a cluster. Where the page has an ellipsis, or would write
// 64 GiB, they are completed. Each writes its file, readable by nobody else if a token is in
// it, and with the node's name where GRUB or the node reads it.
func TestTypedMedia(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c)
	dir := t.TempDir()
	for from, to := range map[string]string{"bin": "bin", "build/metal": "build/metal", "Makefile": "Makefile"} {
		target, err := filepath.Abs(filepath.Join(root, from))
		if err != nil {
			t.Fatal(err)
		}
		link := filepath.Join(dir, to)
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "boot.md"))
	if err != nil {
		t.Fatal(err)
	}
	// Any words of a worker do where the page shows those of another cluster.
	pin := "sha256:" + strings.Repeat("a", 64)
	for _, tt := range []struct {
		command, out string
		typed        string // "": the command itself
		says         string // "": the words of nobody
	}{
		{command: "make iso", out: "build/runink.iso"},
		{command: "make disk", out: "build/runink-disk.img"},
		{
			command: `make iso WORDS="$(runink token create -q --node n7 --role worker)"`, out: "build/runink.iso",
			says: "runink.node=n7",
		},
		{
			command: "bin/runink-image iso --node n7 --cluster c1 --role worker --ca sha256:… --join 10.0.0.1:7460 --token …", out: "build/runink.iso",
			typed: "bin/runink-image iso --node n7 --cluster c1 --role worker --ca " + pin + " --join 10.0.0.1:7460 --token t0ken",
			says:  "runink.node=n7 runink.cluster=c1 runink.role=worker runink.ca=" + pin + " runink.join=10.0.0.1:7460 runink.token=t0ken",
		},
		{
			command: "bin/runink-image iso -out build/n7.iso $(runink install n7 --disk /dev/sda -q)", out: "build/n7.iso",
			says: "runink.install=path:/dev/sda",
		},
		{command: "bin/runink-image archive", out: "build/metal/install.cpio"},
		{
			command: "bin/runink-image config", out: "build/runink-cfg.img",
			typed: "bin/runink-image config $(runink token create -q --node n8 --role worker)",
			says:  "runink.node=n8",
		},
	} {
		t.Run(tt.command, func(t *testing.T) {
			if !strings.Contains(strings.Join(strings.Fields(string(page)), " "), tt.command) {
				t.Fatal("the page does not say it")
			}
			typed := tt.typed
			if typed == "" {
				typed = tt.command
			}
			out := filepath.Join(dir, tt.out)
			if err := os.RemoveAll(out); err != nil {
				t.Fatal(err)
			}
			// The image is there, and the programs are in use by other tests: neither is made again.
			script := fmt.Sprintf("set -eu; make() { command make -o metal \"$@\"; }; PATH=$PWD/bin:$PATH\n%s", typed)
			cmd := exec.CommandContext(ctx, "bash", "-c", script)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "RUNINK_CONFIG="+c.CLI.Config)
			if said, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, said)
			}
			f, err := os.Open(out)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			// What is read at boot stands in front; a state partition of GiB follows.
			medium, err := io.ReadAll(io.LimitReader(f, 256<<20))
			if err != nil {
				t.Fatal(err)
			}
			if tt.says == "" && bytes.Contains(medium, []byte(nodecfg.Prefix+"node=")) || !bytes.Contains(medium, []byte(tt.says)) {
				t.Errorf("it does not say %q", tt.says)
			}
			info, err := os.Stat(out)
			if err != nil {
				t.Fatal(err)
			}
			if tt.says != "" && info.Mode().Perm() != 0o600 {
				t.Errorf("a token is in it, and its mode is %v", info.Mode())
			}
		})
	}
}
