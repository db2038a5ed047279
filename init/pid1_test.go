package pid1

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

func ignoreTerm() { signal.Ignore(unix.SIGTERM) }

func TestStopKillsTheStubborn(t *testing.T) {
	m, _ := testMachine(t)
	r, w, err := os.Pipe()
	check(t, err)
	defer r.Close()
	defer w.Close()
	c := start(t, m, "stubborn", w)
	_, err = io.ReadFull(r, make([]byte, 6)) // it ignores SIGTERM from here
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if !m.waitOrStop(ctx, &service{name: "x", patience: 10 * time.Millisecond}, c) {
		t.Error("not reported as stopped")
	}
	await(t, "its end", c.done)
	if got := describe(c.status); got != "signal SIGKILL" {
		t.Errorf("status %s", got)
	}
}

// TestServices: which processes run for which role, and what each waits for.
func TestServices(t *testing.T) {
	none, own := netip.Addr{}, netip.MustParseAddr("10.0.0.5")
	for _, c := range []struct {
		role    nodecfg.Role
		token   string
		netboot netip.Addr
		want    []string
	}{
		{nodecfg.RoleControlWorker, "", none, []string{"netd", "keeper", "server", "agent"}},
		{nodecfg.RoleControlWorker, "t", none, []string{"netd", "keeper", "join", "server", "agent"}},
		{nodecfg.RoleControl, "", none, []string{"netd", "server"}},
		{nodecfg.RoleControl, "t", none, []string{"netd", "join", "server"}},
		{nodecfg.RoleWorker, "t", none, []string{"netd", "keeper", "join", "agent"}},
		{nodecfg.RoleWorker, "", none, []string{"netd", "keeper", "join", "agent"}},
		{nodecfg.RoleControlWorker, "", own, []string{"netd", "keeper", "server", "netboot", "agent"}},
		{nodecfg.RoleControl, "t", own, []string{"netd", "join", "server", "netboot"}},
	} {
		m := &machine{cfg: nodecfg.Config{Role: c.role, Token: c.token, Netboot: c.netboot}}
		var got []string
		byName := map[string]*service{}
		for _, s := range m.services() {
			got = append(got, s.name)
			byName[s.name] = s
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s, token %q: %v, want %v", c.role, c.token, got, c.want)
		}
		join := byName["join"]
		for _, name := range []string{"server", "agent"} {
			s := byName[name]
			if s == nil || join == nil {
				continue
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := s.ready(ctx); err == nil {
				t.Errorf("%s, token %q: %s starts before join has succeeded", c.role, c.token, name)
			}
		}
		if join != nil {
			close(join.finished)
			for _, name := range []string{"server", "agent"} {
				if s := byName[name]; s != nil && s.ready(t.Context()) != nil {
					t.Errorf("%s, token %q: %s does not start after join", c.role, c.token, name)
				}
			}
		}
	}
}

func TestConsoleNeverBlocks(t *testing.T) {
	stuck, release := make(chan struct{}), make(chan struct{})
	out := &lines{}
	con := newConsole(writerFunc(func(p []byte) (int, error) {
		if string(p) == "first\r\n" {
			close(stuck)
			<-release
		}
		return out.Write(p)
	}))
	con.line("first")
	await(t, "the first write", stuck)
	for range consoleQueue + 500 { // nothing reads: this returns all the same
		con.line("more")
	}
	close(release)
	con.flush(10 * time.Second)
	con.line("after")
	con.flush(10 * time.Second)
	if got := out.String(); !strings.Contains(got, "500 console lines dropped") || !strings.HasSuffix(got, "after\r\n") {
		t.Errorf("console ends %q", got[max(0, len(got)-200):])
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestConsoleLines(t *testing.T) {
	out := &lines{}
	con := newConsole(out)
	log := slog.New(handler{con: con}).With("name", "a b")
	log.Info("phase", "ms", 3)
	log.Warn("odd", "err", "say \"x\"\nrunink: ready")
	con.printf("two\nlines \x1b]0;title\x07")
	con.flush(time.Second)
	want := "runink: phase name=\"a b\" ms=3\r\nrunink: WARN odd name=\"a b\" err=\"say \\\"x\\\"\\nrunink: ready\"\r\nrunink: two\r\nrunink: lines ?]0;title?\r\n"
	if got := out.String(); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestFailedPhase: the console says what failed and what to do, nothing further runs, and
// a request to end is still served.
func TestFailedPhase(t *testing.T) {
	m, out := testMachine(t)
	ended := make(chan request, 1)
	m.ender = func(r request) { ended <- r }
	ran := false
	m.askEnd(request{powerOff, "power button"})
	m.boot(t.Context(), []phase{
		{"good", func(*machine, context.Context) error { return nil }},
		{"bad", func(*machine, context.Context) error {
			return errs.E(errs.Conflict, "prepare disk", "it is full of letters").WithHint("attach another")
		}},
		{"after", func(*machine, context.Context) error { ran = true; return nil }},
	})
	m.con.flush(time.Second)
	if ran {
		t.Error("the boot went on")
	}
	if r := <-ended; r.action != powerOff {
		t.Errorf("ended by %+v", r)
	}
	for _, want := range []string{"runink: phase name=good ms=", `runink: FAILED phase "bad": prepare disk: it is full of letters`, "runink: what to do: attach another"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("console %q lacks %q", out.String(), want)
		}
	}
}

func TestNodeLine(t *testing.T) {
	m := &machine{cfg: nodecfg.Config{Node: "n1", Cluster: "c1", Role: nodecfg.RoleControlWorker}, image: nodecfg.ImageInfo{Version: "sha256:ab"}}
	net := nodecfg.NetState{Addresses: []nodecfg.NetAddress{
		{Address: netip.MustParsePrefix("10.0.0.1/24")}, {Address: netip.MustParsePrefix("fe80::1/64")}, {Address: netip.MustParsePrefix("fd00::1/64")},
	}}
	seen := map[string]nodecfg.Status{"server": {State: nodecfg.StateWaiting, Detail: map[string]string{nodecfg.DetailFingerprint: "sha256:cd", nodecfg.DetailCluster: "unbootstrapped"}}}
	want := "waiting node=n1 role=control+worker addresses=10.0.0.1,fd00::1 fingerprint=sha256:cd cluster=c1/unbootstrapped leader=unknown image=sha256:ab"
	if got := m.nodeLine(seen, net); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	seen["agent"] = nodecfg.Status{State: nodecfg.StateReady}
	if got := m.nodeLine(seen, net); !strings.HasPrefix(got, "ready node=n1 ") {
		t.Errorf("got %s", got)
	}
}

func TestStatusLine(t *testing.T) {
	got := statusLine("join", nodecfg.Status{State: nodecfg.StateFailed, Message: "the token has expired", Hint: "make another", Detail: map[string]string{"b": "2", "a": "1"}})
	if want := "status join: failed: the token has expired a=1 b=2; what to do: make another"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestClockFloors(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	issued := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: issued, NotAfter: issued.Add(time.Hour)}, &x509.Certificate{}, &key.PublicKey, key)
	check(t, err)
	cert := filepath.Join(dir, "cert.pem")
	check(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	if got, err := readNotBefore(cert); err != nil || !got.Equal(issued) {
		t.Errorf("NotBefore %v, %v", got, err)
	}
	for name, content := range map[string]string{"empty.pem": "", "junk.pem": "-----BEGIN X-----\nAAAA\n-----END X-----\n"} {
		p := filepath.Join(dir, name)
		check(t, os.WriteFile(p, []byte(content), 0o600))
		if got, err := readNotBefore(p); err == nil {
			t.Errorf("%s gave %v", name, got)
		}
	}
	best := newest([]floor{{time.Unix(5, 0), "image"}, {time.Unix(9, 0), "saved time"}, {time.Unix(7, 0), "certificate"}})
	if best.from != "saved time" {
		t.Errorf("floor %+v", best)
	}
	if best := newest([]floor{{time.Time{}, "image"}}); best.from != "image" {
		t.Errorf("floor of an image without a time: %+v", best)
	}
}

func TestChooseControllers(t *testing.T) {
	enable, missing := chooseControllers(strings.Fields("cpuset cpu io memory pids rdma"))
	if !slices.Equal(enable, []string{"cpu", "memory", "pids", "io", "cpuset"}) || len(missing) != 0 {
		t.Errorf("enable %v, missing %v", enable, missing)
	}
	if _, missing := chooseControllers([]string{"cpu", "pids"}); !slices.Equal(missing, []string{"memory"}) {
		t.Errorf("missing %v", missing)
	}
}

func TestReserve(t *testing.T) {
	for _, c := range []struct{ total, want int64 }{{256 << 20, 96 << 20}, {1 << 30, 256 << 20}, {64 << 30, 1 << 30}} {
		if got := nodecfg.Reserve(c.total); got != c.want {
			t.Errorf("of %d: %d, want %d", c.total, got, c.want)
		}
	}
	if n, err := memTotal("/proc/meminfo"); err != nil || n < 1<<20 {
		t.Errorf("MemTotal %d, %v", n, err)
	}
}

func TestPopulated(t *testing.T) {
	for text, want := range map[string]bool{"populated 0\nfrozen 0\n": false, "populated 1\nfrozen 0\n": true, "frozen 0\npopulated 0\n": false, "": true, "populated x": true} {
		if got := populated(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestPowerKey(t *testing.T) {
	event := func(typ, code uint16, value uint32) []byte {
		b := make([]byte, inputEventSize)
		binary.NativeEndian.PutUint16(b[16:], typ)
		binary.NativeEndian.PutUint16(b[18:], code)
		binary.NativeEndian.PutUint32(b[20:], value)
		return b
	}
	if inputEventSize != 24 {
		t.Fatalf("an input event has %d bytes", inputEventSize)
	}
	m := &machine{power: make(chan request, 1)}
	stream := slices.Concat(event(0, 0, 0), event(1, 30, 1), event(1, 116, 0), event(4, 116, 1))
	if err := m.readKeys(strings.NewReader(string(stream))); err != io.EOF || len(m.power) != 0 {
		t.Errorf("other keys and a release: %v, %d requests", err, len(m.power))
	}
	if err := m.readKeys(strings.NewReader(string(event(1, 116, 1)))); err != io.EOF || len(m.power) != 1 {
		t.Errorf("the power key: %v, %d requests", err, len(m.power))
	}
}

func TestChildEnv(t *testing.T) {
	got := childEnv([]string{"TERM=linux", "GOCOVERDIR=/x", stageEnv + "=2", "RUNINK_FAULT=a=exit", "PATH=/bin"})
	if want := []string{"HOME=/", "PATH=", "GOCOVERDIR=/x", "RUNINK_FAULT=a=exit"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAppliance(t *testing.T) {
	if Appliance() {
		t.Error("a test is no appliance")
	}
}
