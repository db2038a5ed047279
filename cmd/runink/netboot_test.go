package main

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/netboot"
)

func TestNetbootAddress(t *testing.T) {
	for _, tt := range []struct {
		text string
		addr string
		port uint16
	}{
		{"10.0.0.5", "10.0.0.5", netboot.DefaultHTTPPort},
		{"10.0.0.5:8080", "10.0.0.5", 8080},
		{"10.0.0.5:0", "", 0},
		{":8080", "", 0},
		{"eth0", "", 0},
	} {
		a, port, err := netbootAddress(tt.text)
		if tt.addr == "" {
			if errs.KindOf(err) != errs.Invalid || errs.HintOf(err) == "" {
				t.Errorf("%q: %v", tt.text, err)
			}
			continue
		}
		if err != nil || a != netip.MustParseAddr(tt.addr) || port != tt.port {
			t.Errorf("%q: %s, %d, %v", tt.text, a, port, err)
		}
	}
}

func TestNetbootWords(t *testing.T) {
	for _, tt := range []struct {
		name  string
		words []string
		says  string // "": they are taken
	}{
		{"none", nil, ""},
		{"a console and a state disk", []string{"console=ttyS1,115200", "runink.state=path:/dev/nvme0n1"}, ""},
		{"two words", []string{"a b"}, "is not one plain word"},
		{"iPXE's", []string{"a=${mac}"}, "is not one plain word"},
		{"the record's", []string{"runink.node=n7"}, "runink.node comes with each machine's record"},
		{"a disk to install on", []string{"console=tty1", "runink.install=path:/dev/sda"}, "runink.install comes with the record of each machine that installs itself"},
		{"a disk to wipe", []string{"runink.wipe=serial:S1"}, "runink.wipe comes with the record"},
		{"a token", []string{"runink.token=rt_x"}, "comes with each machine's record"},
		{"no key of ours", []string{"runink.sate=none"}, "runink.sate"},
		{"no value of ours", []string{"runink.state=sda"}, "runink.state"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := netbootWords(tt.words)
			if tt.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "--append") {
				t.Errorf("%v", err)
			}
		})
	}
}

// clusterSays is a cluster's answer to a netboot service.
type clusterSays struct {
	v1.MachineServiceClient
	resp  *v1.BootMachineResponse
	err   error
	asked *v1.BootMachineRequest
}

func (c *clusterSays) Boot(_ context.Context, req *v1.BootMachineRequest, _ ...grpc.CallOption) (*v1.BootMachineResponse, error) {
	c.asked = req
	return c.resp, c.err
}

func TestAskBoot(t *testing.T) {
	m := netboot.Request{Machine: netboot.Machine{MAC: "52:54:00:12:34:56", UUID: "4c4c4544-0042-3510-8052-b4c04f4d4b32", Firmware: netboot.UEFI}}
	for _, tt := range []struct {
		name  string
		resp  *v1.BootMachineResponse
		words string
		says  []string
	}{
		{"pending", &v1.BootMachineResponse{State: "pending", Id: m.MAC, Cluster: "c1"}, "", []string{"not admitted to cluster c1", "runink node admit " + m.MAC + " --node NAME", m.UUID}},
		{"alive", &v1.BootMachineResponse{State: "alive", Id: m.MAC, Node: "n7", Cluster: "c1"}, "", []string{"is node n7 of cluster c1, and that node lives", "given up in a moment"}},
		{"boot", &v1.BootMachineResponse{State: "boot", Id: m.MAC, Node: "n7", Cluster: "c1", CommandLine: "a=1 b=2"}, "a=1 b=2", []string{"is node n7 of cluster c1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &clusterSays{resp: tt.resp}
			a, err := askBoot(t.Context(), c, m)
			if err != nil || strings.Join(a.Words, " ") != tt.words || len(a.Say) != len(tt.says) {
				t.Fatalf("%+v, %v", a, err)
			}
			for i, want := range tt.says {
				if !strings.Contains(a.Say[i], want) {
					t.Errorf("line %d is %q, want %q in it", i, a.Say[i], want)
				}
			}
			if c.asked.Mac != m.MAC || c.asked.Uuid != m.UUID || c.asked.Firmware != "uefi" || len(c.asked.RequestId) < 8 || c.asked.CannotInstall {
				t.Errorf("asked %v", c.asked)
			}
		})
	}
	m.CannotInstall = errs.E(errs.NotFound, "read install archive", "there is none").WithHint("make one")
	c := &clusterSays{resp: &v1.BootMachineResponse{State: "install", Id: m.MAC, Node: "n7", Cluster: "c1"}}
	if a, err := askBoot(t.Context(), c, m); !errors.Is(err, errs.NotFound) || errs.HintOf(err) != "make one" || !strings.Contains(err.Error(), "install node n7: ") || a.Words != nil || !c.asked.CannotInstall {
		t.Errorf("one that cannot be installed now: %+v, %v", a, err)
	}
	down := errs.E(errs.Unavailable, "call", "nobody answers")
	if _, err := askBoot(t.Context(), &clusterSays{err: down}, m); !errors.Is(err, errs.Unavailable) {
		t.Errorf("without a cluster: %v", err)
	}
}
