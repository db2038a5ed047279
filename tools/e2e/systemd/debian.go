package systemd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/runink/runink/image"
)

// suite and packages are the guest. What a user would have beside them is not what is tested.
const suite = "bookworm"

func packages() []string {
	return []string{"systemd-sysv", "udev", "kmod", "nftables"}
}

// Port is the virtio-serial port on which the guest takes commands.
const Port = "guest"

// files of the guest beside Debian's.
func files() map[string]string {
	return map[string]string{
		"etc/hostname": "debian\n",
		// Not the first boot of a new machine, which would take longer.
		"etc/machine-id":          "5f0c2e0ab0f14a3c9d7c3f0e4b9a6d11\n",
		"etc/fstab":               "LABEL=payload /usr/local ext4 ro 0 0\nLABEL=state /var/lib/runink ext4 defaults 0 0\n",
		"etc/modprobe.d/kvm.conf": "blacklist kvm_amd\nblacklist kvm_intel\n",
		"etc/systemd/network/10-all.network": `[Match]
Type=ether
[Network]
DHCP=ipv4
[DHCPv4]
UseNTP=no
`,
		// A failure is read on the console, like an appliance's.
		"etc/systemd/journald.conf.d/console.conf": "[Journal]\nStorage=volatile\nForwardToConsole=yes\nTTYPath=/dev/ttyS0\nMaxLevelConsole=info\n",
		"etc/systemd/system/guest.service": `[Unit]
Description=Takes the test's commands
[Service]
ExecStart=/bin/bash /usr/local/lib/guest
Restart=always
`,
	}
}

// script is what the guest's service runs, from the disk of what is tested. One line is a
// command, its number and its text in base64; one line is the answer.
const script = `modprobe virtio_console
until [ -e /dev/virtio-ports/` + Port + ` ]; do sleep 0.1; done
exec 3<>/dev/virtio-ports/` + Port + `
echo "boot $(cat /proc/sys/kernel/random/boot_id)" >&3
while read -r -u 3 id text; do
  out=$(bash -c "$(printf %s "$text" | base64 -d)" 2>&1 3>&- </dev/null)
  echo "$id $? $(printf %s "$out" | base64 -w0)" >&3
done
`

// links of the guest: what starts, and what is masked because nothing here needs it.
func links() map[string]string {
	l := map[string]string{
		"etc/systemd/system/default.target":                                   "/lib/systemd/system/multi-user.target",
		"etc/systemd/system/multi-user.target.wants/guest.service":            "/etc/systemd/system/guest.service",
		"etc/systemd/system/multi-user.target.wants/systemd-networkd.service": "/lib/systemd/system/systemd-networkd.service",
		"etc/systemd/system/sockets.target.wants/systemd-networkd.socket":     "/lib/systemd/system/systemd-networkd.socket",
	}
	for _, u := range []string{
		"getty.target", "systemd-tmpfiles-clean.timer", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
		"e2scrub_reap.service", "fstrim.timer", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
		"systemd-pstore.service", "modprobe@drm.service", "modprobe@fuse.service", "modprobe@configfs.service", "modprobe@efi_pstore.service",
		"modprobe@dm_mod.service", "modprobe@loop.service", "systemd-random-seed.service", "systemd-sysusers.service",
		"systemd-network-generator.service", "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "systemd-pcrmachine.service", "kmod-static-nodes.service",
		"systemd-tmpfiles-setup-dev.service", "systemd-journal-flush.service", "systemd-modules-load.service", "systemd-firstboot.service",
		"sys-kernel-debug.mount", "sys-kernel-tracing.mount", "dev-hugepages.mount", "dev-mqueue.mount",
		"systemd-binfmt.service", "systemd-hwdb-update.service", "systemd-user-sessions.service", "systemd-logind.service",
	} {
		l["etc/systemd/system/"+u] = "/dev/null"
	}
	return l
}

// Guest is what a Debian machine boots from.
type Guest struct {
	Kernel string // Debian's, as its package has it
	Initrd string // with stage0
	Root   string // an ext4 file system; copy it before use
}

// Cmdline is the guest's kernel command line.
const Cmdline = "rdinit=/stage0 panic=-1 loglevel=4 systemd.show_status=false net.ifnames=0"

// Build makes the guest below cache, or finds it there. It wants root, as debootstrap does, and
// its first time takes half a minute and the packages' 50 MB.
func Build(ctx context.Context, repository, cache string, log *slog.Logger) (*Guest, error) {
	lock, err := image.KernelLock()
	if err != nil {
		return nil, err
	}
	k, err := image.FetchKernel(ctx, lock, cache, log)
	if err != nil {
		return nil, err
	}
	g := &Guest{Kernel: k.Vmlinuz, Initrd: filepath.Join(cache, "debian-stage0.cpio"), Root: filepath.Join(cache, "debian-"+key(k)+".ext4")}
	if err := stage0(ctx, repository, k, g.Initrd); err != nil {
		return nil, fmt.Errorf("stage0: %w", err)
	}
	if _, err := os.Stat(g.Root); err == nil {
		return g, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	tmp, err := os.MkdirTemp(cache, "debian-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	root := filepath.Join(tmp, "root")
	steps := [][]string{
		{"debootstrap", "--variant=minbase", "--include=" + strings.Join(packages(), ","), suite, root, mirror(ctx)},
		{"cp", "-a", k.ModDir, filepath.Join(root, "usr/lib/modules")},
		{"chroot", root, "/sbin/depmod", k.Release},
	}
	if err := os.MkdirAll(filepath.Join(root, "usr/lib/modules"), 0o755); err != nil {
		return nil, err
	}
	for _, s := range steps {
		if err := run(ctx, s...); err != nil {
			return nil, err
		}
	}
	if err := furnish(root); err != nil {
		return nil, err
	}
	out := filepath.Join(tmp, "image")
	if err := MakeExt4(ctx, out, "debian", root, 1<<30); err != nil {
		return nil, err
	}
	return g, os.Rename(out, g.Root)
}

// key names everything that the root file system is made of.
func key(k *image.Kernel) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "1 %s %s %q %q %q", suite, k.SHA256, packages(), files(), links()))
	return hex.EncodeToString(sum[:8])
}

// furnish adds what is ours, and removes what nobody reads.
func furnish(root string) error {
	for _, d := range []string{"usr/local", "var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"} {
		if err := os.RemoveAll(filepath.Join(root, d)); err != nil {
			return err
		}
	}
	for _, d := range []string{"usr/local", "var/lib/runink"} { // mount points
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for name, text := range files() {
		f := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, to := range links() {
		f := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			return err
		}
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Symlink(to, f); err != nil {
			return err
		}
	}
	return nil
}

// stage0 packs the initramfs.
func stage0(ctx context.Context, repository string, k *image.Kernel, out string) error {
	tmp, err := os.MkdirTemp("", "stage0-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	bin := filepath.Join(tmp, "stage0")
	if err := image.GoBuild(ctx, repository, "./tools/e2e/systemd/stage0", bin); err != nil {
		return err
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		return err
	}
	base, err := image.BaseInitramfs(k, 1)
	if err != nil {
		return err
	}
	over := &image.Tree{}
	if err := over.File("stage0", 0o755, program); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := image.Append(&b, base, over); err != nil {
		return err
	}
	return os.WriteFile(out, b.Bytes(), 0o644)
}

// MakeExt4 makes a file system of size bytes, sparse, labelled label, with what is in from.
func MakeExt4(ctx context.Context, out, label, from string, size int64) error {
	return run(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-E", "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1", "-L", label, "-d", from, out, fmt.Sprintf("%dK", size>>10))
}

// mirror is where this machine has its own packages from.
func mirror(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Codename: "+suite, "Component: main").Output()
	if first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n"); err == nil && first != "" {
		return first
	}
	return "http://deb.debian.org/debian"
}

func run(ctx context.Context, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, tail(out, 2000))
	}
	return nil
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }
