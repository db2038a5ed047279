package keeper

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/runink/runink/slice/internal/probe"
	"github.com/runink/runink/slice/sandbox"
)

// A keeper that is not root, as under `make dev`: everything but the slice's own user, its
// network and its limits still holds, and what does not is said.

const plainUserEnv = "RUNINK_TEST_PLAIN_USER"

func TestPlainUser(t *testing.T) {
	bundle, err := bundleOnce()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), plainUserEnv+"="+bundle)
	if os.Geteuid() == 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got struct {
		NotEnforced []string
		Exit        *Exit
		Results     map[string]probe.Result
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	all := strings.Join(got.NotEnforced, "\n")
	for _, want := range []string{"limits of CPU", "a user of its own", "network between slices", "fencing past the keeper"} {
		if !strings.Contains(all, want) {
			t.Errorf("not said: %s; said:\n%s", want, all)
		}
	}
	if got.Exit == nil || got.Exit.Reason != ReasonExited || got.Exit.Code != 0 {
		t.Errorf("exit %+v", got.Exit)
	}
	for a, ok := range map[string]bool{
		"read=/proc/cmdline": false, "list=/home": false, "write=/x": false, "write=/bundle/x": false, "caps": false,
		"mount": false, "write=/tmp/x": true, "read=/secrets/token": true,
	} {
		if r := got.Results[a]; r.OK != ok {
			t.Errorf("%s: %+v", a, r)
		}
	}
}

// plainUser is the other process: it launches one slice and prints what came of it.
func plainUser() int {
	err := func() error {
		dir, err := os.MkdirTemp("", "plain")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		k, err := New(ctx, Config{
			Socket: filepath.Join(dir, "sock"), StateDir: filepath.Join(dir, "state"), CgroupRoot: filepath.Join(dir, "none"),
			Unenforced: true, FenceGrace: 10 * time.Second, SetupTimeout: 30 * time.Second,
			Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return err
		}
		running, stop := context.WithCancel(ctx)
		defer stop()
		done := make(chan error, 1)
		go func() { done <- k.Run(running) }()
		c := NewClient(k.cfg.Socket)
		for {
			if _, err = c.SetDeadline(ctx, Boottime()+time.Minute); err == nil || ctx.Err() != nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		caps, err := c.Capabilities(ctx)
		if err != nil {
			return err
		}
		a := netip.MustParseAddr("fd00::a")
		s := &LaunchSpec{
			ID: Key("r", "s", 1), Run: "r", Slice: "s", Epoch: 1, Herd: "h", Bundle: os.Getenv(plainUserEnv),
			Args: []string{
				sandbox.BundleDir + "/" + probe.Name, "try", "read=/proc/cmdline", "list=/home", "write=/x",
				"write=/bundle/x", "caps", "mount", "write=/tmp/x", "read=/secrets/token",
			},
			Limits:  Limits{MilliCPU: 100, Memory: 64 << 20},
			Net:     &Net{Address: a, Gateway: a.Next(), HostIf: "rk-a"},
			Secrets: map[string][]byte{"token": []byte("t")},
		}
		if _, err := c.Launch(ctx, s, nil); err != nil {
			return err
		}
		att, err := c.Attach(ctx, s.ID)
		if err != nil {
			return err
		}
		defer att.Close()
		out, err := io.ReadAll(att.Stdout)
		if err != nil {
			return err
		}
		res := map[string]any{"NotEnforced": caps.NotEnforced, "Results": json.RawMessage(out)}
		for res["Exit"] == nil {
			all, err := c.List(ctx)
			if err != nil {
				return err
			}
			if all[0].Exit != nil {
				res["Exit"] = all[0].Exit
			}
		}
		if err := c.Ack(ctx, s.ID); err != nil {
			return err
		}
		stop()
		if err := <-done; err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(res)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
