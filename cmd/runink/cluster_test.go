package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/runink/runink/controlplane/apiserver"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
)

// cli runs one command as main does, and returns what it printed.
func cli(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out bytes.Buffer
	root := newRootCmd()
	root.SetArgs(args)
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&out)
	err := root.ExecuteContext(ctx)
	return out.String(), err
}

func ok(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := cli(t, stdin, args...)
	if err != nil {
		t.Fatalf("runink %s: %v (%s)\n%s", strings.Join(args, " "), err, errs.HintOf(err), out)
	}
	return out
}

// TestOperatorsDay goes through the commands as an operator does: from nothing to a
// cluster of one control node and one worker, its herds, keys, secrets, backup and audit.
func TestOperatorsDay(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(envConfig, filepath.Join(dir, "config", "config.json"))
	t.Setenv(envContext, "")
	t.Setenv(envAddress, "")
	t.Setenv(envAPIKey, "")
	if _, err := cli(t, "", "cluster", "status"); !errors.Is(err, errs.Invalid) || errs.HintOf(err) == "" {
		t.Fatalf("without a cluster: %v", err)
	}
	out := ok(t, "", "cluster", "init", "demo")
	if _, err := cli(t, "", "cluster", "init", "demo"); !errors.Is(err, errs.Exists) {
		t.Errorf("a second init: %v", err)
	}
	line := regexp.MustCompile(`runink\.cluster=.*`).FindString(out)
	cfg, err := nodecfg.Parse(line)
	if err != nil {
		t.Fatalf("the printed command line %q: %v", line, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	up := make(chan net.Addr, 1)
	ended := make(chan error, 1)
	state := filepath.Join(dir, "n1")
	go func() {
		ended <- apiserver.Run(ctx, apiserver.Options{
			Config: cfg, NodeDir: pki.NodeDir(filepath.Join(state, "node")), BarnDir: filepath.Join(state, "barn"),
			BlobDir: filepath.Join(state, "blobs"), KEKFile: filepath.Join(state, "kek"),
			Listen: "127.0.0.1:0", RaftListen: "127.0.0.1:0",
			Addresses:  func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} },
			Extensions: []apiserver.Extension{apiserver.Pipelines(apiserver.PipelineOptions{})},
			Log:        slog.New(slog.DiscardHandler), Ready: func(a net.Addr) { up <- a },
			Tune: func(c *barn.Config) { c.SegmentSize = 1 << 20 },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	var addr string
	select {
	case a := <-up:
		addr = a.String()
	case err := <-ended:
		t.Fatal(err)
	}
	key, err := pki.NodeDir(filepath.Join(state, "node")).Key()
	if err != nil {
		t.Fatal(err)
	}
	fp, err := pki.Fingerprint(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	boot := []string{"cluster", "bootstrap", "--node", "n1", "--address", addr, "--fingerprint"}
	if _, err := cli(t, "", append(boot, cfg.CA)...); !errors.Is(err, errs.Unauthenticated) {
		t.Errorf("a wrong fingerprint: %v", err)
	}
	if out := ok(t, "", append(boot, fp)...); !strings.Contains(out, "rkek_") {
		t.Errorf("no recovery key in\n%s", out)
	}
	if _, err := cli(t, "", append(boot, fp)...); !errors.Is(err, errs.Conflict) {
		t.Errorf("a second bootstrap: %v", err)
	}
	if out := ok(t, "", "cluster", "status"); !strings.Contains(out, "n1") {
		t.Errorf("status:\n%s", out)
	}
	ok(t, "", "herd", "put", "analytics", "--cpu", "2.5", "--memory", "1Gi")
	if out := ok(t, "", "herd", "get", "analytics", "-o", "json"); !strings.Contains(out, `"milli_cpu": "2500"`) {
		t.Errorf("herd:\n%s", out)
	}
	ok(t, "hunter2", "secret", "put", "--herd", "analytics", "db/pw")
	if out := ok(t, "", "secret", "list", "--herd", "analytics", "-o", "yaml"); !strings.Contains(out, "db/pw") || strings.Contains(out, "hunter2") {
		t.Errorf("secrets:\n%s", out)
	}

	// A machine is told where to install itself, with the rest of what it needs.
	w, err := nodecfg.Parse(strings.TrimSpace(ok(t, "", "install", "w9", "--disk", "/dev/sda", "--wipe", "state:0b5b6e0f-6a4c-4c5f-9d0e-000000000001", "-q")))
	if err != nil || w.Node != "w9" || w.Token == "" || w.Install != "path:/dev/sda" || w.Wipe != "state:0b5b6e0f-6a4c-4c5f-9d0e-000000000001" {
		t.Errorf("install: %+v, %v", w, err)
	}
	w, err = nodecfg.Parse(strings.TrimSpace(ok(t, "", "install", "n2", "--disk", "/dev/sda", "--role", "control+worker", "-q")))
	if err != nil || w.Role != nodecfg.RoleControlWorker || w.Operator != cfg.Operator || w.Install != "path:/dev/sda" {
		t.Errorf("install a control node: %+v, %v", w, err)
	}
	if out := ok(t, "", "install", "w9", "--disk", "wwn:naa.5000c500a1b2c3d4"); !strings.Contains(out, " runink.install=wwn:naa.5000c500a1b2c3d4\n") {
		t.Errorf("install: %s", out)
	}

	// A worker joins with the command line that was printed for it.
	w, err = nodecfg.Parse(strings.TrimSpace(ok(t, "", "token", "create", "-q", "--node", "w1", "--role", "worker")))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("RUNINK_TOKEN", w.Token)
	join := []string{
		"join", "--units=false", "--cluster", w.Cluster, "--node", w.Node, "--role", string(w.Role), "--join", strings.Join(w.Join, ","), "--ca", w.CA,
		"--state-dir", filepath.Join(dir, "w1"), "--status-dir", filepath.Join(dir, "status"), "--net", filepath.Join(dir, "none"), "--advertise", "127.0.0.1",
	}
	ok(t, "", join...)
	if out := ok(t, "", join...); !strings.Contains(out, "is a member") {
		t.Errorf("join again:\n%s", out)
	}
	join[len(join)-7] = filepath.Join(dir, "thief") // another disk, the same token
	if _, err := cli(t, "", join...); exitCode(err) != exitDenied {
		t.Errorf("a token used twice: %v", err)
	}
	if st, err := nodecfg.ReadStatus(filepath.Join(dir, "status"), "join"); err != nil || st.State != nodecfg.StateFailed || st.Hint == "" {
		t.Errorf("the console of the refused machine: %+v, %v", st, err)
	}
	ok(t, "", "node", "label", "w1", "zone=east")
	if out := ok(t, "", "node", "list"); !strings.Contains(out, "w1") || !strings.Contains(out, "zone=east") {
		t.Errorf("nodes:\n%s", out)
	}
	// A name that is a node's already: whoever mints for it is told what that does.
	for _, again := range [][]string{{"token", "create", "--node", "w1"}, {"install", "w1", "--disk", "/dev/sda", "-q"}} {
		if out := ok(t, "", again...); !strings.Contains(out, "there is a node w1") {
			t.Errorf("%q:\n%s", again, out)
		}
	}
	ok(t, "", "node", "remove", "w1")
	if out := ok(t, "", "token", "create", "--node", "w1"); strings.Contains(out, "there is a node") {
		t.Errorf("after its removal:\n%s", out)
	}

	snap := filepath.Join(dir, "backup")
	ok(t, "", "cluster", "snapshot", snap)
	if _, err := cli(t, "", "cluster", "restore", snap); exitCode(err) != exitUsage {
		t.Errorf("a restore without --yes: %v", err)
	}
	ok(t, "", "cluster", "restore", snap, "--yes")
	if data, err := os.ReadFile(snap); err != nil || bytes.Contains(data, []byte("hunter2")) {
		t.Errorf("the backup holds a secret in clear, or %v", err)
	}
	audit := ok(t, "", "audit", "--limit", "1000")
	for _, want := range []string{"identity.found", "identity.join", "denied", "secrets.put", "identity.node_remove", "identity.restored", "operator:"} {
		if !strings.Contains(audit, want) {
			t.Errorf("the audit log lacks %s:\n%s", want, audit)
		}
	}

	// A viewer's key, in a context of its own.
	secret := regexp.MustCompile(`rk_[a-z0-9_]+`).FindString(ok(t, "", "apikey", "create", "--herd", "analytics"))
	ok(t, secret+"\n", "context", "add", "viewer", "--address", addr, "--ca", cfg.CA, "--api-key-stdin")
	ok(t, "", "herd", "list")
	if _, err := cli(t, "", "herd", "put", "mine"); exitCode(err) != exitDenied {
		t.Errorf("a viewer makes a herd: %v", err)
	}
	ok(t, "", "context", "use", "demo")
	ok(t, "", "herd", "list", "--context", "demo")
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"": 0, "512": 512, "1Ki": 1 << 10, "8Gi": 8 << 30, "2Ti": 2 << 40} {
		if got, err := parseSize("--memory", in); err != nil || got != want {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"Gi", "-1", "1GB", "1.5Gi", "99999999999999999999", "9999999999Ti"} {
		if _, err := parseSize("--memory", in); !errors.Is(err, errs.Invalid) {
			t.Errorf("%q: %v", in, err)
		}
	}
}
