package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/runink/runink/internal/netboot"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/nodedisk"
	"github.com/runink/runink/internal/pki"
)

// onANode tells this test's binary to be a node's netboot service, with its files in that folder.
const onANode = "RUNINK_TEST_NETBOOT_NODE"

// nodeAddress is what runink.netboot names there.
const nodeAddress = "10.99.0.5"

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serviceIn is a control node's netboot service with all its files below a folder; in the one
// named pin is the root that its words name.
func serviceIn(dir string) *nodeNetboot {
	pin, err := os.ReadFile(filepath.Join(dir, "pin"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		fmt.Fprintln(os.Stderr, err)
	}
	return &nodeNetboot{
		cfg: nodecfg.Config{
			Cluster: "c1", Node: "n1", Role: nodecfg.RoleControl, CA: string(pin), Join: []string{"127.0.0.1:1"}, TimeScale: 1, Netboot: netip.MustParseAddr(nodeAddress),
		},
		node: pki.NodeDir(filepath.Join(dir, "node")), own: pki.NodeDir(filepath.Join(dir, "own")), medium: filepath.Join(dir, "medium"),
		ipxe: filepath.Join(dir, "ipxe"), become: nodecfg.NetbootID, log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		tell: func(s nodecfg.Status) {
			if err := nodecfg.WriteStatus(filepath.Join(dir, "status"), "netboot", s); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		},
	}
}

// serveOnANode is the service's process.
func serveOnANode(dir string) {
	if err := serviceIn(dir).run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "ended:", err)
		os.Exit(1)
	}
}

// nodeFiles makes a node's files below a folder that others may enter: its identity, the medium
// that it booted from, and iPXE.
func nodeFiles(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "runink-netboot-node-")
	noError(t, err)
	t.Cleanup(func() { noError(t, os.RemoveAll(dir)) })
	noError(t, os.Chmod(dir, 0o755))
	now := time.Now()
	root, err := pki.NewRoot("c1", now)
	noError(t, err)
	signer, err := pki.NewKey()
	noError(t, err)
	csr, err := pki.Request(signer)
	noError(t, err)
	ca, err := root.SignIntermediate("c1", csr, now)
	noError(t, err)
	ca.Key = signer
	n := serviceIn(dir)
	key, err := n.node.Key()
	noError(t, err)
	leaf, err := ca.IssueNode(pki.NodeNames{Name: "n1", Control: true}, &key.PublicKey, now)
	noError(t, err)
	noError(t, errors.Join(n.node.SaveChain(append([]*x509.Certificate{leaf}, ca.Chain...)), n.node.SaveMember(pki.Member{Cluster: "c1", Node: "n1", Role: "control", Prefix: "fd00::/64"})))
	files := map[string]string{filepath.Join(dir, "pin"): pki.CertFingerprint(root.Cert())}
	for _, name := range netboot.IPXEFiles() {
		files[filepath.Join(n.ipxe, name)] = name
	}
	boot, sums := filepath.Join(n.medium, nodedisk.BootDir), ""
	for _, name := range []string{nodedisk.VmlinuzFile, nodedisk.InitramfsFile} {
		sum := sha256.Sum256([]byte(name))
		sums += hex.EncodeToString(sum[:]) + "  " + name + "\n"
		files[filepath.Join(boot, name)] = name
	}
	files[filepath.Join(boot, nodedisk.SumsFile)] = sums
	for name, text := range files {
		noError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		noError(t, os.WriteFile(name, []byte(text), 0o644))
	}
	return dir
}

// in runs f on a thread in another process's network namespace.
func in(t *testing.T, ns netns.NsHandle, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // which ends with the goroutine
		err := netns.Set(ns)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	noError(t, <-done)
}

// A control node's service waits for the address, opens its ports as root, and is somebody else
// without capabilities when it reads the first byte; its copy of the identity is that one's
// alone. When the address goes it ends, and says why.
func TestNodeNetboot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root: the service begins as root")
	}
	dir := nodeFiles(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), onANode+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	noError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	until := func(state nodecfg.State) nodecfg.Status {
		t.Helper()
		for {
			s, err := nodecfg.ReadStatus(filepath.Join(dir, "status"), "netboot")
			if err == nil && s.State == state {
				return s
			}
			select {
			case err := <-ended:
				t.Fatalf("it ended with %v: %+v\n%s", err, s, said.String())
			case <-time.After(20 * time.Millisecond): // a poll, not an assertion
			}
		}
	}
	if s := until(nodecfg.StateWaiting); !strings.Contains(s.Message, nodeAddress+" is no address of this node yet") || s.Hint == "" {
		t.Errorf("without the address it says %+v", s)
	}
	ns, err := netns.GetFromPid(cmd.Process.Pid)
	noError(t, err)
	defer ns.Close()
	its, err := netlink.NewHandleAt(ns)
	noError(t, err)
	defer its.Close()
	lo, err := its.LinkByName("lo")
	noError(t, err)
	addr, err := netlink.ParseAddr(nodeAddress + "/24")
	noError(t, err)
	noError(t, errors.Join(its.LinkSetUp(lo), its.AddrAdd(lo, addr)))
	if s := until(nodecfg.StateReady); !strings.Contains(s.Message, nodeAddress) {
		t.Errorf("it is ready and says %+v", s)
	}

	// It answers only once it serves, and then it is confined.
	in(t, ns, func() error {
		conn, err := net.Dial("tcp", net.JoinHostPort(nodeAddress, strconv.Itoa(nodecfg.PortNetboot)))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "GET /boot.ipxe HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if !strings.Contains(line, " 200 ") {
			t.Errorf("it answers %q", line)
		}
		return err
	})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	noError(t, err)
	for _, want := range []string{fmt.Sprintf("\nUid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", nodecfg.NetbootID), "\nCapEff:\t0000000000000000\n", "\nCapBnd:\t0000000000000000\n", "\nNoNewPrivs:\t1\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the process lacks %q in\n%s", want, status)
		}
	}
	own := filepath.Join(dir, "own")
	for name, mode := range map[string]os.FileMode{own: 0o700, own + "/key.pem": 0o600} {
		info, err := os.Stat(name)
		noError(t, err)
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != nodecfg.NetbootID || st.Gid != nodecfg.NetbootID || info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v and is %+v's", name, info.Mode(), info.Sys())
		}
	}

	noError(t, its.AddrDel(lo, addr))
	if err := <-ended; err == nil || !strings.Contains(said.String(), nodeAddress+" is no address of this node any more") {
		t.Errorf("without its address it ended with %v, and said\n%s", err, said.String())
	}
}

// What a node lacks to boot others it says, before it is anybody else, and ends.
func TestNodeNetbootThatCannot(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(dir string) error
		says  string
	}{
		"an image without iPXE": {func(dir string) error { return os.RemoveAll(filepath.Join(dir, "ipxe")) }, "read iPXE"},
		"a medium that is damaged": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "medium", nodedisk.BootDir, nodedisk.VmlinuzFile), nil, 0o644)
		}, "vmlinuz has sha256"},
		"the disk of another cluster of the same name": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "pin"), []byte("sha256:"+strings.Repeat("0", 64)), 0o644)
		}, "this disk belongs to another cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := nodeFiles(t)
			noError(t, tt.spoil(dir))
			n := serviceIn(dir)
			n.cfg.Netboot = netip.MustParseAddr("127.0.0.1")
			if err := n.run(t.Context()); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("it ends with %v", err)
			}
			status := filepath.Join(dir, "status")
			s, err := nodecfg.ReadStatus(status, "netboot")
			if err != nil || s.State != nodecfg.StateFailed || !strings.Contains(s.Message, tt.says) || s.Hint == "" {
				t.Errorf("its status: %+v, %v", s, err)
			}
			if got := netbootFailing(n.cfg, status); len(got) != 1 || got[0] != "network boot: "+s.Message {
				t.Errorf("what is said of it elsewhere: %q", got)
			}
		})
	}
}

func TestNetbootFailing(t *testing.T) {
	with := nodecfg.Config{Netboot: netip.MustParseAddr(nodeAddress)}
	for name, tt := range map[string]struct {
		cfg    nodecfg.Config
		status nodecfg.Status
		want   int
	}{
		"without the key":  {nodecfg.Config{}, nodecfg.Status{State: nodecfg.StateFailed, Message: "an old one"}, 0},
		"not started yet":  {with, nodecfg.Status{}, 0},
		"waiting":          {with, nodecfg.Status{State: nodecfg.StateWaiting}, 0},
		"serving":          {with, nodecfg.Status{State: nodecfg.StateReady}, 0},
		"it does not":      {with, nodecfg.Status{State: nodecfg.StateFailed, Message: "no medium"}, 1},
		"a status of dirt": {with, nodecfg.Status{State: "\x00"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			switch tt.status.State {
			case "":
			case "\x00":
				noError(t, os.WriteFile(nodecfg.StatusFile(dir, "netboot"), []byte("{"), 0o600))
			default:
				noError(t, nodecfg.WriteStatus(dir, "netboot", tt.status))
			}
			if got := netbootFailing(tt.cfg, dir); len(got) != tt.want || tt.want > 0 && !strings.HasPrefix(got[0], "network boot: ") {
				t.Errorf("got %q", got)
			}
		})
	}
}
