package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/runink/runink/internal/errs"
)

// wantedModules are what every node loads, in the order it loads them, each with its
// parameters; what they depend on comes along. A name that the kernel has built in is fine,
// one it does not know is not.
var wantedModules = []string{
	// Slices: their network and their root.
	"veth", "dummy", "overlay", "wireguard",
	// Network policy.
	"nf_tables", "nf_conntrack", "nf_conntrack_netlink", "nft_ct", "nft_nat", "nft_masq", "nft_chain_nat",
	"nft_reject", "nft_reject_inet", "nft_fib_inet", "nft_limit", "nft_log", "nf_log_syslog",
	"nft_objref", "nft_quota", "nft_socket",
	// The node's own network. Without the parameter, bonding makes an interface nobody asked for.
	"8021q", "bonding max_bonds=0",
	// The power button.
	"button", "evdev",
	// File systems of state and config disks. The kernel would ask a program for the
	// character sets of FAT, and there is none.
	"ext4", "vfat", "isofs", "nls_cp437", "nls_ascii",
}

// cloudModules are loaded before them in the cloud image, whatever the machine has: its
// buses, disks, network card, console channel, random numbers, host channel.
var cloudModules = []string{
	"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng",
	"vmw_vsock_virtio_transport", "qemu_fw_cfg", "softdog",
}

// metalExtra are modules of the metal image that no device asks for: PID 1 loads softdog
// where no other watchdog is, and the rest serves media.
var metalExtra = []string{"softdog", "sd_mod", "sr_mod", "udf", "9p"}

// Module is one kernel module and where it lies under lib/modules/<release>.
type Module struct {
	Name    string   // with underscores
	Path    string   // "kernel/…/x.ko"
	Depends []string // names it needs loaded first, from its .modinfo
	Soft    []string // names or aliases it asks to have loaded first, where they exist
	Aliases []string // devices it drives and other names it goes by
	// Firmware are the files it may ask the kernel for, below lib/firmware: those of all
	// devices it drives, so one device asks for few of them or none.
	Firmware []string
	Content  []byte
}

// Modules returns the modules a node needs with all they depend on, sorted by path, and
// the names to load with their parameters, in order (less what is built in). It checks that
// each one was built for the kernel's release. In a metal image there are also the modules
// that PID 1 loads when it finds the device.
func (k *Kernel) Modules() ([]Module, []string, error) {
	const op = "choose kernel modules"
	files, err := moduleFiles(k.ModDir)
	if err != nil {
		return nil, nil, errs.Wrap(op, err)
	}
	builtin, err := k.builtin()
	if err != nil {
		return nil, nil, errs.Wrap(op, err)
	}
	crypto, err := k.cryptoAliases(files)
	if err != nil {
		return nil, nil, errs.Wrap(op, err)
	}
	chosen := map[string]Module{}
	var load []string
	var add func(name, because string) error
	add = func(name, because string) error {
		if _, ok := chosen[name]; ok || builtin[name] {
			return nil
		}
		file, ok := files[name]
		if !ok {
			return errs.E(errs.NotFound, op, "kernel %s has no module %s, needed by %s", k.Release, name, because)
		}
		m, err := readModule(k.ModDir, file, k.Release)
		if err != nil {
			return err
		}
		for _, soft := range m.Soft {
			if real, ok := crypto[soft]; ok {
				soft = real
			}
			soft = strings.ReplaceAll(soft, "-", "_")
			if _, ok := files[soft]; ok && !builtin[soft] && !slices.Contains(m.Depends, soft) {
				m.Depends = append(m.Depends, soft)
			}
		}
		chosen[name] = m
		for _, dep := range m.Depends {
			if err := add(dep, name); err != nil {
				return err
			}
		}
		return nil
	}
	wanted := wantedModules
	if k.Kind() == Cloud {
		wanted = slices.Concat(cloudModules, wantedModules)
	}
	for _, line := range wanted {
		name, _, _ := strings.Cut(line, " ")
		if err := add(name, "the image"); err != nil {
			return nil, nil, err
		}
		if !builtin[name] {
			load = append(load, line)
		}
	}
	if k.Kind() == Metal {
		for _, name := range slices.Concat(metalExtra, slices.Sorted(maps.Keys(metalModules(files)))) {
			if err := add(name, "the metal image"); err != nil {
				return nil, nil, err
			}
		}
	}
	list := slices.SortedFunc(maps.Values(chosen), func(a, b Module) int { return strings.Compare(a.Path, b.Path) })
	return list, load, nil
}

func moduleFiles(dir string) (map[string]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, ok := strings.CutSuffix(d.Name(), ".ko"); ok && d.Type().IsRegular() {
			rel, err := filepath.Rel(dir, p)
			if err != nil {
				return err
			}
			files[strings.ReplaceAll(name, "-", "_")] = rel
		}
		return nil
	})
	return files, err
}

// builtin reads modules.builtin: what would be a module, but is in the kernel.
func (k *Kernel) builtin() (map[string]bool, error) {
	data, err := os.ReadFile(filepath.Join(k.ModDir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	set := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		name := strings.TrimSuffix(filepath.Base(strings.TrimSpace(line)), ".ko")
		set[strings.ReplaceAll(name, "-", "_")] = true
	}
	return set, nil
}

func readModule(dir, rel, release string) (Module, error) {
	const op = "read kernel module"
	data, err := os.ReadFile(filepath.Join(dir, rel))
	if err != nil {
		return Module{}, err
	}
	info, err := modinfo(data)
	if err != nil {
		return Module{}, errs.E(errs.Corrupt, op, "%w", err).WithField(rel)
	}
	m := Module{Path: rel, Content: data, Name: strings.Join(info["name"], "")}
	magic := strings.Fields(strings.Join(info["vermagic"], " "))
	if len(magic) == 0 || magic[0] != release {
		return Module{}, errs.E(errs.Corrupt, op, "built for %q, the kernel is %s", strings.Join(magic, " "), release).WithField(rel)
	}
	for _, dep := range strings.Split(strings.Join(info["depends"], ","), ",") {
		if dep != "" {
			m.Depends = append(m.Depends, strings.ReplaceAll(dep, "-", "_"))
		}
	}
	m.Aliases, m.Firmware = info["alias"], info["firmware"]
	for _, line := range info["softdep"] { // softdep=pre: a b post: c
		before := false
		for _, w := range strings.Fields(line) {
			if strings.HasSuffix(w, ":") {
				before = w == "pre:"
			} else if before {
				m.Soft = append(m.Soft, w)
			}
		}
	}
	return m, nil
}

// modinfo reads the NUL-separated key=value pairs of a module's .modinfo section.
func modinfo(ko []byte) (map[string][]string, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	info := map[string][]string{}
	for _, pair := range strings.Split(string(data), "\x00") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			info[key] = append(info[key], value)
		}
	}
	return info, nil
}

func modulesByName(mods []Module) map[string]Module {
	byName := map[string]Module{}
	for _, m := range mods {
		byName[m.Name] = m
	}
	return byName
}

// needs lists all modules that m needs, those that must be loaded first first.
func needs(m Module, byName map[string]Module) []Module {
	var order []Module
	seen := map[string]bool{m.Name: true}
	var visit func(m Module)
	visit = func(m Module) {
		for _, dep := range m.Depends {
			if d, ok := byName[dep]; ok && !seen[dep] {
				seen[dep] = true
				visit(d)
				order = append(order, d)
			}
		}
	}
	visit(m)
	return order
}

// writeModulesDep writes modules.dep as depmod(8) does: the module, then everything it
// needs, so that loading from the end of the line works. There is no blank after a colon
// that nothing follows: u-root's kmodule takes one for the name of a module.
func writeModulesDep(w io.Writer, mods []Module) error {
	byName := modulesByName(mods)
	for _, m := range mods {
		var order []string
		for _, d := range needs(m, byName) {
			order = append(order, d.Path)
		}
		slices.Reverse(order) // what must be loaded first comes last
		line := m.Path + ":"
		if len(order) > 0 {
			line += " " + strings.Join(order, " ")
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// addModules puts the modules and their indexes under lib/modules/<release>. The file
// modules.load lists what PID 1 loads, one name a line with its parameters, in order;
// modules.alias, in a metal image, what it loads for a device that is there, and
// modules.firmware what such a driver may ask for in vain.
func (t *Tree) addModules(k *Kernel, mods []Module, load []string) error {
	root := "lib/modules/" + k.Release + "/"
	for _, m := range mods {
		if err := t.File(root+m.Path, 0o644, m.Content); err != nil {
			return err
		}
	}
	var dep bytes.Buffer
	if err := writeModulesDep(&dep, mods); err != nil {
		return err
	}
	builtin, err := os.ReadFile(filepath.Join(k.ModDir, "modules.builtin"))
	if err != nil {
		return err
	}
	var devices error
	if k.Kind() == Metal {
		var alias, firmware bytes.Buffer
		devices = errors.Join(writeModulesAlias(&alias, mods), writeModulesFirmware(&firmware, mods))
		devices = errors.Join(devices, t.File(root+"modules.alias", 0o644, alias.Bytes()), t.File(root+"modules.firmware", 0o644, firmware.Bytes()))
	}
	return errors.Join(
		devices,
		t.File(root+"modules.dep", 0o644, dep.Bytes()),
		t.File(root+"modules.builtin", 0o644, builtin),
		t.File(root+"modules.load", 0o644, []byte(strings.Join(load, "\n")+"\n")),
	)
}
