package stage

import (
	"strconv"
	"syscall"
)

// devices are the only ones a slice has.
var devices = [...]string{"null", "zero", "full", "random", "urandom"}

// filesystems makes the slice's root and moves into it. Everything is built on detached
// mounts (fsopen(2), open_tree(2)) and put in place at the end, because proc may be mounted
// only while the old /proc is still in sight, and because the new root then needs no folder
// of its own anywhere on the node.
func (s *setup) filesystems() error {
	// Nothing done here may show up outside.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fail("make mounts private", err)
	}
	root, err := newFS("tmpfs", "mode=0755", "size=64k", "nr_inodes=64")
	if err != nil {
		return err
	}
	id := "uid=" + strconv.Itoa(s.c.UID)
	gid := "gid=" + strconv.Itoa(s.c.GID)
	tmp, err := newFS("tmpfs", "mode=0700", id, gid,
		"size="+strconv.FormatInt(s.c.TmpBytes, 10), "nr_inodes="+strconv.FormatInt(s.c.TmpBytes/4096+64, 10))
	if err != nil {
		return err
	}
	// subset=pid: no cmdline, kcore, keys, kmsg, sys, meminfo … at all. hidepid=invisible:
	// other users' processes do not show (in this pid namespace there should be none).
	procOpts := []string{"hidepid=invisible", "subset=pid"}
	if s.leave("proc") {
		procOpts = nil
	}
	proc, err := newFS("proc", procOpts...)
	if err != nil {
		return err
	}
	type mount struct {
		fd    int
		to    string
		attrs uint64
	}
	const safe = attrNosuid | attrNodev
	mounts := []mount{
		{tmp, "tmp", safe | attrNoexec},
		{proc, "proc", safe | attrNoexec},
	}
	if s.bundle < 0 {
		if s.bundle, err = bind(s.c.BundlePath, 0); err != nil {
			return err
		}
	}
	mounts = append(mounts, mount{s.bundle, "bundle", safe | attrRdonly})
	for _, dir := range []string{"bundle", "dev", "proc", "tmp"} {
		if err := syscall.Mkdirat(root, dir, 0o755); err != nil {
			return fail("make /"+dir, err)
		}
	}
	for _, d := range devices {
		fd, err := bind("/dev/"+d, 0)
		if err != nil {
			return err
		}
		f, err := syscall.Openat(root, "dev/"+d, syscall.O_CREAT|syscall.O_EXCL|syscall.O_CLOEXEC, 0o444)
		if err != nil {
			return fail("make /dev/"+d, err)
		}
		syscall.Close(f)
		mounts = append(mounts, mount{fd, "dev/" + d, attrNosuid | attrNoexec})
	}
	if err := symlinkat("/proc/self/fd", root, "dev/fd"); err != nil {
		return fail("make /dev/fd", err)
	}
	if len(s.c.Secrets) > 0 {
		fd, err := s.secrets()
		if err != nil {
			return err
		}
		if err := syscall.Mkdirat(root, "secrets", 0o755); err != nil {
			return fail("make /secrets", err)
		}
		mounts = append(mounts, mount{fd, "secrets", safe | attrNoexec | attrRdonly})
	}
	if s.leave("root") {
		if err := syscall.Mkdirat(root, "host", 0o755); err != nil {
			return err
		}
		fd, err := bind("/", atRecursive)
		if err != nil {
			return err
		}
		mounts = append(mounts, mount{fd, "host", 0})
	}

	// The place matters not, only that it exists everywhere: pivot_root moves it to /.
	if err := moveMount(root, atFdcwd, "/proc"); err != nil {
		return fail("attach the root", err)
	}
	for _, m := range mounts {
		if m.attrs != 0 {
			if err := setAttr(m.fd, m.attrs); err != nil {
				return fail("flags of /"+m.to, err)
			}
		}
		if err := moveMount(m.fd, root, m.to); err != nil {
			return fail("mount /"+m.to, err)
		}
		syscall.Close(m.fd)
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one and
	// is taken off from there.
	if err := syscall.Fchdir(root); err != nil {
		return err
	}
	if err := syscall.PivotRoot(".", "."); err != nil {
		return fail("pivot_root (is / still the initramfs?)", err)
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return fail("leave the old root", err)
	}
	if err := syscall.Chdir("/"); err != nil {
		return err
	}
	if s.leave("root") {
		return nil
	}
	if err := setAttr(root, safe|attrNoexec|attrRdonly); err != nil {
		return fail("make / read-only", err)
	}
	return syscall.Close(root)
}

// secrets makes a tmpfs with the slice's secret files.
func (s *setup) secrets() (int, error) {
	var size int64
	for _, x := range s.c.Secrets {
		size += (int64(len(x.Value)) + 4095) &^ 4095
	}
	dir, err := newFS("tmpfs", "mode=0755", "size="+strconv.FormatInt(size+4096, 10),
		"nr_inodes="+strconv.Itoa(len(s.c.Secrets)+8))
	if err != nil {
		return -1, err
	}
	for _, x := range s.c.Secrets {
		if err := s.secret(dir, x); err != nil {
			return -1, fail("secret "+x.Name, err)
		}
	}
	return dir, nil
}

func (s *setup) secret(dir int, x Secret) error {
	for i := range len(x.Name) {
		if x.Name[i] == '/' {
			return failure{what: "not a file name"}
		}
	}
	fd, err := syscall.Openat(dir, x.Name, syscall.O_CREAT|syscall.O_EXCL|syscall.O_WRONLY|syscall.O_CLOEXEC, 0o400)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	if err := writeAll(fd, x.Value); err != nil {
		return err
	}
	if err := syscall.Fchmod(fd, 0o400); err != nil { // whatever the umask
		return err
	}
	return syscall.Fchown(fd, s.c.UID, s.c.GID)
}

// newFS makes a detached mount of a new file system; options are "key=value".
func newFS(fstype string, options ...string) (int, error) {
	fs, err := fsopen(fstype)
	if err != nil {
		return -1, fail("fsopen "+fstype, err)
	}
	defer syscall.Close(fs)
	for _, o := range options {
		i := 0
		for o[i] != '=' {
			i++
		}
		if err := fsconfig(fs, fsconfigSetString, cstr(o[:i]), cstr(o[i+1:])); err != nil {
			return -1, fail(fstype+" option "+o, err)
		}
	}
	if err := fsconfig(fs, fsconfigCreate, nil, nil); err != nil {
		return -1, fail("make "+fstype, err)
	}
	fd, err := fsmount(fs)
	if err != nil {
		return -1, fail("fsmount "+fstype, err)
	}
	return fd, nil
}

// bind makes a detached bind mount of a path.
func bind(path string, flags uintptr) (int, error) {
	fd, err := openTree(path, flags)
	if err != nil {
		return -1, fail("bind "+path, err)
	}
	return fd, nil
}
