package agent

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// pipe makes a pipe whose read end the runtime polls, as the keeper hands them out.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	r, w = os.NewFile(uintptr(p[0]), "r"), os.NewFile(uintptr(p[1]), "w")
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func readAll(t *testing.T, l *logStream, offset int64) ([]byte, int64) {
	t.Helper()
	var out []byte
	first := int64(-1)
	next := int64(-1)
	err := l.read(t.Context(), offset, false, func(data []byte, at int64) error {
		if first < 0 {
			first = at
		} else if at != next {
			return fmt.Errorf("gap: piece at %d, expected %d", at, next)
		}
		next = at + int64(len(data))
		out = append(out, data...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, first
}

func TestLogKeepsEveryByteWithinItsBound(t *testing.T) {
	r, w := pipe(t)
	l, err := openLogStream(t.TempDir(), "stdout")
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for i := 0; all.Len() < (logSegments+3)*logSegmentBytes; i++ {
		fmt.Fprintf(&all, "line %d\n", i)
	}
	go func() {
		_, _ = w.Write(all.Bytes()) // a short write shows as missing bytes below
		w.Close()
	}()
	if err := l.capture(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got, first := readAll(t, l, 0)
	if first == 0 || int64(len(got)) > logSegments*logSegmentBytes+splicePiece*logSegments {
		t.Fatalf("kept %d bytes from offset %d: the bound does not hold", len(got), first)
	}
	if !bytes.Equal(got, all.Bytes()[first:]) {
		t.Fatal("what is kept is not the end of what was written")
	}
	for range 20 {
		from := first + rand.Int64N(int64(len(got)))
		part, at := readAll(t, l, from)
		if at != from || !bytes.Equal(part, all.Bytes()[from:]) {
			t.Fatalf("read from %d returned other bytes (from %d)", from, at)
		}
	}
}

// An agent that is killed again and again, wherever it is, loses and doubles nothing.
func TestLogSurvivesKilledReaders(t *testing.T) {
	if dir := os.Getenv("RUNINK_TEST_LOG_READER"); dir != "" {
		l, err := openLogStream(dir, "stdout")
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SetNonblock(3, true); err != nil {
			t.Fatal(err)
		}
		if err := l.capture(t.Context(), os.NewFile(3, "pipe")); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir := t.TempDir()
	r, w := pipe(t)
	var all bytes.Buffer
	for i := range 400_000 {
		all.WriteString(strconv.Itoa(i))
		all.WriteByte('\n')
	}
	go func() {
		_, _ = w.Write(all.Bytes())
		w.Close()
	}()
	kills := 0
	for {
		cmd := exec.Command(os.Args[0], "-test.run=^TestLogSurvivesKilledReaders$")
		cmd.Env = append(os.Environ(), "RUNINK_TEST_LOG_READER="+dir)
		cmd.ExtraFiles = []*os.File{r}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if kills < 25 {
			// Killed as soon as it has stored something more than its predecessor.
			before := stored(t, dir)
			for stored(t, dir) == before && cmd.ProcessState == nil {
				if err := cmd.Process.Signal(unix.Signal(0)); err != nil {
					break
				}
			}
			_ = cmd.Process.Kill() // it may have finished
			_ = cmd.Wait()
			kills++
			if stored(t, dir) < int64(all.Len()) {
				continue
			}
		}
		if err := cmd.Wait(); err == nil || kills < 25 {
			break
		} else {
			t.Fatalf("last reader: %v", err)
		}
	}
	l, err := openLogStream(dir, "stdout")
	if err != nil {
		t.Fatal(err)
	}
	l.finish()
	got, _ := readAll(t, l, 0)
	if !bytes.Equal(got, all.Bytes()) {
		t.Fatalf("%d bytes after %d kills, written were %d", len(got), kills, all.Len())
	}
}

func stored(t *testing.T, dir string) int64 {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		n += fi.Size()
	}
	return n
}

func TestLogFollowEndsWithTheStream(t *testing.T) {
	r, w := pipe(t)
	l, err := openLogStream(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	var got []byte
	go func() {
		done <- l.read(context.Background(), 0, true, func(d []byte, _ int64) error {
			got = append(got, d...)
			if bytes.HasSuffix(got, []byte("two\n")) {
				w.Close()
			}
			return nil
		})
	}()
	captured := make(chan error, 1)
	go func() { captured <- l.capture(context.Background(), r) }()
	for _, s := range []string{"one\n", "two\n"} {
		if _, err := w.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-captured; err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if string(got) != "one\ntwo\n" {
		t.Fatalf("followed %q", got)
	}
}

// A slice that says nothing costs no file; what says little is there when it ends.
func TestLogOfASilentSlice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs", "a")
	logs, err := openLogs(dir)
	if err != nil {
		t.Fatal(err)
	}
	for stream, text := range map[string]string{"stdout": "", "stderr": "a word"} {
		r, w := pipe(t)
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if err := logs[stream].capture(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "stderr.0" {
		t.Fatalf("%v, %v", entries, err)
	}
	again, err := openLogs(dir) // as another agent finds them
	if err != nil {
		t.Fatal(err)
	}
	for stream, text := range map[string]string{"stdout": "", "stderr": "a word"} {
		again[stream].finish()
		if got, _ := readAll(t, again[stream], 0); string(got) != text {
			t.Errorf("%s: %q", stream, got)
		}
	}
}
