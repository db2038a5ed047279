package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/runink/runink/internal/errs"
)

type options struct {
	nodes      int
	dir        string
	bin, image string
	example    string
	timeout    time.Duration
}

// maxNodes is how many machines the harness has names and addresses for.
const maxNodes = 9

// parse reads the flags of a command and judges them. It changes nothing. Wrong ones are
// errs.Invalid with their flag as the field; flag.ErrHelp was answered on out.
func parse(command string, args []string, out io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("qemu-cluster "+command, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // wrong flags are told once, by main
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "usage: qemu-cluster %s [flags]\n\n  qemu-cluster up -nodes 5 -example=   # machines only\n"+
			"  qemu-cluster down                    # end them\n\n", command)
		fs.PrintDefaults()
	}
	fs.IntVar(&o.nodes, "nodes", 3, fmt.Sprintf("number of nodes, 1 to %d; beyond three they are workers", maxNodes))
	fs.StringVar(&o.dir, "dir", "build/cluster", "`folder` for disks, consoles and the operator's files")
	fs.StringVar(&o.bin, "bin", "bin/runink", "the runink `binary`")
	fs.StringVar(&o.image, "image", "build/image", "`folder` of the image")
	fs.StringVar(&o.example, "example", "examples/flights/flights.dsl", "`pipeline` to run; empty: none")
	fs.DurationVar(&o.timeout, "timeout", 15*time.Minute, "give up after so long")
	err := fs.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fs.SetOutput(out)
		fs.Usage()
		return o, err
	case err != nil:
		return o, errs.E(errs.Invalid, command, "%w", err).WithHint("see `qemu-cluster %s -help`", command)
	case fs.NArg() > 0:
		return o, errs.E(errs.Invalid, command, "%q: it takes flags only", fs.Arg(0)).WithHint("see `qemu-cluster %s -help`", command)
	}
	for _, p := range []*string{&o.dir, &o.bin, &o.image} {
		if *p, err = filepath.Abs(*p); err != nil {
			return o, err
		}
	}
	return o, nil
}

// check judges what up needs, before it takes the folder of an earlier cluster away.
func (o options) check() error {
	const op = "up"
	if o.nodes < 1 || o.nodes > maxNodes {
		return errs.E(errs.Invalid, op, "%d nodes are not possible", o.nodes).WithField("-nodes").
			WithHint("ask for 1 to %d (make qemu-cluster NODES=%d)", maxNodes, min(max(o.nodes, 1), maxNodes))
	}
	if o.timeout <= 0 {
		return errs.E(errs.Invalid, op, "%s is no time to wait", o.timeout).WithField("-timeout").WithHint("write -timeout 15m")
	}
	for _, f := range []struct{ flag, path, hint string }{
		{"-bin", o.bin, "make build writes bin/runink"},
		{"-image", filepath.Join(o.image, "vmlinuz"), "make image writes build/image"},
		{"-image", filepath.Join(o.image, "initramfs.cpio.zst"), "make image writes build/image"},
		{"-example", o.example, "name a .dsl file; -example= runs none"},
	} {
		if f.path == "" && f.flag == "-example" {
			continue
		}
		info, err := os.Stat(f.path)
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is no file", f.path)
		}
		if err != nil {
			return errs.E(errs.Invalid, op, "%w", err).WithField(f.flag).WithHint("%s", f.hint)
		}
	}
	return nil
}
