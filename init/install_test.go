package pid1

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// What an installed node is started with: what the machine booted with and its config disk
// said, less the token and what was for that boot alone.
func TestInstalledLine(t *testing.T) {
	pin := "sha256:" + strings.Repeat("a", 64)
	worker := "runink.cluster=c1 runink.node=n7 runink.role=worker runink.ca=" + pin + " runink.join=10.0.0.1:7460"
	control := "runink.cluster=c1 runink.node=n2 runink.role=control runink.ca=" + pin + " runink.join=10.0.0.1:7460"
	const state = " runink.state=part:runink-state"
	line := func(s string) nodecfg.Source { return nodecfg.Source{Name: nodecfg.CommandLine, Text: s} }
	disk := func(s string) nodecfg.Source { return nodecfg.Source{Name: nodecfg.ConfigDisk + " /dev/sdb", Text: s} }
	for _, tt := range []struct {
		name    string
		sources []nodecfg.Source
		want    string
	}{
		{"a CD's words", []nodecfg.Source{line("BOOT_IMAGE=/boot/runink/vmlinuz console=tty0 panic=30 " + worker + " runink.token=t runink.install=path:/dev/sda runink.wipe=serial:S")}, "console=tty0 panic=30 " + worker + state},
		{"the network's", []nodecfg.Source{line("initrd=initramfs.cpio.zst BOOTIF=01-52-54 " + worker + " runink.token=t runink.install=path:/dev/sda")}, worker + state},
		{"a config disk", []nodecfg.Source{line("quiet runink.install=path:/dev/sda runink.config=disk runink.node=n7"), disk("# who\n" + worker + "\nrunink.token=t\n")}, "quiet runink.node=n7 " + strings.Replace(worker, "runink.node=n7 ", "", 1) + state},
		{"SMBIOS stays with the machine", []nodecfg.Source{line("quiet runink.install=path:/dev/sda"), {Name: "SMBIOS", Text: worker + " runink.token=t"}}, "quiet" + state},
		{"several addresses", []nodecfg.Source{line(worker + " runink.ip=eth0,10.0.0.2/24 runink.ip=eth1,10.1.0.2/24 runink.token=t")}, worker + " runink.ip=eth0,10.0.0.2/24 runink.ip=eth1,10.1.0.2/24" + state},
		{"a control node that knows its operator", []nodecfg.Source{line(control + " runink.operator=" + pin + " runink.token=t")}, control + " runink.operator=" + pin + state},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := installedLine(tt.sources)
			if err != nil || got != tt.want {
				t.Errorf("got  %s, %v\nwant %s", got, err, tt.want)
			}
			if strings.Contains(got, "token") {
				t.Error("the token is in it")
			}
		})
	}
	for _, tt := range []struct{ name, line, field string }{
		{"a word that GRUB would read", worker + " x=$y", "x"},
		{"a word with a space", worker + ` "dyndbg=file a +p"`, "dyndbg"},
		{"a control node that could not boot without its token", control + " runink.token=t", "runink.operator"},
		{"too long", worker + " " + strings.Repeat("quiet ", 400), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := installedLine([]nodecfg.Source{line(tt.line)})
			if !errors.Is(err, errs.Invalid) || errs.HintOf(err) == "" || !strings.Contains(err.Error(), tt.field) {
				t.Errorf("got %v (hint %q), want %s", err, errs.HintOf(err), tt.field)
			}
		})
	}
}

// A machine with a node's state on another disk is not installed: the node would be there
// twice, or gone. What is on the target itself is another question (nodedisk.Write).
func TestNoOtherState(t *testing.T) {
	target := disk{name: "sda", serial: "S1"}
	stateOn := func(d disk) (bool, error) {
		switch d.name {
		case "sda", "sdz", "sdy1":
			return true, nil
		case "sdx":
			return false, errs.E(errs.Unavailable, "install", "look").WithField("runink.install").WithHint("take it out")
		}
		return false, nil
	}
	for _, tt := range []struct {
		name  string
		disks []disk
		kind  errs.Kind // zero: installed
	}{
		{"alone", []disk{target}, 0},
		{"with its own older partitions", []disk{target, {name: "sda3", part: nodecfg.StatePartition}}, 0},
		{"with somebody's disk", []disk{target, {name: "sdb", serial: "S2"}, {name: "sdb1", part: "data"}}, 0},
		{"it is the state disk itself, and empty", []disk{{name: "sda", serial: nodecfg.DefaultStateSerial}}, 0},
		{"with a state disk", []disk{target, {name: "vda", serial: nodecfg.DefaultStateSerial}}, errs.Conflict},
		{"with a boot disk of a longer name", []disk{target, {name: "sdaa3", part: nodecfg.StatePartition}}, errs.Conflict},
		{"with a whole disk that a node was told of", []disk{target, {name: "sdz", serial: "S3"}}, errs.Conflict},
		{"with a partition that a node was told of", []disk{target, {name: "sdy"}, {name: "sdy1", part: "mine"}}, errs.Conflict},
		{"with a disk that cannot be read", []disk{target, {name: "sdx"}}, errs.Unavailable},
		{"with another boot disk", []disk{target, {name: "sdb"}, {name: "sdb3", part: nodecfg.StatePartition}}, errs.Conflict},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := noOtherState(tt.disks, target, stateOn)
			if tt.kind == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if errs.KindOf(err) != tt.kind || errs.HintOf(err) == "" {
				t.Errorf("got %v", err)
			}
		})
	}
}

// What is labelled as a medium of ours and is none is passed over, and why is said once,
// however often it is looked at.
func TestFirstMedium(t *testing.T) {
	var log bytes.Buffer
	m := &machine{log: slog.New(slog.NewTextHandler(&log, nil))}
	stick, card, cd := labelled{"/dev/sdb", "vfat"}, labelled{"/dev/sdc1", "vfat"}, labelled{"/dev/sr0", "iso9660"}
	mount := func(d labelled) error {
		switch d {
		case stick:
			return errs.E(errs.Corrupt, "", "mount %s: structure needs cleaning", d.dev)
		case card:
			return errs.E(errs.Conflict, "", "%s has another image", d.dev)
		}
		return nil
	}
	passed := map[string]string{}
	for range 3 {
		if found, err := m.firstMedium([]labelled{stick, card}, passed, mount); found || err != nil {
			t.Fatalf("found %t, %v", found, err)
		}
	}
	if found, err := m.firstMedium([]labelled{stick, card, cd}, passed, mount); !found || err != nil {
		t.Errorf("beside them a medium: found %t, %v", found, err)
	}
	if said := log.String(); strings.Count(said, "passed over") != 2 || !strings.Contains(said, "mount /dev/sdb: ") || !strings.Contains(said, "/dev/sdc1 has another image") {
		t.Errorf("it said\n%s", said)
	}
	if len(passed) != 2 || passed[stick.dev] == "" || passed[card.dev] == "" {
		t.Errorf("passed over: %q", passed)
	}
	stuck := errs.E(errs.Internal, "unmount", "busy")
	if found, err := m.firstMedium([]labelled{stick, cd}, passed, func(labelled) error { return errors.Join(mount(stick), stuck) }); found || !errors.Is(err, errs.Internal) {
		t.Errorf("one that cannot be given back: found %t, %v", found, err)
	}
}

// A node's state is known by its labels, from the first that is written on.
func TestHasState(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T) *os.File
		want bool
	}{
		{"empty", func(t *testing.T) *os.File { return diskFile(t, 64<<20) }, false},
		{"hardly a disk", func(t *testing.T) *os.File { return diskFile(t, 100) }, false},
		{"made", func(t *testing.T) *os.File {
			f := diskFile(t, 64<<20)
			check(t, prepareDisk(f, "disk", quiet))
			return f
		}, true},
		{"begun", func(t *testing.T) *os.File {
			f := diskFile(t, 64<<20)
			_, err := claimDisk(f, "disk")
			check(t, err)
			return f
		}, true},
		{"with its first sector zeroed", func(t *testing.T) *os.File {
			f := diskFile(t, 64<<20)
			check(t, prepareDisk(f, "disk", quiet))
			_, err := f.WriteAt(make([]byte, sectorSize), 0)
			check(t, err)
			return f
		}, true},
		{"somebody's", func(t *testing.T) *os.File {
			f := diskFile(t, 64<<20)
			_, err := f.WriteAt([]byte("XFSB"), 0)
			check(t, err)
			return f
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := hasState(tt.make(t)); err != nil || got != tt.want {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}
