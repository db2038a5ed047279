package pid1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// A disk is a whole block device, or a partition with a name, as the kernel shows it in
// sysfs.
type disk struct {
	name        string // vda
	serial, wwn string // empty where the device has none
	part        string // the name that the GPT gives a partition; empty for whole disks
}

func (d disk) path() string { return "/dev/" + d.name }

// listDisks reads sysfs (a folder like /sys/block). Devices that can never hold state are
// left out: loops, RAM disks, CD drives, floppies.
func listDisks(sysBlock string) ([]disk, error) {
	entries, err := os.ReadDir(sysBlock)
	if err != nil {
		return nil, err
	}
	var list []disk
	for _, e := range entries {
		name := e.Name()
		if hasAnyPrefix(name, "loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd") {
			continue
		}
		dir := filepath.Join(sysBlock, name)
		if firstFile(filepath.Join(dir, "hidden")) == "1" {
			continue // one of several paths to an NVMe drive, which is listed by itself
		}
		list = append(list, disk{
			name:   name,
			serial: firstFile(filepath.Join(dir, "serial"), filepath.Join(dir, "device/serial"), filepath.Join(dir, "device/vpd_pg80")),
			wwn:    firstFile(filepath.Join(dir, "wwid"), filepath.Join(dir, "device/wwid")),
		})
		parts, err := listPartitions(dir)
		if err != nil {
			return nil, err
		}
		list = append(list, parts...)
	}
	return list, nil
}

// listPartitions returns the partitions with names of the disk whose sysfs folder is dir.
func listPartitions(dir string) ([]disk, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "partition"))
	if err != nil {
		return nil, err
	}
	var list []disk
	for _, f := range files {
		uevent, err := os.ReadFile(filepath.Join(filepath.Dir(f), "uevent"))
		if err != nil {
			continue // it went
		}
		for line := range strings.Lines(string(uevent)) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PARTNAME="); ok && name != "" {
				list = append(list, disk{name: filepath.Base(filepath.Dir(f)), part: name})
			}
		}
	}
	return list, nil
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// firstFile returns the trimmed content of the first file that has any. A SCSI page 0x80
// begins with four bytes of header, which are not printable and are cut off.
func firstFile(names ...string) string {
	for _, n := range names {
		data, err := os.ReadFile(n)
		if err != nil {
			continue
		}
		if len(data) > 4 && data[0] == 0 && data[1] == 0x80 {
			data = data[4:]
		}
		if s := strings.Trim(string(data), " \t\r\n\x00"); s != "" {
			return s
		}
	}
	return ""
}

var errNoDisk = errors.New("no such disk on this machine")

// pickDisk returns the disk that state, the value of the key field, names. Errors:
// errNoDisk if there is none, Invalid if there are two.
func pickDisk(disks []disk, field, state string) (disk, error) {
	kind, want, _ := strings.Cut(state, ":")
	var found []disk
	for _, d := range disks {
		var got string
		switch kind {
		case "serial":
			got = d.serial
		case "wwn":
			// The kernel writes naa.… or eui.…; people copy the digits.
			got = d.wwn
			if _, bare, ok := strings.Cut(got, "."); ok && !strings.Contains(want, ".") {
				got = bare
			}
			got, want = strings.ToLower(got), strings.ToLower(strings.TrimPrefix(want, "0x"))
		case "part":
			got = d.part
		case "path":
			got = d.path()
		}
		if got != "" && got == want {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return disk{}, errNoDisk
	case 1:
		return found[0], nil
	}
	var names []string
	for _, d := range found {
		names = append(names, d.path())
	}
	return disk{}, errs.E(errs.Invalid, "find the disk of "+field, "%s all match %s", strings.Join(names, " and "), state).
		WithField(field).WithHint("remove one of them, or name one by %s=path:/dev/…", field)
}

// describeDisks is for a person who has to choose one.
func describeDisks(disks []disk) string {
	if len(disks) == 0 {
		return "it has no disks"
	}
	var parts []string
	for _, d := range disks {
		if d.part != "" {
			parts = append(parts, fmt.Sprintf("%s (part %q)", d.path(), d.part))
			continue
		}
		parts = append(parts, fmt.Sprintf("%s (serial %q, wwn %q)", d.path(), d.serial, d.wwn))
	}
	return "it has " + strings.Join(parts, ", ")
}

// wantedState is cfg.State with its default, and whether a person asked for it.
func wantedState(state string) (want string, explicit bool) {
	if state == "" {
		return "serial:" + nodecfg.DefaultStateSerial, false
	}
	return state, true
}
