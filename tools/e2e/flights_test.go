//go:build cluster

package e2e

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestFlightsOnThreeNodes(t *testing.T) {
	c := demo(t)
	ctx := limit(t, c, time.Minute)
	id := submit(ctx, t, c, "--wait")
	r := until(ctx, t, c, id, "success", finished)
	nodes := map[string]bool{}
	slices := 0
	for _, reg := range r.Regions {
		for _, s := range reg.Slices {
			nodes[s.Node] = true
			slices++
		}
	}
	if slices < 3 || len(nodes) < 2 {
		t.Errorf("%d slices on %d nodes; at least 3 on 2 are expected", slices, len(nodes))
	}
	verify(ctx, t, c, id)
	edgeIsSealed(t)
}

// edgeIsSealed reads the switch's recording: the edge's bytes went between nodes, inside
// WireGuard, and no row of the data did in clear, not even on its way into the cluster.
func edgeIsSealed(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(shared.dir, capture))
	if err != nil {
		t.Fatal(err)
	}
	sealed := 0
	for _, frame := range frames(t, b) {
		if len(frame) > 42 && binary.BigEndian.Uint16(frame[12:]) == 0x0800 && frame[23] == 17 &&
			binary.BigEndian.Uint16(frame[36:]) == 7462 {
			sealed += len(frame) - 42
		}
	}
	// 19,997 joined rows leave one node for another: three fields each.
	if sealed < 100_000 {
		t.Errorf("%d bytes went through WireGuard; the edge alone carries more", sealed)
	}
	for _, clear := range []string{"Salt Lake City", `"origin":"`, "Phoenix Sky Harbor"} {
		if bytes.Contains(b, []byte(clear)) {
			t.Errorf("%q was seen in clear on the switch", clear)
		}
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
