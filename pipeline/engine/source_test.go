package engine

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/pipeline/format/jsonl"
)

// Every record is in the chunk of its first byte, and the chunks together are the file.
func TestChunksDependOnOffsetsAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var data []byte
		for _, n := range rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 17, 4 << 10, ChunkSize - 1, ChunkSize, ChunkSize + 1, 3 * ChunkSize}), 0, 8).Draw(t, "lines") {
			data = append(append(data, bytes.Repeat([]byte{'x'}, n)...), '\n')
		}
		if rapid.Bool().Draw(t, "unterminated") && len(data) > 0 {
			data = data[:len(data)-1]
		}
		c := newChunker(bytes.NewReader(data), int64(len(data)), Framing{Next: jsonl.Next})
		var all []byte
		last := int64(-1)
		for {
			b, base, err := c.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if base != int64(len(all)) || base/ChunkSize <= last {
				t.Fatalf("a chunk at %d, after %d bytes and chunk %d", base, len(all), last)
			}
			last = base / ChunkSize
			off := base
			for line := range bytes.Lines(*b) {
				if off/ChunkSize != last {
					t.Fatalf("the record at %d is in chunk %d", off, last)
				}
				off += int64(len(line))
			}
			all = append(all, *b...)
			c.put(b)
		}
		if !bytes.Equal(all, data) {
			t.Fatalf("%d bytes in chunks, the file has %d", len(all), len(data))
		}
	})
}

func TestChangedSourceIsNoticed(t *testing.T) {
	name := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(name, []byte("a\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := (&FileSource{Path: name}).Open(context.Background(), Split{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Verify(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("longer\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Verify(); errs.KindOf(err) != errs.Conflict {
		t.Errorf("error %v", err)
	}
}

// A spool whose reader is not active takes everything and gives it back in order; once
// it is active, the producer waits.
func TestSpool(t *testing.T) {
	ctx := context.Background()
	s := newSpool(t.TempDir())
	const n = 12
	frame := func(i int) []byte { return []byte(strings.Repeat(string(rune('a'+i)), 1<<20)) }
	for i := range n {
		if err := s.Send(ctx, frame(i)); err != nil {
			t.Fatal(err)
		}
	}
	s.activate()
	sent := make(chan error, 1)
	go func() {
		for i := range n {
			if err := s.Send(ctx, frame(n+i)); err != nil {
				sent <- err
				return
			}
		}
		sent <- s.Close(ctx)
	}()
	for i := range 2 * n {
		f, err := s.Recv(ctx)
		if err != nil || !bytes.Equal(f, frame(i)) {
			t.Fatalf("frame %d: %v", i, err)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(ctx); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
	s.release()
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := newSpool("").Recv(cancelled); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}
