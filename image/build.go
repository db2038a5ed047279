package image

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/internal/nodecfg"
)

// The most that kernel and initramfs may weigh together, in bytes.
const (
	MaxCompressed = 40 << 20 // of the cloud image
	MaxMetal      = 56 << 20 // of the metal image
)

// Names of the files Build writes.
const (
	VmlinuzFile   = "vmlinuz"
	InitramfsFile = "initramfs.cpio.zst"
	ManifestFile  = "manifest.json"
	SumsFile      = "SHA256SUMS"
)

// EnginePath is where a node has the stock engine, which serves plans of built-in steps, and
// nodecfg.NetEngine of it the one that opens edges between nodes.
const EnginePath = "usr/lib/runink/runink-engine"

// Options of Build.
type Options struct {
	Binary    string    // path of the static binary that becomes /init
	Engine    string    // path of the stock engine, which becomes EnginePath, and its NetEngine beside it; "": none
	Out       string    // folder for the results, made if absent
	Cache     string    // folder for downloads, made if absent
	Level     int       // zstd level of the initramfs; 10 while developing, 19 for a release
	BuildTime time.Time // time of the commit; zero: unknown
	Lock      Lock      // the kernel, which decides the kind of image; see KernelLock, MetalLock
	Weigh     bool      // say in Parts what the modules of a metal image weigh, by folder: they are packed once more
	Log       *slog.Logger
}

// Part is a share of the image, for people.
type Part struct {
	Name  string
	Bytes int64 // as packed where Packed, else before compression
	Note  string
}

// Result of Build.
type Result struct {
	Manifest Manifest
	Parts    []Part // in order of the report
}

// Build writes vmlinuz, initramfs.cpio.zst, manifest.json and SHA256SUMS into o.Out. Each
// file is replaced atomically, SHA256SUMS last. Errors: Invalid for a binary that cannot
// be PID 1 or a kernel that lacks an option, Exhausted when the image is over
// its limit (MaxCompressed, MaxMetal), Corrupt for digests and releases that do not match.
func Build(ctx context.Context, o Options) (*Result, error) {
	k, err := FetchKernel(ctx, o.Lock, o.Cache, o.Log)
	if err != nil {
		return nil, err
	}
	if err := k.checkConfig(); err != nil {
		return nil, err
	}
	mods, load, err := k.Modules()
	if err != nil {
		return nil, err
	}
	binary, goVersion, err := readBinary(o.Binary)
	if err != nil {
		return nil, err
	}
	engines, err := readEngines(o.Engine)
	if err != nil {
		return nil, err
	}
	vmlinuz, err := os.ReadFile(k.Vmlinuz)
	if err != nil {
		return nil, err
	}

	var m Manifest
	m.Format, m.Go, m.ZstdLevel, m.Load = 1, goVersion, o.Level, load
	m.Kernel.Lock, m.Kernel.Release, m.Kernel.Locked = k.Lock, k.Release, k.Locked
	if !o.BuildTime.IsZero() {
		m.BuildTime = o.BuildTime.Unix()
	}
	m.Inputs = append(m.Inputs,
		File{Name: k.debName(), SHA256: k.SHA256, Bytes: k.DebBytes},
		fileOf("boot/vmlinuz-"+k.Release, vmlinuz), fileOf("init", binary))
	for _, e := range engines {
		m.Inputs = append(m.Inputs, fileOf(e.path, e.data))
	}
	more, err := m.addIPXE(ctx, k.Kind(), o)
	if err != nil {
		return nil, err
	}
	var modBytes int64
	for _, mod := range mods {
		modBytes += int64(len(mod.Content))
		m.Inputs = append(m.Inputs, fileOf("lib/modules/"+k.Release+"/"+mod.Path, mod.Content))
	}
	m.setVersion()

	tree, err := baseTree(m.Version, o.BuildTime)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(tree.addModules(k, mods, load), tree.File("init", 0o755, binary)); err != nil {
		return nil, err
	}
	for name, data := range more {
		if err := tree.File(name, 0o644, data); err != nil {
			return nil, err
		}
	}
	engineBytes := 0
	for _, e := range engines {
		if err := tree.File(e.path, 0o755, e.data); err != nil {
			return nil, err
		}
		engineBytes += len(e.data)
	}
	initramfs, err := tree.pack(o.Level)
	if err != nil {
		return nil, err
	}
	m.Outputs = []File{fileOf(InitramfsFile, initramfs), fileOf(VmlinuzFile, vmlinuz)}
	total := int64(len(initramfs) + len(vmlinuz))
	if limit := k.Kind().limit(); total > limit {
		return nil, errs.E(errs.Exhausted, "build image", "kernel and initramfs are %d bytes, the limit is %d", total, limit)
	}
	manifest, err := m.encode()
	if err != nil {
		return nil, err
	}
	if err := writeOutputs(o.Out, vmlinuz, initramfs, manifest); err != nil {
		return nil, errs.Wrap("write image", err)
	}
	parts := []Part{
		{"vmlinuz", int64(len(vmlinuz)), k.Release},
		{"initramfs", int64(len(initramfs)), fmt.Sprintf("zstd level %d", o.Level)},
		{"  /init", int64(len(binary)), "unpacked, " + goVersion},
		{"  engines", int64(engineBytes), "unpacked"},
		{"  modules", modBytes, fmt.Sprintf("unpacked, %d of them", len(mods))},
	}
	if len(more) > 0 {
		parts = append(parts, Part{"  iPXE", bytesOf(more), "unpacked"})
	}
	if o.Weigh && k.Kind() == Metal {
		byFolder, err := moduleParts(mods, o.Level)
		if err != nil {
			return nil, err
		}
		parts = append(parts, byFolder...)
	}
	parts = append(parts, Part{"total", total, fmt.Sprintf("of at most %d MiB", k.Kind().limit()>>20)})
	return &Result{Manifest: m, Parts: parts}, nil
}

// addIPXE returns what a metal image has of iPXE, by path, after writing it down.
func (m *Manifest) addIPXE(ctx context.Context, kind Kind, o Options) (map[string][]byte, error) {
	if kind != Metal {
		return nil, nil
	}
	lock, err := IPXELock()
	if err != nil {
		return nil, err
	}
	x, err := FetchIPXE(ctx, lock, o.Cache, o.Log)
	if err != nil {
		return nil, err
	}
	m.IPXE = &Package{Lock: x.Lock, Locked: x.Locked}
	m.Inputs = append(m.Inputs, x.deb)
	for _, name := range slices.Sorted(maps.Keys(x.files)) {
		m.Inputs = append(m.Inputs, fileOf(name, x.files[name]))
	}
	return x.files, nil
}

func bytesOf(files map[string][]byte) (n int64) {
	for _, data := range files {
		n += int64(len(data))
	}
	return n
}

func writeOutputs(dir string, vmlinuz, initramfs, manifest []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var sums bytes.Buffer
	for _, f := range []struct {
		name string
		data []byte
	}{{InitramfsFile, initramfs}, {ManifestFile, manifest}, {VmlinuzFile, vmlinuz}} {
		fmt.Fprintf(&sums, "%s  %s\n", digest(f.data), f.name)
		if err := fsx.WriteFileAtomic(filepath.Join(dir, f.name), f.data, 0o644); err != nil {
			return err
		}
	}
	return fsx.WriteFileAtomic(filepath.Join(dir, SumsFile), sums.Bytes(), 0o644)
}

type engineFile struct {
	path string // in the image
	data []byte
}

// readEngines reads the stock engines; none where file is "".
func readEngines(file string) ([]engineFile, error) {
	if file == "" {
		return nil, nil
	}
	engines := []engineFile{{path: EnginePath}, {path: nodecfg.NetEngine(EnginePath)}}
	for i, f := range []string{file, nodecfg.NetEngine(file)} {
		var err error
		if engines[i].data, _, err = readBinary(f); err != nil {
			return nil, err
		}
	}
	return engines, nil
}

// readBinary insists on what the kernel can start with nothing else around: a static ELF
// file for this machine, made by Go.
func readBinary(file string) ([]byte, string, error) {
	const op = "read the binary for PID 1"
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, "", errs.E(errs.NotFound, op, "%w", err).WithHint("build it first: make build")
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, "", errs.E(errs.Invalid, op, "%s: %w", filepath.Base(file), err)
	}
	if f.Machine != elf.EM_X86_64 {
		return nil, "", errs.E(errs.Invalid, op, "%s is for %s, want amd64", filepath.Base(file), f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, "", errs.E(errs.Invalid, op, "%s needs a dynamic linker", filepath.Base(file)).WithHint("build with CGO_ENABLED=0")
		}
	}
	info, err := buildinfo.Read(bytes.NewReader(data))
	if err != nil {
		return nil, "", errs.E(errs.Invalid, op, "%s: %w", filepath.Base(file), err)
	}
	return data, info.GoVersion, nil
}
