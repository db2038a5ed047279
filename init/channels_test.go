package pid1_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runink/runink/image"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/qemu"
)

// TestChannels: what a node must know reaches it beside the command line, by every channel,
// and two channels that disagree stop the boot.
func TestChannels(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine several times")
	}
	n := newNode(t)
	words := strings.Fields(first)
	state := qemu.Disk{Path: n.Disk(0), Serial: "runink-state", Bytes: 256 << 20}

	// A config disk of each kind, made by the programs that people have.
	fat, iso := filepath.Join(t.TempDir(), "cfg.img"), filepath.Join(t.TempDir(), "cfg.iso")
	check(t, image.BuildConfigDisk(t.Context(), fat, words))
	tree := t.TempDir()
	check(t, os.WriteFile(filepath.Join(tree, nodecfg.ConfigName), []byte("# n1\n"+strings.Join(words[1:], "\n")+"\n"), 0o644))
	// No Rock Ridge, no Joliet: the plainest name there is.
	if out, err := exec.CommandContext(t.Context(), "xorriso", "-as", "mkisofs", "-quiet", "-V", "RUNINK-CFG", "-o", iso, tree).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	for _, tt := range []struct {
		name, cmdline string
		set           func(*qemu.MachineConfig)
		says          []string
	}{
		{
			"fw_cfg and SMBIOS", words[0],
			func(c *qemu.MachineConfig) {
				c.FwCfg = map[string]string{nodecfg.FwCfgName: strings.Join(words[1:3], "\n") + "\n"}
				c.SMBIOS = []string{"somebody else's, with a comma", strings.Join(words[3:], " ")}
			},
			[]string{
				`^runink: node name=n1 cluster=c1 role=control\+worker .* from="kernel command line, fw_cfg opt/org\.runink/config, SMBIOS"$`,
				`^runink: booted node=n1 `,
			},
		},
		{
			"a FAT disk", "",
			func(c *qemu.MachineConfig) { c.Disks = append(c.Disks, qemu.Disk{Path: fat, Serial: "cfg"}) },
			[]string{`^runink: node name=n1 .* from="kernel command line, config disk /dev/vdb"$`},
		},
		{
			"an ISO disk", words[0],
			func(c *qemu.MachineConfig) { c.Disks = append(c.Disks, qemu.Disk{Path: iso, Serial: "cfg"}) },
			[]string{`^runink: node name=n1 .* from="kernel command line, config disk /dev/vdb"$`},
		},
		{
			"two disks", "",
			func(c *qemu.MachineConfig) {
				c.Disks = append(c.Disks, qemu.Disk{Path: iso, Serial: "cfg"}, qemu.Disk{Path: fat, Serial: "cfg2"})
			},
			[]string{
				`^runink: FAILED phase "configuration": read config disk: /dev/vdb and /dev/vdc are all labelled as one$`,
				`^runink: what to do: leave one of them in the machine$`,
			},
		},
		{
			"two that disagree", first,
			func(c *qemu.MachineConfig) { c.SMBIOS = []string{"runink.node=n2"} },
			[]string{
				`^runink: FAILED phase "configuration": read node configuration: runink\.node: kernel command line and SMBIOS give it different values$`,
				`^runink: what to do: take it out of one of them; `,
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check(t, n.Configure(func(c *qemu.MachineConfig) {
				c.Disks, c.SMBIOS, c.FwCfg = []qemu.Disk{state}, nil, nil
				tt.set(c)
			}))
			n.on(t, tt.cmdline)
			defer n.PowerCut()
			for _, p := range tt.says {
				n.see(p)
			}
		})
	}
}
