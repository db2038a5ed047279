package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
)

// TestBadFlagsChangeNothing types wrong command lines over the folder of an earlier cluster,
// and over none. Each names its flag and what to do, and leaves things as they are.
func TestBadFlagsChangeNothing(t *testing.T) {
	root := t.TempDir()
	t.Chdir(root)
	for _, f := range []string{"runink", "flights.dsl", "image/vmlinuz", "image/initramfs.cpio.zst", "half/vmlinuz", "earlier/" + logName} {
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(f), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before := tree(t, root)
	good := []string{"-bin", "runink", "-image", "image", "-example", "flights.dsl"}
	for _, tc := range []struct {
		name string
		args []string
		want []string
	}{
		{"too many nodes", []string{"up", "-nodes", "12"}, []string{"up: -nodes: 12 nodes", "1 to 9", "NODES=9"}},
		{"no nodes", []string{"up", "-nodes", "0"}, []string{"-nodes: 0 nodes", "NODES=1"}},
		{"less than none", []string{"up", "-nodes", "-1"}, []string{"-nodes: -1 nodes"}},
		{"no number", []string{"up", "-nodes", "x"}, []string{`"x"`, "-nodes", "qemu-cluster up -help"}},
		{"no time", []string{"up", "-timeout", "0s"}, []string{"-timeout: 0s", "15m"}},
		{"no binary", []string{"up", "-bin", "nowhere"}, []string{"-bin: ", "nowhere", "make build"}},
		{"binary is a folder", []string{"up", "-bin", "image"}, []string{"-bin: ", "is no file", "make build"}},
		{"no image", []string{"up", "-image", "nowhere"}, []string{"-image: ", "vmlinuz", "make image"}},
		{"half an image", []string{"up", "-image", "half"}, []string{"-image: ", "initramfs.cpio.zst", "make image"}},
		{"no pipeline", []string{"up", "-example", "nowhere.dsl"}, []string{"-example: ", "nowhere.dsl", "-example="}},
		{"unknown flag", []string{"up", "-node", "3"}, []string{"-node", "qemu-cluster up -help"}},
		{"an argument", []string{"up", "3"}, []string{`"3": it takes flags only`}},
		{"an argument of down", []string{"down", "now"}, []string{`"now": it takes flags only`}},
		{"unknown command", []string{"upp"}, []string{"upp", "qemu-cluster up, or"}},
		{"nothing", nil, []string{"qemu-cluster up, or"}},
	} {
		for _, dir := range []string{"earlier", "none"} {
			t.Run(tc.name+", folder "+dir, func(t *testing.T) {
				args := tc.args
				if len(args) > 0 && args[0] == "up" { // the wrong one is last, and wins
					args = append(append([]string{"up", "-dir", dir}, good...), tc.args[1:]...)
				}
				err := run(t.Context(), args)
				if !errors.Is(err, errs.Invalid) {
					t.Fatalf("it says %v", err)
				}
				said := err.Error() + "\n" + errs.HintOf(err)
				for _, w := range tc.want {
					if !strings.Contains(said, w) {
						t.Errorf("%q is not in\n%s", w, said)
					}
				}
				if after := tree(t, root); after != before {
					t.Errorf("there was\n%sand is\n%s", before, after)
				}
			})
		}
	}
	o, err := parse("up", good, &bytes.Buffer{})
	if err != nil || o.check() != nil {
		t.Errorf("what is right is refused: %v, %v", err, o.check())
	}
	if o, err = parse("up", append(good, "-example="), &bytes.Buffer{}); err != nil || o.check() != nil {
		t.Errorf("without an example: %v, %v", err, o.check())
	}
	var help bytes.Buffer
	if _, err := parse("up", []string{"-help"}, &help); !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "-nodes") {
		t.Errorf("%v, help:\n%s", err, help.String())
	}
}

func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		b.WriteString(path + "\n")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
