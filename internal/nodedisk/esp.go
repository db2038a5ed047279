package nodedisk

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat32"

	"github.com/runink/runink/internal/errs"
)

// madeAt dates every file of a boot disk: the first time that FAT can write down.
func madeAt() time.Time { return time.Unix(315532800, 0).UTC() } // 1980-01-01

// ESPLabel is of the file system that a boot disk boots from. FAT has an entry for it: a name of
// eight characters and three more.
const (
	ESPLabel      = "RUNINK-ESP"
	espLabelEntry = "RUNINK-E.SP"
)

// makeESP makes the file system that firmware and GRUB read, in f: files by path. It
// returns the length of the part of f that is used; what follows is free clusters, whose
// content means nothing.
func makeESP(f *os.File, files map[string][]byte) (used int64, err error) {
	const op = "make the EFI system partition"
	const size = int64(ESPSectors) * Sector
	if err := f.Truncate(size); err != nil {
		return 0, errs.E(errs.Internal, op, "%w", err)
	}
	w := &extent{File: f}
	fs, err := fat32.Create(file.New(w, false), size, 0, Sector, ESPLabel, true)
	if err != nil {
		return 0, errs.E(errs.Internal, op, "%w", err)
	}
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names) // the same files give the same bytes
	for _, n := range names {
		name := "/" + n
		if err := fs.Mkdir(path.Dir(name)); err != nil {
			return 0, errs.E(errs.Internal, op, "%s: %w", path.Dir(n), err)
		}
		to, err := fs.OpenFile(name, os.O_CREATE|os.O_RDWR)
		if err != nil {
			return 0, errs.E(errs.Internal, op, "%s: %w", n, err)
		}
		_, err = to.Write(files[n])
		if err := errors.Join(err, to.Close()); err != nil {
			return 0, errs.E(errs.Internal, op, "%s: %w", n, err)
		}
	}
	// The library dates what it makes by the clock.
	for _, n := range dated(names) {
		if err := fs.Chtimes(n, madeAt(), madeAt(), madeAt()); err != nil {
			return 0, errs.E(errs.Internal, op, "date %s: %w", n, err)
		}
	}
	return (w.end + chunk - 1) / chunk * chunk, nil
}

// extent is a file that remembers how far it was written.
type extent struct {
	*os.File
	end int64
}

func (e *extent) WriteAt(b []byte, at int64) (int, error) {
	e.end = max(e.end, at+int64(len(b)))
	return e.File.WriteAt(b, at)
}

// dated are the paths of all entries of a file system with files of these names: its label,
// the files, and the folders they are in, each with the two entries that name itself and its
// parent.
func dated(names []string) []string {
	list := []string{"/" + espLabelEntry}
	seen := map[string]bool{"/": true}
	for _, n := range names {
		list = append(list, "/"+n)
		for dir := path.Dir("/" + n); !seen[dir]; dir = path.Dir(dir) {
			seen[dir] = true
			list = append(list, dir, dir+"/.", dir+"/..")
		}
	}
	return list
}

// chunk is what is copied at a time, in bytes; partitions are multiples of it.
const chunk = 1 << 20

// copyTo copies the first n bytes of f to a place on dev.
func copyTo(dev io.WriterAt, at int64, f io.ReaderAt, n int64) error {
	buf := make([]byte, chunk)
	for done := int64(0); done < n; done += chunk {
		if _, err := f.ReadAt(buf, done); err != nil {
			return err
		}
		if _, err := dev.WriteAt(buf, at+done); err != nil {
			return err
		}
	}
	return nil
}

// compare reads n bytes at a place on dev and insists on those of f.
func compare(dev io.ReaderAt, at int64, f io.ReaderAt, n int64) error {
	want, got := make([]byte, min(chunk, n)), make([]byte, min(chunk, n))
	for done := int64(0); done < n; done += chunk {
		part := min(chunk, n-done)
		if _, err := f.ReadAt(want[:part], done); err != nil {
			return err
		}
		if _, err := dev.ReadAt(got[:part], at+done); err != nil {
			return err
		}
		if !bytes.Equal(want[:part], got[:part]) {
			return errs.E(errs.Corrupt, "compare", "what was written at byte %d reads back as something else", at+done).WithHint("the disk is broken: use another")
		}
	}
	return nil
}
