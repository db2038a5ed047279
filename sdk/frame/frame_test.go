package frame_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/runink/runink/sdk/frame"
)

func sample() []byte {
	f := frame.Append(nil, frame.Header{
		Kind: frame.Data, Flags: frame.HasOrigins, Schema: 7, Seq: 3, Split: 1, Rows: 2, Mark: -5, Epoch: 9, Run: frame.RunHash("r"), Edge: 4,
	})
	for _, s := range []string{"ab", "c"} {
		f = frame.AppendU32(f, uint32(len(s)))
	}
	f = append(f, "abc"...)
	f = frame.AppendU64(f, 10)
	f = frame.AppendU64(f, 20)
	if err := frame.Seal(f, 0); err != nil {
		panic(err)
	}
	return f
}

func TestRoundTrip(t *testing.T) {
	h, body, err := frame.Parse(sample())
	if err != nil {
		t.Fatal(err)
	}
	if h.Seq != 3 || h.Rows != 2 || h.Mark != -5 || h.Epoch != 9 || h.Edge != 4 || h.Schema != 7 || h.Run != frame.RunHash("r") || h.Split != 1 {
		t.Errorf("header %+v", h)
	}
	c := frame.NewCols(body, h.Rows)
	lens, text := c.Text()
	offsets := c.Fixed(8)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if frame.Len(lens, 0) != 2 || text != "abc" || frame.U64(offsets, 1) != 20 {
		t.Errorf("columns %v %q %v", lens, text, offsets)
	}
}

// Every single changed bit is noticed.
func TestChecksumCoversEverything(t *testing.T) {
	f := sample()
	for i := range f {
		for bit := range 8 {
			g := bytes.Clone(f)
			g[i] ^= 1 << bit
			if _, _, err := frame.Parse(g); !errors.Is(err, frame.ErrChecksum) && !errors.Is(err, frame.ErrMalformed) {
				t.Fatalf("bit %d of byte %d: %v", bit, i, err)
			}
		}
	}
}

func TestReadStream(t *testing.T) {
	f := sample()
	r := bytes.NewReader(append(bytes.Clone(f), f...))
	for range 2 {
		g, err := frame.Read(r)
		if err != nil || !bytes.Equal(f, g) {
			t.Fatalf("%v", err)
		}
	}
	if _, err := frame.Read(r); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for _, n := range []int{1, frame.HeaderSize - 1, frame.HeaderSize, len(f) - 1} {
		if _, err := frame.Read(bytes.NewReader(f[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes of a frame: %v", n, err)
		}
	}
}

// No input makes the parser panic, and columns never reach outside the body.
func FuzzParse(f *testing.F) {
	f.Add(sample())
	f.Add([]byte{})
	f.Add(sample()[:frame.HeaderSize])
	f.Fuzz(func(t *testing.T, data []byte) {
		if g, err := frame.Read(bytes.NewReader(data)); err == nil && len(g) > len(data) {
			t.Fatal("read more than there is")
		}
		h, body, err := frame.Parse(data)
		if err != nil {
			// Columns are also read from bodies whose checksum happens to hold: try them anyway.
			body, h.Rows = data, uint32(len(data)/3)
		}
		c := frame.NewCols(body, h.Rows)
		lens, text := c.Text()
		n := 0
		for i := range c.Rows() {
			l := frame.Len(lens, i)
			_ = text[n : n+l]
			n += l
		}
		for _, w := range []int{1, 2, 4, 8} {
			if col := c.Fixed(w); c.Err() == nil && len(col) != c.Rows()*w {
				t.Fatalf("a column of %d bytes for %d rows", len(col), c.Rows())
			}
		}
		_ = c.Close()
	})
}
