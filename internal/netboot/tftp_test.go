package netboot

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pin/tftp/v3"

	"github.com/runink/runink/internal/errs"
)

// firstHop serves files over TFTP on loopback until the test ends.
func firstHop(t *testing.T) (*tftpFiles, *net.UDPAddr) {
	t.Helper()
	dir := t.TempDir()
	for i, f := range ipxeFiles {
		// Not a multiple of any block size.
		check(t, os.WriteFile(filepath.Join(dir, f.name), bytes.Repeat([]byte{byte('a' + i)}, 70001), 0o600))
	}
	files, err := readIPXE(dir, slog.New(slog.DiscardHandler))
	check(t, err)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	check(t, err)
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- files.serve(stop, conn) }()
	t.Cleanup(func() {
		close(stop)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return files, conn.LocalAddr().(*net.UDPAddr)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func fetch(t *testing.T, at *net.UDPAddr, name string) ([]byte, error) {
	t.Helper()
	c, err := tftp.NewClient(at.String())
	check(t, err)
	c.SetBlockSize(1468) // more than we give
	from, err := c.Receive(name, "octet")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = from.WriteTo(&b)
	return b.Bytes(), err
}

func TestTFTP(t *testing.T) {
	files, at := firstHop(t)
	for _, name := range []string{"undionly.kpxe", "snponly.efi", "/undionly.kpxe"} {
		got, err := fetch(t, at, name)
		if err != nil || !bytes.Equal(got, files.files[strings.TrimPrefix(name, "/")]) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for _, name := range []string{"", "nothing", "../tftp_test.go", "/etc/passwd", strings.Repeat("a", 400)} {
		if got, err := fetch(t, at, name); err == nil {
			t.Errorf("%q: %d bytes", name, len(got))
		}
	}
	c, err := tftp.NewClient(at.String())
	check(t, err)
	if w, err := c.Send("undionly.kpxe", "octet"); err == nil {
		if _, err = w.ReadFrom(strings.NewReader("evil")); err == nil {
			t.Error("a file was written")
		}
	}
}

// halfWay asks for a file, takes its first block and is gone.
func halfWay(t *testing.T, at *net.UDPAddr) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = conn.WriteToUDP([]byte("\x00\x01undionly.kpxe\x00octet\x00"), at)
	check(t, err)
	buf := make([]byte, 2048)
	n, _, err := conn.ReadFromUDP(buf)
	check(t, err)
	if n < 4 || binary.BigEndian.Uint16(buf) != 3 {
		t.Fatalf("not a first block: %x", buf[:n])
	}
}

// Clients that stop half-way hold a place each until they were asked a few times; while there
// are places others get their files meanwhile, and when there are none they are told so.
func TestTFTPClientsThatStopHalfWay(t *testing.T) {
	files, at := firstHop(t)
	halfWay(t, at)
	if _, err := fetch(t, at, "snponly.efi"); err != nil {
		t.Fatalf("beside one that stopped: %v", err)
	}
	for range cap(files.slots) - 1 {
		halfWay(t, at)
	}
	if _, err := fetch(t, at, "snponly.efi"); err == nil || !strings.Contains(err.Error(), "too many transfers") {
		// One of them may have been given up by now, on a machine that is busy.
		if len(files.slots) == cap(files.slots) {
			t.Errorf("beside %d that stopped: %v", cap(files.slots), err)
		}
	}
	for len(files.slots) > 0 { // the test's own time limit bounds it
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := fetch(t, at, "snponly.efi"); err != nil {
		t.Errorf("after they were given up: %v", err)
	}
}

func TestNoIPXE(t *testing.T) {
	_, err := readIPXE(t.TempDir(), slog.New(slog.DiscardHandler))
	if errs.KindOf(err) != errs.NotFound || !strings.Contains(errs.HintOf(err), "apt-get install ipxe") {
		t.Errorf("%v, hint %q", err, errs.HintOf(err))
	}
}
