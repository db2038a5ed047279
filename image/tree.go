package image

import (
	"cmp"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/u-root/mkuimage/cpio"

	"github.com/runink/runink/internal/errs"
)

// Tree is the content of an initramfs: files, folders, links and devices, each with a
// mode that was set on purpose. Owner and group are always root, times always the epoch.
// Missing parents are folders of mode 0755. The zero value is an empty tree, ready to
// use; it is not safe for concurrent use.
type Tree struct {
	records map[string]cpio.Record
}

func (t *Tree) add(name string, r cpio.Record) error {
	clean := cpio.Normalize(name)
	if clean == "." || clean == ".." || strings.HasPrefix(clean, "../") {
		return errs.E(errs.Invalid, "add to initramfs", "the path leaves the archive").WithField(name)
	}
	if _, ok := t.records[clean]; ok {
		return errs.E(errs.Exists, "add to initramfs", "the path is already taken").WithField(name)
	}
	if t.records == nil {
		t.records = map[string]cpio.Record{}
	}
	r.Name = clean
	t.records[clean] = r
	return nil
}

// File adds a regular file. perm holds the low twelve bits of its mode.
func (t *Tree) File(name string, perm uint32, content []byte) error {
	return t.add(name, cpio.StaticRecord(content, cpio.Info{Mode: cpio.S_IFREG | uint64(perm&0o7777)}))
}

// Dir adds a folder.
func (t *Tree) Dir(name string, perm uint32) error {
	return t.add(name, cpio.Directory(name, uint64(perm&0o7777)))
}

// Symlink adds a link at name that points to target.
func (t *Tree) Symlink(name, target string) error {
	return t.add(name, cpio.Symlink(name, target))
}

// CharDevice adds a character device.
func (t *Tree) CharDevice(name string, perm, major, minor uint32) error {
	return t.add(name, cpio.CharDev(name, uint64(perm&0o7777), uint64(major), uint64(minor)))
}

// sorted returns all records, parents first. The first is the root folder itself:
// without it the kernel leaves / with the mode of its own making.
func (t *Tree) sorted() ([]cpio.Record, error) {
	all := map[string]cpio.Record{".": cpio.Directory(".", 0o755)}
	for name, r := range t.records {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if own, ok := t.records[dir]; ok {
				if own.Mode&cpio.S_IFMT != cpio.S_IFDIR {
					return nil, errs.E(errs.Invalid, "write initramfs", "%s is inside %s, which is no folder", name, dir)
				}
			} else {
				all[dir] = cpio.Directory(dir, 0o755)
			}
		}
		all[name] = r
	}
	list := make([]cpio.Record, 0, len(all))
	for _, r := range all {
		list = append(list, r)
	}
	// A parent is a strict prefix of its children, so the order of bytes puts it first.
	slices.SortFunc(list, func(a, b cpio.Record) int { return cmp.Compare(a.Name, b.Name) })
	if list[0].Name != "." {
		i := slices.IndexFunc(list, func(r cpio.Record) bool { return r.Name == "." })
		root := list[i]
		list = slices.Insert(slices.Delete(list, i, i+1), 0, root)
	}
	return list, nil
}

// WriteTo writes the tree as one newc archive, trailer included, padded to a multiple of
// four bytes so that another archive may follow it (the kernel unpacks concatenated
// archives one after the other, later files over earlier ones).
func (t *Tree) WriteTo(w io.Writer) (int64, error) {
	records, err := t.sorted()
	if err != nil {
		return 0, err
	}
	out := &countingWriter{w: w}
	archive := cpio.Newc.Writer(out)
	for _, r := range append(records, cpio.TrailerRecord) {
		// One link each, no inode numbers: the kernel joins files only by inode and
		// link count, and there is nothing to join.
		r.NLink = 1
		if err := archive.WriteRecord(r); err != nil {
			return out.n, fmt.Errorf("write initramfs: %s: %w", r.Name, err)
		}
	}
	return out.n, nil
}

// List describes the tree, one line each: mode, owner, size, name. Tests compare it.
func (t *Tree) List() ([]string, error) {
	records, err := t.sorted()
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, r := range records {
		lines = append(lines, fmt.Sprintf("%06o %d:%d %d %s", r.Mode, r.UID, r.GID, r.FileSize, r.Name))
	}
	return lines, nil
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
