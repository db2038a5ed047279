//go:build cluster

package e2e

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/tools/harness"
)

// The example runs on the booted cluster: slices on several nodes, the result what an
// independent program computes, and the edge between two nodes sealed.
func TestFlightsOnThreeNodes(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c, time.Minute)
	stop := record(t, c)
	id := submit(ctx, t, c, "--wait")
	r := until(ctx, t, c, id, "success", finished)
	wire := stop()
	at := map[string]string{}
	nodes := map[string]bool{}
	for _, reg := range r.Regions {
		for _, s := range reg.Slices {
			at[s.Name] = s.Node
			nodes[s.Node] = true
		}
	}
	if len(at) < 3 || len(nodes) < 2 {
		t.Errorf("%d slices on %d nodes; at least 3 on 2 are expected", len(at), len(nodes))
	}
	verify(ctx, t, c, id)
	from, to := at["join-airport"], at["delays"]
	if from == "" || from == to {
		t.Fatalf("slices are at %v; an edge between two nodes is expected", at)
	}
	edgeIsSealed(t, wire, c.Addr(from), c.Addr(to))

	// The control: what goes over the switch in clear is found there.
	stop = record(t, c)
	conn, err := c.Dial(ctx, hostPort(from, nodecfg.PortAPI))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, strings.Join(rowsInClear, "\n")); err != nil {
		t.Error(err)
	}
	_, _ = io.Copy(io.Discard, conn) // the server hangs up: it has read that it is no TLS
	conn.Close()
	wire = stop()
	for _, clear := range rowsInClear {
		if !bytes.Contains(wire, []byte(clear)) {
			t.Errorf("control: %q went over the switch, and is not in its recording", clear)
		}
	}
}

// record records the switch until stop is called, which returns a pcap file.
func record(t *testing.T, c *harness.Cluster) (stop func() []byte) {
	t.Helper()
	var wire bytes.Buffer
	end, err := c.Switch.Record(&wire)
	if err != nil {
		t.Fatal(err)
	}
	return func() []byte {
		t.Helper()
		if err := end(); err != nil {
			t.Fatal(err)
		}
		return wire.Bytes()
	}
}

// rowsInClear are what rows of the example hold, in the forms in which they are sent.
var rowsInClear = []string{"Salt Lake City", `"origin":"`, "Phoenix Sky Harbor"}

// edgeIsSealed reads a recording of one run: the edge's bytes went from one node to another,
// inside WireGuard, and no row of the data did in clear, not even on its way into the cluster.
func edgeIsSealed(t *testing.T, wire []byte, from, to netip.Addr) {
	t.Helper()
	src, dst := from.As4(), to.As4()
	sealed := 0
	for _, frame := range frames(t, wire) {
		if len(frame) > 42 && binary.BigEndian.Uint16(frame[12:]) == 0x0800 && frame[23] == 17 &&
			bytes.Equal(frame[26:30], src[:]) && bytes.Equal(frame[30:34], dst[:]) &&
			binary.BigEndian.Uint16(frame[36:]) == nodecfg.PortWireGuard {
			sealed += len(frame) - 42
		}
	}
	// 19,997 joined rows leave one node for another: three fields each.
	if sealed < 100_000 {
		t.Errorf("%d bytes went from %s to %s through WireGuard; the edge alone carries more", sealed, from, to)
	}
	for _, clear := range rowsInClear {
		if bytes.Contains(wire, []byte(clear)) {
			t.Errorf("%q was seen in clear on the switch", clear)
		}
	}
}

// A pipeline of built-in steps alone runs on the engines that are in the image: its two slices
// are on two nodes, so the edge between them needs the engine with network.
func TestBuiltInStepsRunOnTheImagesEngine(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c, time.Minute)
	if _, err := c.CLI.Run(ctx, "herd", "put", "builtin"); err != nil {
		t.Fatal(err)
	}
	bundle := bundled(ctx, t, c, "builtin")
	if b, err := os.ReadFile(bundle); err != nil || bytes.Contains(b, []byte("bin/linux-")) {
		t.Fatalf("the bundle brings a program of its own, or cannot be read: %v", err)
	}
	id, err := start(ctx, c, bundle, "builtin", "ok")
	if err != nil {
		t.Fatal(err)
	}
	until(ctx, t, c, id, "success", finished)
	out, err := c.CLI.Run(ctx, "artifact", "get", id+"/done")
	if want := "{\"n\":2,\"twice\":4}\n{\"n\":3,\"twice\":6}\n"; err != nil || out != want {
		t.Errorf("output %q, %v; want %q", out, err, want)
	}
}

// frames splits a pcap file (libpcap's format, little endian as written here).
func frames(t *testing.T, b []byte) [][]byte {
	t.Helper()
	if len(b) < 24 {
		t.Fatalf("recording of %d bytes", len(b))
	}
	var order binary.ByteOrder = binary.LittleEndian
	if m := binary.BigEndian.Uint32(b); m == 0xa1b2c3d4 || m == 0xa1b23c4d {
		order = binary.BigEndian
	}
	var out [][]byte
	for b = b[24:]; len(b) >= 16; {
		n := int(order.Uint32(b[8:]))
		if len(b) < 16+n {
			break // the recording goes on
		}
		out = append(out, b[16:16+n])
		b = b[16+n:]
	}
	return out
}
