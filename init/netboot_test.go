package pid1

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/nodedisk"
)

// A node that others cannot boot from says so, and what to do, where the console and the agent
// read it.
func TestNodeThatBootsNobody(t *testing.T) {
	for name, tt := range map[string]struct {
		why  string
		err  error
		says string
	}{
		"there is none":  {"there is none", nil, "no medium and no boot disk with the image that it runs (there is none)"},
		"another image":  {"/dev/sr0 has another image", nil, "/dev/sr0 has another image"},
		"it cannot look": {"", errs.E(errs.Internal, findMediumOp, "no sysfs"), "no sysfs"},
	} {
		t.Run(name, func(t *testing.T) {
			m, out := testMachine(t)
			dir := t.TempDir()
			if err := m.bootsNobody(dir, tt.why, tt.err); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("the service starts: %v", err)
			}
			s, err := nodecfg.ReadStatus(dir, netbootComponent)
			if err != nil || s.State != nodecfg.StateFailed || !strings.Contains(s.Message, tt.says) || tt.err == nil && s.Hint == "" {
				t.Errorf("its status: %+v, %v", s, err)
			}
			m.con.flush(10 * time.Second)
			if !strings.Contains(out.String(), "this node boots no other machine") {
				t.Errorf("the console has\n%s", out.String())
			}
		})
	}
}

// A boot disk is found by its label, and comes before what may be taken out.
func TestBootDiskIsAMedium(t *testing.T) {
	core := bytes.Repeat([]byte("core"), 1000)
	binary.LittleEndian.PutUint16(core[0x1fc:], uint16((len(core)-1)/nodedisk.Sector))
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(nodedisk.MinDisk))
	_, err = nodedisk.Write(f, nodedisk.MinDisk, nodedisk.Options{
		Boot:    nodedisk.Boot{Version: "v1", Sector: make([]byte, nodedisk.Sector), Core: core, Program: []byte("MZ")},
		TempDir: t.TempDir(),
	})
	check(t, err)
	fstype, label := fileSystemLabel(io.NewSectionReader(f, nodedisk.ESPStart*nodedisk.Sector, nodedisk.ESPSectors*nodedisk.Sector))
	if fstype != "vfat" || label != nodedisk.ESPLabel {
		t.Errorf("what it boots from is %q with label %q", fstype, label)
	}
	cd, stick, disk := labelled{"/dev/sr0", "iso9660"}, labelled{"/dev/sda", "iso9660"}, labelled{"/dev/sdb2", fstype}
	if got := diskFirst([]labelled{stick, disk, cd}); !slices.Equal(got, []labelled{disk, stick, cd}) {
		t.Errorf("in this order: %v", got)
	}
}
