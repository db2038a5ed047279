// Image builds what a machine boots, into build/image: vmlinuz, initramfs.cpio.zst,
// manifest.json and SHA256SUMS. It prints the parts by size.
//
//	go run ./tools/image                    # builds ./cmd/runink and packs it
//	go run ./tools/image -level 19          # a release
//	go run ./tools/image -binary bin/runink # packs a binary that is there
//	go run ./tools/image -kind metal -out build/metal
//
// With a word before the flags it writes a medium to boot from, or to configure with:
//
//	go run ./tools/image iso                # keys are edited in at boot, or come from elsewhere
//	go run ./tools/image iso $(bin/runink token create -q --node n7 --role worker)
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/runink/runink/image"
	"github.com/runink/runink/internal/errs"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 {
		if _, ok := media[os.Args[1]]; ok {
			end(writeMedia(ctx, os.Args[1], os.Args[2:]))
			return
		}
	}
	o, fs := flags(flag.ExitOnError)
	end(fs.Parse(os.Args[1:]))
	if fs.NArg() > 0 {
		end(errs.E(errs.Invalid, "read command", "there is no command %q", fs.Arg(0)).
			WithHint("%s; or flags only, for kernel and initramfs. Each has -help", strings.Join(slices.Sorted(maps.Keys(media)), ", ")))
	}
	if o.level < 1 || o.level > 22 || o.kind != string(image.Cloud) && o.kind != string(image.Metal) {
		fs.Usage()
		os.Exit(2)
	}
	end(build(ctx, *o))
}

// options say what is built when there is no command.
type options struct {
	binary, engine, pkg, out, cache, kind string
	level                                 int
}

// flags are those without a command.
func flags(wrong flag.ErrorHandling) (*options, *flag.FlagSet) {
	o, fs := &options{}, flag.NewFlagSet("runink-image", wrong)
	fs.StringVar(&o.binary, "binary", "", "static `file` that becomes PID 1 (default: build -package)")
	fs.StringVar(&o.engine, "engine", "", "static `file` that becomes the stock engine; file-net beside it becomes the one with edges between nodes")
	fs.StringVar(&o.pkg, "package", "./cmd/runink", "main `package` that becomes PID 1")
	fs.StringVar(&o.out, "out", "build/image", "`folder` of the results")
	fs.StringVar(&o.cache, "cache", "build/cache", "`folder` of downloads")
	fs.StringVar(&o.kind, "kind", string(image.Cloud), "`cloud` for virtual machines, metal for any machine and for boot media")
	fs.IntVar(&o.level, "level", 10, "zstd level, 1 to 22; use 19 for a release")
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), usage())
		fs.PrintDefaults()
	}
	return o, fs
}

// usage says what there is to type, with an example of each.
func usage() string {
	var b strings.Builder
	b.WriteString("usage: runink-image [flags]\n       runink-image COMMAND [flags] [runink.KEY=VALUE…]\n\n" +
		"Without a command it builds kernel, initramfs and manifest.\n\n" +
		"  runink-image -level 19\n  runink-image -kind metal -out build/metal\n\nCommands, each with -help:\n\n")
	for _, name := range slices.Sorted(maps.Keys(media)) {
		fmt.Fprintf(&b, "%-8s writes %s\n  runink-image %s\n\n", name, media[name].what, media[name].example)
	}
	b.WriteString("Flags without a command:\n\n")
	return b.String()
}

// end reports an error and exits, with status 2 if what was typed is wrong; it returns if
// there is none.
func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "runink-image:", err)
		if hint := errs.HintOf(err); hint != "" {
			fmt.Fprintln(os.Stderr, "  hint:", hint)
		}
		if errors.Is(err, errs.Invalid) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

func build(ctx context.Context, o options) error {
	lock, err := map[image.Kind]func() (image.Lock, error){image.Cloud: image.KernelLock, image.Metal: image.MetalLock}[image.Kind(o.kind)]()
	if err != nil {
		return err
	}
	if o.binary == "" {
		tmp, err := os.MkdirTemp("", "image-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		o.binary = filepath.Join(tmp, "init")
		if err := image.GoBuild(ctx, ".", o.pkg, o.binary); err != nil {
			return err
		}
	}
	at, err := buildTime(ctx)
	if err != nil {
		return err
	}
	res, err := image.Build(ctx, image.Options{
		Binary: o.binary, Engine: o.engine, Out: o.out, Cache: o.cache, Level: o.level, BuildTime: at, Lock: lock, Weigh: true,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	for _, p := range res.Parts {
		fmt.Printf("%-24s %12d bytes  %s\n", p.Name, p.Bytes, p.Note)
	}
	fmt.Printf("image                    %s\n", res.Manifest.Version)
	if !res.Manifest.Kernel.Locked {
		fmt.Printf("UNLOCKED                 kernel %s %s is not the one in the lock file in image/\n", res.Manifest.Kernel.Package, res.Manifest.Kernel.Version)
	}
	if x := res.Manifest.IPXE; x != nil && !x.Locked {
		fmt.Printf("UNLOCKED                 %s %s is not the one in the lock file in image/\n", x.Package, x.Version)
	}
	if o.engine == "" {
		fmt.Printf("NO ENGINE                nodes of this image run no bundle of built-in steps only: pass -engine bin/runink-engine\n")
	}
	fmt.Printf("written to               %s\n", o.out)
	return nil
}

// buildTime is SOURCE_DATE_EPOCH, else the time of the commit, else unknown (no
// repository: an unpacked archive of the sources).
func buildTime(ctx context.Context) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		out, err := exec.CommandContext(ctx, "git", "log", "-1", "--format=%ct").Output()
		if err != nil {
			return time.Time{}, nil
		}
		text = string(bytes.TrimSpace(out))
	}
	sec, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return time.Time{}, errs.E(errs.Invalid, "read SOURCE_DATE_EPOCH", "%w", err).WithField("SOURCE_DATE_EPOCH")
	}
	return time.Unix(sec, 0), nil
}
