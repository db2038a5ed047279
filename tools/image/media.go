package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/runink/runink/image"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// media are the subcommands that write something to boot from, or to configure with.
var media = map[string]struct {
	what, out, example string
	write              func(context.Context, image.MediaOptions) error
}{
	"iso":     {"a hybrid ISO: boots as CD and as disk, by BIOS and by UEFI", "build/runink.iso", "iso $(runink token create -q --node n7 --role worker)", image.BuildISO},
	"disk":    {"the image of a whole disk: boots by BIOS and by UEFI, with a partition for the node's state", "build/runink-disk.img", "disk -state-size 65536", image.BuildDisk},
	"archive": {"what a machine that boots over the network installs from: an archive to load behind the initramfs of the same build, so it is made again with every build", "build/metal/install.cpio", "archive", image.BuildInstallArchive},
	"config":  {"a config disk, for a machine whose command line does not say who it is", "build/runink-cfg.img", "config $(runink token create -q --node n7 --role worker)", writeConfig},
}

func writeConfig(ctx context.Context, o image.MediaOptions) error {
	if len(o.Words) == 0 {
		return errs.E(errs.Invalid, "write config disk", "there is nothing to write").WithHint("paste what `runink token create -q` printed")
	}
	return image.BuildConfigDisk(ctx, o.Out, o.Words)
}

// writeMedia is one subcommand: flags, then runink.* words as `runink token create -q` and
// `runink cluster init` print them. Each key is a flag too.
func writeMedia(ctx context.Context, name string, args []string) error {
	kind := media[name]
	o, fs := mediaFlags(name)
	fs.SetOutput(io.Discard) // what is wrong is told once, by end
	if err := parse(fs, args, &o.Words); err != nil {
		fs.SetOutput(os.Stderr)
		fs.Usage()
		if err == flag.ErrHelp {
			return nil
		}
		return errs.E(errs.Invalid, "read flags", "%w", err)
	}
	if err := complete(name, o.Words); err != nil {
		return err
	}
	if err := kind.write(ctx, *o); err != nil {
		return err
	}
	return describe(o.Out)
}

// mediaFlags are those of a subcommand.
func mediaFlags(name string) (*image.MediaOptions, *flag.FlagSet) {
	o, fs := &image.MediaOptions{}, flag.NewFlagSet(name, flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "usage: runink-image %s [flags] [runink.KEY=VALUE…]\n\nWrites %s.\n"+
			"  runink-image %[3]s\n  runink-image %[1]s --node n7 --cluster c1 --role worker --ca sha256:… --join 10.0.0.1:7460 --token …\n\n", name, media[name].what, media[name].example)
		fs.PrintDefaults()
	}
	fs.StringVar(&o.Image, "image", "build/metal", "`folder` of a metal image")
	fs.StringVar(&o.Out, "out", media[name].out, "`file` to write")
	if name == "disk" {
		fs.Func("state-size", "`MiB` of the state partition (default 2048)", func(v string) error {
			n, err := strconv.ParseInt(v, 10, 32)
			o.StateBytes = n << 20
			return err
		})
	}
	for _, key := range nodecfg.Keys() {
		fs.Func(strings.TrimPrefix(key, nodecfg.Prefix), "the node's "+key, func(v string) error {
			o.Words = append(o.Words, key+"="+v)
			return nil
		})
	}
	return o, fs
}

// parse reads flags and words in any order: words come from a command as often as not, and
// what is added to a line is added at its end. Several may be one argument: a shell variable,
// or a line in quotes.
func parse(fs *flag.FlagSet, args []string, words *[]string) error {
	for {
		if err := fs.Parse(args); err != nil {
			return err
		}
		args = fs.Args()
		if len(args) == 0 {
			return nil
		}
		*words, args = append(*words, strings.Fields(args[0])...), args[1:]
	}
}

// describe prints what was written, so that it can be compared after it was copied.
func describe(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n%12d bytes\nsha256:%s\n", file, n, hex.EncodeToString(sum.Sum(nil)))
	return nil
}
