//go:build vm

package attempts

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	Child()
	os.Exit(m.Run())
}

// Outside of a slice, as root, with the image's kernel, every attempt succeeds. It is the
// control of TestWaysOutOfASlice, which makes the same attempts inside.
func TestVMWaysOutAreOpenOutside(t *testing.T) {
	// What a node has and this machine lacks.
	for _, dir := range []string{"/run/runink", "/var/lib/runink/agent", "/var/lib/runink/blobs", "/var/lib/runink/node", "/bundle"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"/run/runink/config.json", "/run/runink/net.json", "/var/lib/runink/kek", "/var/lib/runink/node/key.pem"} {
		if err := os.WriteFile(f, []byte("control"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range []struct{ network, addr string }{
		{"unixpacket", "/run/runink/keeper.sock"},
		{"unix", "@runink-control"},
		{"tcp", "[::]:7460"},
		{"tcp", "[::]:7461"},
		{"tcp", "[::]:7463"},
	} {
		x, err := net.Listen(l.network, l.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
	}
	input, err := os.Open("/var/lib/runink/kek") // as a slice inherits its input
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	dir, err := os.Open("/bundle")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, c := range Cases() {
		t.Run(strings.ReplaceAll(c.Try, "/", "_"), func(t *testing.T) {
			if got, err := Try(c.Try); err != nil {
				t.Errorf("%s: %q, %v", c.Try, got, err)
			}
		})
	}
}

// The attempts that the cluster's test makes with arguments of its own.
func TestVMAttemptsWithArguments(t *testing.T) {
	if err := Serve("drow"); err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:7462")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(b[:n], from)
		}
	}()
	for _, s := range []string{
		"reach=127.0.0.1:9999", "reach=127.0.0.1:1", "udp=127.0.0.1:7462", "abstract=" + AbstractName,
		"read=" + SecretFile, "grep=" + filepath.Dir(SecretFile) + ":word",
	} {
		if got, err := Try(s); err != nil {
			t.Errorf("%s: %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"grep=" + filepath.Dir(SecretFile) + ":drow", "abstract=nobody", "connect=127.0.0.1:1", "no-such"} {
		if got, err := Try(s); err == nil {
			t.Errorf("%s succeeded: %q", s, got)
		}
	}
	if err := Tick(); err != nil {
		t.Error(err)
	}
}
