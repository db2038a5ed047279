package nodecfg

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
)

const (
	pinA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	pinB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

const (
	first  = "runink.cluster=c1 runink.node=n1 runink.role=control+worker runink.ca=" + pinA + " runink.operator=" + pinB
	worker = "runink.cluster=c1 runink.node=n4 runink.role=worker runink.ca=" + pinA + " runink.join=10.0.0.1:7460 runink.token=abc.DEF-1"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     Config
	}{
		{"first node", "console=ttyS0 panic=30 " + first + " quiet", Config{Cluster: "c1", Node: "n1", Role: RoleControlWorker, CA: pinA, Operator: pinB, TimeScale: 1}},
		{"worker", worker, Config{Cluster: "c1", Node: "n4", Role: RoleWorker, CA: pinA, Join: []string{"10.0.0.1:7460"}, Token: "abc.DEF-1", TimeScale: 1}},
		{"worker that joined before", strings.Replace(worker, "runink.token=abc.DEF-1", "", 1), Config{Cluster: "c1", Node: "n4", Role: RoleWorker, CA: pinA, Join: []string{"10.0.0.1:7460"}, TimeScale: 1}},
		{"control that joins", first + ` runink.join="n1.example:7460,[fd00::1]:7460" runink.token=t`, Config{Cluster: "c1", Node: "n1", Role: RoleControlWorker, CA: pinA, Operator: pinB, Join: []string{"n1.example:7460", "[fd00::1]:7460"}, Token: "t", TimeScale: 1}},
		{"time scale, state", first + " runink.timescale=7.5 runink.state=none\n", Config{Cluster: "c1", Node: "n1", Role: RoleControlWorker, CA: pinA, Operator: pinB, TimeScale: 7.5, State: "none"}},
		{
			"install", first + " runink.install=serial:S1 runink.wipe=serial:S1",
			Config{Cluster: "c1", Node: "n1", Role: RoleControlWorker, CA: pinA, Operator: pinB, TimeScale: 1, Install: "serial:S1", Wipe: "serial:S1"},
		},
		{"netboot", first + " runink.netboot=10.0.0.5", Config{Cluster: "c1", Node: "n1", Role: RoleControlWorker, CA: pinA, Operator: pinB, TimeScale: 1, Netboot: netip.MustParseAddr("10.0.0.5")}},
		{"quoted word", strings.Replace(first, "runink.node=n1", `"runink.node=n1"`, 1), Config{Cluster: "c1", Node: "n1", Role: RoleControlWorker, CA: pinA, Operator: pinB, TimeScale: 1}},
		{"a space in another's word", `x="a runink.bad=1 b" ` + first, Config{Cluster: "c1", Node: "n1", Role: RoleControlWorker, CA: pinA, Operator: pinB, TimeScale: 1}},
		{
			"addresses", first + " runink.ip=eth0,10.1.2.3/24,gw=10.1.2.1,dns=10.1.2.1,dns=10.1.2.2 runink.ip=52:54:00:00:00:01,fd00::2/64",
			Config{Cluster: "c1", Node: "n1", Role: RoleControlWorker, CA: pinA, Operator: pinB, TimeScale: 1, IP: []IP{
				{Interface: "eth0", Address: netip.MustParsePrefix("10.1.2.3/24"), Gateway: netip.MustParseAddr("10.1.2.1"), DNS: []netip.Addr{netip.MustParseAddr("10.1.2.1"), netip.MustParseAddr("10.1.2.2")}},
				{Interface: "52:54:00:00:00:01", Address: netip.MustParsePrefix("fd00::2/64")},
			}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	without := func(s, key string) string {
		var out []string
		for _, w := range strings.Fields(s) {
			if !strings.HasPrefix(w, key+"=") {
				out = append(out, w)
			}
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ name, in, field string }{
		{"nothing", "console=ttyS0", "runink.cluster"},
		{"unknown key", first + " runink.nod=x", "runink.nod"},
		{"misspelt pin", first + " runink.Ca=" + pinA, "runink.Ca"},
		{"no value", first + " runink.token", "runink.token"},
		{"empty value", first + " runink.token=", "runink.token"},
		{"twice", first + " runink.node=n2", "runink.node"},
		{"node name", strings.Replace(first, "node=n1", "node=N1", 1), "runink.node"},
		{"node name with a dot", strings.Replace(first, "node=n1", "node=n1.x", 1), "runink.node"},
		{"long node name", strings.Replace(first, "node=n1", "node="+strings.Repeat("n", 64), 1), "runink.node"},
		{"no role", without(first, "runink.role"), "runink.role"},
		{"bad role", strings.Replace(first, "control+worker", "worker+control", 1), "runink.role"},
		{"no pin", without(first, "runink.ca"), "runink.ca"},
		{"short pin", strings.Replace(first, pinA, pinA[:70], 1), "runink.ca"},
		{"upper-case pin", strings.Replace(first, pinA, "sha256:"+strings.Repeat("A", 64), 1), "runink.ca"},
		{"pin of another hash", strings.Replace(first, pinA, "sha512:"+strings.Repeat("a", 64), 1), "runink.ca"},
		{"no operator", without(first, "runink.operator"), "runink.operator"},
		{"operator on a worker", worker + " runink.operator=" + pinB, "runink.operator"},
		{"worker without join", without(without(worker, "runink.join"), "runink.token"), "runink.join"},
		{"token without join", first + " runink.token=t", "runink.join"},
		{"join without port", strings.Replace(worker, "10.0.0.1:7460", "10.0.0.1", 1), "runink.join"},
		{"join with port 0", strings.Replace(worker, ":7460", ":0", 1), "runink.join"},
		{"join empty in list", strings.Replace(worker, "10.0.0.1:7460", "10.0.0.1:7460,", 1), "runink.join"},
		{"token with a control character", strings.Replace(worker, "abc.DEF-1", "a\x01b", 1), "runink.token"},
		{"state", first + " runink.state=vdb", "runink.state"},
		{"state outside dev", first + " runink.state=path:/etc/x", "runink.state"},
		{"install on a name", first + " runink.install=sda", "runink.install"},
		{"install outside dev", first + " runink.install=path:/etc/x", "runink.install"},
		{"install on a partition's name", first + " runink.install=part:x", "runink.install"},
		{"wipe and no install", first + " runink.wipe=serial:S1", "runink.wipe"},
		{"install, and state elsewhere", first + " runink.install=path:/dev/sda runink.state=serial:S2", "runink.state"},
		{"netboot on a worker", worker + " runink.netboot=10.0.0.5", "runink.netboot"},
		{"netboot on an interface", first + " runink.netboot=eth0", "runink.netboot"},
		{"netboot with a port", first + " runink.netboot=10.0.0.5:80", "runink.netboot"},
		{"netboot by IPv6", first + " runink.netboot=fd00::5", "runink.netboot"},
		{"netboot everywhere", first + " runink.netboot=0.0.0.0", "runink.netboot"},
		{"netboot of a broadcast", first + " runink.netboot=255.255.255.255", "runink.netboot"},
		{"netboot on loopback", first + " runink.netboot=127.0.0.1", "runink.netboot"},
		{"netboot twice", first + " runink.netboot=10.0.0.5 runink.netboot=10.0.0.6", "runink.netboot"},
		{"time scale", first + " runink.timescale=0", "runink.timescale"},
		{"time scale below 1", first + " runink.timescale=0.9", "runink.timescale"},
		{"time scale NaN", first + " runink.timescale=NaN", "runink.timescale"},
		{"time scale text", first + " runink.timescale=fast", "runink.timescale"},
		{"address without length", first + " runink.ip=eth0,10.0.0.1", "runink.ip"},
		{"address alone", first + " runink.ip=10.0.0.1/8", "runink.ip"},
		{"loopback", first + " runink.ip=eth0,127.0.0.1/8", "runink.ip"},
		{"multicast", first + " runink.ip=eth0,224.0.0.1/8", "runink.ip"},
		{"gateway of another family", first + " runink.ip=eth0,10.0.0.1/8,gw=fd00::1", "runink.ip"},
		{"two gateways", first + " runink.ip=eth0,10.0.0.1/8,gw=10.0.0.2,gw=10.0.0.3", "runink.ip"},
		{"unknown option", first + " runink.ip=eth0,10.0.0.1/8,via=10.0.0.2", "runink.ip"},
		{"interface is a path", first + " runink.ip=../x,10.0.0.1/8", "runink.ip"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse(c.in)
			if errs.KindOf(err) != errs.Invalid {
				t.Fatalf("got %v, want an error of kind invalid", err)
			}
			e, ok := err.(*errs.Error)
			if !ok || e.Field != c.field {
				t.Errorf("field %v, want %s", err, c.field)
			}
			if errs.HintOf(err) == "" {
				t.Errorf("%v has no hint", err)
			}
		})
	}
	if _, err := Parse(strings.Repeat("x", MaxCommandLine+1)); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a giant command line: %v", err)
	}
}

// FuzzParse holds that whatever Parse accepts is valid, survives a file, and that no
// runink.* word was passed over.
func FuzzParse(f *testing.F) {
	for _, s := range []string{first, worker, first + " runink.ip=eth0,10.0.0.1/8,gw=10.0.0.2", first + " runink.netboot=10.0.0.5", `"runink.node=a b" x`, "runink.=", "runink.x", `a="b c`, first + ` runink.token="t`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := Parse(s)
		if err != nil {
			if errs.KindOf(err) != errs.Invalid {
				t.Fatalf("kind of %v", err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("accepted and invalid: %v", err)
		}
		path := t.TempDir() + "/d/config.json"
		if err := Save(path, c); err != nil {
			t.Fatal(err)
		}
		back, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(c, back) {
			t.Fatalf("%+v came back as %+v", c, back)
		}
		if strings.Contains(s, `"`) {
			return
		}
		for _, w := range strings.Fields(s) {
			if k, _, _ := strings.Cut(w, "="); strings.HasPrefix(k, Prefix) && keys()[k[len(Prefix):]].set == nil {
				t.Fatalf("%q was passed over", w)
			}
		}
	})
}
