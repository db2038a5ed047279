package apiserver

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/pki"
	"github.com/runink/runink/internal/plan"
)

// netbootClient is a netboot service with a key of its own.
func (c *testCluster) netbootClient() v1.MachineServiceClient {
	c.t.Helper()
	k, err := v1.NewIdentityServiceClient(c.operator()).CreateKey(c.ctx(), &v1.CreateKeyRequest{Role: "netboot", Name: "rack1"})
	if err != nil {
		c.t.Fatal(err)
	}
	return v1.NewMachineServiceClient(c.dial(apiclient.Config{APIKey: k.GetSecret()}, pki.ClientOptions{}))
}

const (
	macA  = "52:54:00:00:00:0a"
	macB  = "52:54:00:00:00:0b"
	uuidA = "4c4c4544-0042-3510-8052-b4c04f4d4b32"
)

func (c *testCluster) boot(api v1.MachineServiceClient, mac, uuid string) *v1.BootMachineResponse {
	c.t.Helper()
	resp, err := api.Boot(c.ctx(), &v1.BootMachineRequest{Mac: mac, Uuid: uuid, Firmware: "uefi", RequestId: apiclient.NewRequestID()})
	if err != nil {
		c.t.Fatal(err)
	}
	return resp
}

func (c *testCluster) machines() []*v1.Machine {
	c.t.Helper()
	resp, err := v1.NewMachineServiceClient(c.operator()).List(c.ctx(), &v1.ListMachinesRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.GetMachines()
}

// joinWith joins a worker with the token of a command line.
func (c *testCluster) joinWith(name, line string) error {
	n := c.node(name, c.addrs()[:1], regexp.MustCompile(`runink\.token=(\S+)`).FindStringSubmatch(line)[1])
	n.cfg.Role, n.cfg.Operator = "worker", ""
	delete(c.nodes, name)
	_, err := apiclient.Join(c.ctx(), n.joinOptions())
	return err
}

// The record of a machine says on which disk it installs itself, until it says so no more.
func TestMachineInstalls(t *testing.T) {
	c := newTestCluster(t)
	c.bootstrap()
	op, service := v1.NewMachineServiceClient(c.operator()), c.netbootClient()
	admit := func(disk, wipe string) (*v1.Machine, error) {
		return op.Admit(c.ctx(), &v1.AdmitMachineRequest{Id: macA, Node: "w9", Role: "worker", Install: disk, Wipe: wipe})
	}
	for _, tt := range []struct {
		name, disk, wipe, field string
	}{
		{"no disk", "", "serial:S1", "install"},
		{"a disk named in no way", "sda", "", "install"},
		{"what iPXE would read", "serial:a$b", "", "install"},
		{"a space", "path:/dev/sda", "serial:a b", "wipe"},
	} {
		if _, err := admit(tt.disk, tt.wipe); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), tt.field) || errs.HintOf(err) == "" {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if all := c.machines(); len(all) != 0 {
		t.Errorf("refused, and there: %v", all)
	}
	if rec, err := admit("", ""); err != nil || rec.Install != "" {
		t.Errorf("admitted to install nothing: %v, %v", rec, err)
	}
	if rec, err := admit("path:/dev/sda", "serial:S1"); err != nil || rec.Install != "path:/dev/sda" || rec.Wipe != "serial:S1" {
		t.Errorf("admitted again, to install: %v, %v", rec, err)
	}
	if e := c.audit(identity.CmdMachineAdmit)[0]; e.Detail["install"] != "path:/dev/sda" || e.Detail["wipe"] != "serial:S1" {
		t.Errorf("the audit record: %v", e)
	}
	// As long as the service has nothing to install from, no token is made, however often it asks.
	for range 20 {
		got, err := service.Boot(c.ctx(), &v1.BootMachineRequest{Mac: macA, Uuid: uuidA, Firmware: "uefi", CannotInstall: true})
		if err != nil || got.State != "install" || got.Node != "w9" || got.Cluster != "test" || got.CommandLine != "" || got.TokenId != "" {
			t.Fatalf("a machine that cannot be installed now: %v, %v", got, err)
		}
	}
	if all := c.audit(identity.CmdMachineBoot); len(all) != 0 {
		t.Errorf("tokens were made for it: %v", all)
	}
	if got := c.boot(service, macA, uuidA); got.Node != "w9" || !strings.HasSuffix(got.CommandLine, " runink.install=path:/dev/sda runink.wipe=serial:S1") {
		t.Errorf("a machine that is to be installed: %v", got)
	}
	if rec, err := admit("", ""); err != nil || rec.Install != "" || rec.Node != "w9" {
		t.Errorf("admitted again, to install nothing: %v, %v", rec, err)
	}
	if got := c.boot(service, macA, uuidA); strings.Contains(got.CommandLine, "install") {
		t.Errorf("a machine that is not to be installed: %v", got)
	}
	got, err := service.Boot(c.ctx(), &v1.BootMachineRequest{Mac: macA, Uuid: uuidA, Firmware: "uefi", CannotInstall: true})
	if err != nil || got.State != "boot" {
		t.Errorf("nor is it kept from booting where nothing could be installed: %v, %v", got, err)
	}
}

// A machine is pending until it is admitted, and has one good token at a time from then on.
func TestMachineBoots(t *testing.T) {
	c := newTestCluster(t)
	c.bootstrap()
	op, service := v1.NewMachineServiceClient(c.operator()), c.netbootClient()
	if got := c.boot(service, strings.ToUpper(macA), uuidA); got.State != "pending" || got.Id != macA || got.Cluster != "test" || got.CommandLine != "" {
		t.Fatalf("an unknown machine: %v", got)
	}
	c.boot(service, macA, uuidA)
	if got := c.audit(identity.CmdMachineSeen); len(got) != 1 || got[0].Detail["machine"] != macA || !strings.HasPrefix(got[0].Principal, "key:") {
		t.Errorf("a machine that asks twice in a moment is recorded as %v", got)
	}
	if all := c.machines(); len(all) != 1 || all[0].State != "pending" || all[0].Mac != macA || all[0].Uuid != uuidA || all[0].Firmware != "uefi" {
		t.Fatalf("machines: %v", all)
	}

	rec, err := op.Admit(c.ctx(), &v1.AdmitMachineRequest{Id: uuidA, Node: "w7", Role: "worker"})
	if err != nil || rec.State != "admitted" || rec.Mac != macA {
		t.Fatalf("admitted by UUID: %v, %v", rec, err)
	}
	// Under its other name it is no other machine: with a record by each, it could not boot.
	if _, err := op.Admit(c.ctx(), &v1.AdmitMachineRequest{Id: macA, Node: "w8", Role: "worker"}); !errors.Is(err, errs.Conflict) || !strings.Contains(err.Error(), "is node w7 already, by "+uuidA) {
		t.Errorf("admitted again, by its MAC address: %v", err)
	}
	first := c.boot(service, macA, uuidA)
	second := c.boot(service, macA, uuidA)
	for _, got := range []*v1.BootMachineResponse{first, second} {
		if got.State != "boot" || got.Node != "w7" || got.Role != "worker" || !strings.Contains(got.CommandLine, "runink.cluster=test runink.node=w7 runink.role=worker ") {
			t.Fatalf("an admitted machine: %v", got)
		}
	}
	if err := c.joinWith("w7", first.CommandLine); !errors.Is(err, errs.Denied) || !strings.Contains(err.Error(), "was revoked") {
		t.Errorf("the token of the boot before: %v", err)
	}
	if err := c.joinWith("w7", second.CommandLine); err != nil {
		t.Fatal(err)
	}
	// Two machines with one token.
	if err := c.joinWith("w7", second.CommandLine); !errors.Is(err, errs.Denied) || !strings.Contains(err.Error(), "was used at") {
		t.Errorf("a second machine: %v", err)
	}
	if e := c.audit(identity.CmdJoin)[0]; e.Outcome != "denied" || e.Detail["machine"] != uuidA || e.Detail["node"] != "w7" {
		t.Errorf("its audit record: %v", e)
	}
	if e := c.audit(identity.CmdMachineBoot)[0]; e.Outcome != "ok" || e.Detail["machine"] != uuidA || e.Detail["mac"] != macA || e.Detail["node"] != "w7" || e.Detail["token"] == "" {
		t.Errorf("the audit record of a boot: %v", e)
	}
	list := func() int {
		t.Helper()
		all, err := v1.NewNodeServiceClient(c.operator()).ListTokens(c.ctx(), &v1.ListTokensRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return len(all.GetTokens())
	}
	// Who asks on and on in its name gets little, and leaves little behind.
	if _, err := op.Admit(c.ctx(), &v1.AdmitMachineRequest{Id: macB, Node: "w8", Role: "worker"}); err != nil {
		t.Fatal(err)
	}
	before, refused := list(), 0
	for range 20 {
		_, err := service.Boot(c.ctx(), &v1.BootMachineRequest{Mac: macB, Firmware: "bios"})
		if errors.Is(err, errs.Exhausted) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if after := list(); refused == 0 || after > before+2 {
		t.Errorf("%d of 20 refused, %d tokens, %d before", refused, after, before)
	}
	if _, err := op.Forget(c.ctx(), &v1.ForgetMachineRequest{Id: macB}); err != nil {
		t.Fatal(err)
	}
	// It boots again: another key takes the name over.
	if err := c.joinWith("w7", c.boot(service, macA, uuidA).CommandLine); err != nil {
		t.Errorf("booted again: %v", err)
	}
	// Another machine's firmware says the same UUID: it is the same machine, as far as anybody
	// can tell. By its MAC address it is not.
	if got := c.boot(service, macB, ""); got.State != "pending" {
		t.Errorf("another machine: %v", got)
	}

	// Forgotten, its last token is of no use, and it is pending again.
	last := c.boot(service, macA, uuidA)
	if _, err := op.Forget(c.ctx(), &v1.ForgetMachineRequest{Id: uuidA}); err != nil {
		t.Fatal(err)
	}
	if err := c.joinWith("w7", last.CommandLine); !errors.Is(err, errs.Denied) {
		t.Errorf("the token of a forgotten machine: %v", err)
	}
	if got := c.boot(service, macA, uuidA); got.State != "pending" {
		t.Errorf("a forgotten machine: %v", got)
	}
	if _, err := op.Forget(c.ctx(), &v1.ForgetMachineRequest{Id: macA}); err != nil {
		t.Fatal(err)
	}
	if _, err := op.Forget(c.ctx(), &v1.ForgetMachineRequest{Id: macA}); !errors.Is(err, errs.NotFound) {
		t.Errorf("forgotten twice: %v", err)
	}

	// With a node goes the record of the machine that is it.
	if _, err := op.Admit(c.ctx(), &v1.AdmitMachineRequest{Id: macB, Node: "w7", Role: "worker"}); err != nil {
		t.Fatal(err)
	}
	if _, err := v1.NewNodeServiceClient(c.operator()).Remove(c.ctx(), &v1.RemoveNodeRequest{Name: "w7"}); err != nil {
		t.Fatal(err)
	}
	if got := c.boot(service, macB, ""); got.State != "pending" {
		t.Errorf("the machine of a removed node: %v", got)
	}
}

func TestMachinesThatAreRefused(t *testing.T) {
	c := newTestCluster(t)
	c.bootstrap()
	op, service := v1.NewMachineServiceClient(c.operator()), c.netbootClient()
	for id, node := range map[string]string{macA: "w7", uuidA: "w8"} {
		if _, err := op.Admit(c.ctx(), &v1.AdmitMachineRequest{Id: id, Node: node, Role: "worker"}); err != nil {
			t.Fatal(err)
		}
	}
	admit := func(id, node, role string) error {
		_, err := op.Admit(c.ctx(), &v1.AdmitMachineRequest{Id: id, Node: node, Role: role})
		return err
	}
	boot := func(mac, uuid, firmware string) error {
		_, err := service.Boot(c.ctx(), &v1.BootMachineRequest{Mac: mac, Uuid: uuid, Firmware: firmware})
		return err
	}
	keys := v1.NewIdentityServiceClient(c.operator())
	if _, err := v1.NewHerdServiceClient(c.operator()).Put(c.ctx(), &v1.PutHerdRequest{Herd: &v1.Herd{Name: "analytics"}}); err != nil {
		t.Fatal(err)
	}
	k, err := keys.CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: "analytics", Role: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	herds := v1.NewIdentityServiceClient(c.dial(apiclient.Config{APIKey: k.GetSecret()}, pki.ClientOptions{}))
	for name, tt := range map[string]struct {
		err  error
		want errs.Kind
		says string
	}{
		"neither MAC nor UUID":          {admit("no machine at all", "w9", "worker"), errs.Invalid, "neither a MAC address nor a UUID"},
		"a MAC address of many":         {admit("ff:ff:ff:ff:ff:ff", "w9", "worker"), errs.Invalid, "neither"},
		"the UUID of none":              {admit("00000000-0000-0000-0000-000000000000", "w9", "worker"), errs.Invalid, "stands for none"},
		"a control node":                {admit(macB, "w9", "control"), errs.Invalid, "role"},
		"the name of a control node":    {admit(macB, "n1", "worker"), errs.Conflict, "node n1 exists, with role control"},
		"the name of another machine":   {admit(macB, "w7", "worker"), errs.Conflict, "node w7 is machine " + macA},
		"a machine that is a node":      {admit(macA, "w9", "worker"), errs.Conflict, "is node w7"},
		"no name":                       {admit(macB, "", "worker"), errs.Invalid, "node"},
		"two records for one machine":   {boot(macA, uuidA, "uefi"), errs.Conflict, "is node w7 by its MAC address, and node w8 by its UUID"},
		"a machine without firmware":    {boot(macA, "", "coreboot"), errs.Invalid, "firmware"},
		"a machine without a card":      {boot("52:54:00:00:00", "", "bios"), errs.Invalid, "mac"},
		"a netboot key of a herd":       {second(keys.CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: "analytics", Role: "netboot"})), errs.Invalid, "is of no herd"},
		"a herd's key of none":          {second(keys.CreateKey(c.ctx(), &v1.CreateKeyRequest{Role: "viewer"})), errs.Invalid, "it is missing"},
		"a netboot key by a herd admin": {second(herds.CreateKey(c.ctx(), &v1.CreateKeyRequest{Role: "netboot"})), errs.Denied, "may not make keys of netboot services"},
	} {
		if !errors.Is(tt.err, tt.want) || !strings.Contains(tt.err.Error(), tt.says) {
			t.Errorf("%s: %v, want %v: %s", name, tt.err, tt.want, tt.says)
		}
	}
	if all := c.machines(); len(all) != 2 {
		t.Errorf("machines after all that: %v", all)
	}
}

// Whoever floods the service with machines fills neither the list nor the log.
func TestUnknownMachinesAreFew(t *testing.T) {
	c := newTestCluster(t)
	c.bootstrap()
	op, service := v1.NewMachineServiceClient(c.operator()), c.netbootClient()
	refused := 0
	for i := range 3 * identity.MaxPending {
		_, err := service.Boot(c.ctx(), &v1.BootMachineRequest{Mac: fmt.Sprintf("52:54:00:01:%02x:%02x", i/256, i%256), Firmware: "bios"})
		if errors.Is(err, errs.Exhausted) && errs.HintOf(err) != "" {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	all := c.machines()
	if refused == 0 || len(all) > identity.MaxPending || len(c.audit(identity.CmdMachineSeen)) > len(all) {
		t.Errorf("%d refused, %d pending, %d entries", refused, len(all), len(c.audit(identity.CmdMachineSeen)))
	}
	if _, err := op.Admit(c.ctx(), &v1.AdmitMachineRequest{Id: macA, Node: "w7", Role: "worker"}); err != nil {
		t.Fatal(err)
	}
	if got := c.boot(service, macA, ""); got.State != "boot" {
		t.Errorf("an admitted machine among them: %v", got)
	}
}

// A node that holds a session is not booted, whoever asks in its machine's name.
func TestLivingNodeIsNotBooted(t *testing.T) {
	c := oneNode(t)
	op, service := v1.NewMachineServiceClient(c.operator()), c.netbootClient()
	if _, err := op.Admit(c.ctx(), &v1.AdmitMachineRequest{Id: macA, Node: "w1", Role: "worker"}); err != nil {
		t.Fatal(err)
	}
	a := c.worker("w1", newLiveSet()).start()
	c.ready("w1")
	if got := c.boot(service, macA, ""); got.State != "alive" || got.Node != "w1" || got.CommandLine != "" {
		t.Errorf("while the node lives: %v", got)
	}
	a.stop()
	c.eventually("booted once its session has ended", func() error {
		if got := c.boot(service, macA, ""); got.State != "boot" {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

// The name of a node passes to a machine with another key when the first one's lease has run
// out, and not with the first message of the other: two machines would run one slice.
func TestNamePassesOnWithTheLease(t *testing.T) {
	c := oneNode(t)
	live := newLiveSet()
	work := func(ctx context.Context, as *v1.SliceAssignment) simExit {
		if as.Key.Epoch == 1 {
			<-ctx.Done() // by its keeper's deadline: nobody tells the first machine
			return simExit{}
		}
		return success(nil)
	}
	first := c.worker("w1", live)
	first.work = work
	first.start()
	run := c.running(c.submit(slicesPlan(1, plan.Requires{}, plan.Affinity{})).Id)
	second := c.worker("w1", live)
	second.work, second.boot = work, "w1-another-machine"
	second.start()
	run = c.succeeded(run.Id)
	if run.Regions[0].Epoch != 2 || run.Regions[0].Retries != 0 {
		t.Errorf("region: %v", run.Regions[0])
	}
	live.check(t)
}
