package sandbox

import (
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// devices are the only ones a slice has.
var devices = [...]string{"null", "zero", "full", "random", "urandom"}

// filesystems makes the slice's root and moves into it. Everything is built on detached
// mounts (fsopen(2), open_tree(2)) and put in place at the end, because proc may be mounted
// only while the old /proc is still in sight, and because the new root then needs no folder
// of its own anywhere on the node.
func (b *builder) filesystems() {
	b.section = "file systems"
	b.do("umask", unix.SYS_UMASK, num(0o022))
	// Nothing done here may show up outside.
	b.do("make mounts private", unix.SYS_MOUNT, num(0), b.text("/"), num(0), num(unix.MS_REC|unix.MS_PRIVATE), num(0))
	root := b.newFS("tmpfs", "mode=0755", "size=64k", "nr_inodes=64")
	id := strconv.Itoa(b.user)
	tmp := b.newFS("tmpfs", "mode=0700", "uid="+id, "gid="+id,
		"size="+strconv.FormatInt(b.s.TmpBytes, 10), "nr_inodes="+strconv.FormatInt(b.s.TmpBytes/4096+64, 10))
	// subset=pid: no cmdline, kcore, keys, kmsg, sys, meminfo … at all. hidepid=invisible:
	// other users' processes do not show (in this pid namespace there should be none).
	procOpts := []string{"hidepid=invisible", "subset=pid"}
	if b.leave("proc") {
		procOpts = nil
	}
	proc := b.newFS("proc", procOpts...)
	type mount struct {
		fd    value
		to    string
		attrs uint64
	}
	const safe = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	mounts := []mount{
		{tmp, "tmp", safe | unix.MOUNT_ATTR_NOEXEC},
		{proc, "proc", safe | unix.MOUNT_ATTR_NOEXEC},
	}
	bundle := b.bundle
	if bundle == num(-1) {
		bundle = b.bind(b.s.Bundle, 0)
	}
	mounts = append(mounts, mount{bundle, "bundle", safe | unix.MOUNT_ATTR_RDONLY})
	for _, dir := range []string{"bundle", "dev", "proc", "tmp"} {
		b.mkdir(root, dir)
	}
	for _, d := range devices {
		fd := b.bind("/dev/"+d, 0)
		b.do("make /dev/"+d, unix.SYS_MKNODAT, root, b.text("dev/"+d), num(unix.S_IFREG|0o444), num(0))
		mounts = append(mounts, mount{fd, "dev/" + d, unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC})
	}
	b.do("make /dev/fd", unix.SYS_SYMLINKAT, b.text("/proc/self/fd"), root, b.text("dev/fd"))
	if len(b.s.Secrets) > 0 {
		b.mkdir(root, "secrets")
		mounts = append(mounts, mount{b.secrets(), "secrets", safe | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_RDONLY})
	}
	if b.leave("root") {
		b.mkdir(root, "host")
		mounts = append(mounts, mount{b.bind("/", unix.AT_RECURSIVE), "host", 0})
	}

	// The place matters not, only that it exists everywhere: pivot_root moves it to /.
	b.attach("the root", root, num(unix.AT_FDCWD), "/proc")
	for _, m := range mounts {
		if m.attrs != 0 {
			b.setAttr("flags of /"+m.to, m.fd, m.attrs)
		}
		b.attach("/"+m.to, m.fd, root, m.to)
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one and
	// is taken off from there.
	b.do("enter the root", unix.SYS_FCHDIR, root)
	b.do("pivot_root (is / still the initramfs?)", unix.SYS_PIVOT_ROOT, b.text("."), b.text("."))
	b.do("leave the old root", unix.SYS_UMOUNT2, b.text("."), num(unix.MNT_DETACH))
	b.do("enter the new root", unix.SYS_CHDIR, b.text("/"))
	if !b.leave("root") {
		b.setAttr("make / read-only", root, safe|unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_RDONLY)
	}
}

// secrets makes a tmpfs with the slice's secret files.
func (b *builder) secrets() value {
	var size int
	for _, v := range b.s.Secrets {
		size += (len(v) + 4095) &^ 4095
	}
	dir := b.newFS("tmpfs", "mode=0755", "size="+strconv.Itoa(size+4096), "nr_inodes="+strconv.Itoa(len(b.s.Secrets)+8))
	for name, v := range b.s.Secrets {
		what := "secret " + name
		fd := b.do(what, unix.SYS_OPENAT, dir, b.text(name), num(unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC), num(0o400))
		b.do(what, unix.SYS_WRITE, fd, b.bytes(v), num(len(v)))
		b.exactly(len(v))
		b.do(what, unix.SYS_FCHOWN, fd, num(b.user), num(b.user))
		b.do(what, unix.SYS_CLOSE, fd)
	}
	return dir
}

// newFS makes a detached mount of a new file system; options are "key=value".
func (b *builder) newFS(fstype string, options ...string) value {
	fs := b.do("fsopen "+fstype, unix.SYS_FSOPEN, b.text(fstype), num(unix.FSOPEN_CLOEXEC))
	for _, o := range options {
		key, v, _ := strings.Cut(o, "=")
		b.do(fstype+" option "+o, unix.SYS_FSCONFIG, fs, num(unix.FSCONFIG_SET_STRING), b.text(key), b.text(v), num(0))
	}
	b.do("make "+fstype, unix.SYS_FSCONFIG, fs, num(unix.FSCONFIG_CMD_CREATE), num(0), num(0), num(0))
	fd := b.do("fsmount "+fstype, unix.SYS_FSMOUNT, fs, num(unix.FSMOUNT_CLOEXEC), num(0))
	b.do("close", unix.SYS_CLOSE, fs)
	return fd
}

// bind makes a detached bind mount of a path.
func (b *builder) bind(path string, flags uintptr) value {
	return b.do("bind "+path, unix.SYS_OPEN_TREE, num(unix.AT_FDCWD), b.text(path), num(flags|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC))
}

// attach puts a detached mount in place.
func (b *builder) attach(what string, fd, dir value, to string) {
	b.do("mount "+what, unix.SYS_MOVE_MOUNT, fd, b.text(""), dir, b.text(to), num(unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// setAttr adds flags to a mount.
func (b *builder) setAttr(what string, fd value, set uint64) {
	attr := &unix.MountAttr{Attr_set: set}
	b.do(what, unix.SYS_MOUNT_SETATTR, fd, b.text(""), num(unix.AT_EMPTY_PATH), b.pointer(unsafe.Pointer(attr)), num(unsafe.Sizeof(*attr)))
}

func (b *builder) mkdir(root value, dir string) {
	b.do("make /"+dir, unix.SYS_MKDIRAT, root, b.text(dir), num(0o755))
}
