package pid1

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/nodecfg"
)

// TestMain lets the test binary stand for this program as PID 1's children see it:
// /proc/self/exe with a command.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "child" {
		child1(os.Args[2])
	}
	os.Exit(m.Run())
}

func child1(what string) {
	switch what {
	case "exit7":
		os.Exit(7)
	case "print":
		os.Stdout.WriteString("out\n")
		os.Stderr.WriteString("err\x1b[2J\n" + strings.Repeat("x", 10_000) + "\nlast")
		os.Exit(0)
	case "hang":
		forever()
	case "stubborn":
		ignoreTerm()
		os.Stdout.WriteString("ready\n")
		forever()
	}
	os.Exit(99)
}

// forever sleeps until it is killed. With an empty select, Go's runtime ends a process
// without cgo itself: all its goroutines wait, and for nothing.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

// lines collects what a console writes.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// testMachine has a console and a reaper, which ends with the test. The reaper waits for
// every child of this process, so such tests do not run in parallel with others.
func testMachine(t *testing.T) (*machine, *lines) {
	t.Helper()
	out := &lines{}
	m := &machine{power: make(chan request, 1), cfg: nodecfg.Config{TimeScale: 1}}
	m.con = newConsole(out)
	m.log = slog.New(handler{con: m.con})
	m.exits = newReaper(m.log)
	m.spawn("reaper", m.exits.run)
	t.Cleanup(func() {
		m.exits.close()
		m.routes.Wait()
	})
	return m, out
}

func start(t *testing.T, m *machine, what string, w *os.File) *child {
	t.Helper()
	c, err := m.exits.start(program{argv: []string{"runink", "child", what}, env: childEnv(os.Environ()), output: w})
	check(t, err)
	return c
}

func await(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s never happened", what)
	}
}

func TestReaper(t *testing.T) {
	m, _ := testMachine(t)
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	check(t, err)
	defer null.Close()
	t.Run("exit code", func(t *testing.T) {
		c := start(t, m, "exit7", null)
		await(t, "its end", c.done)
		if !c.status.Exited() || c.status.ExitStatus() != 7 {
			t.Errorf("status %v", describe(c.status))
		}
	})
	t.Run("many at once", func(t *testing.T) {
		var cs []*child
		for range 30 {
			cs = append(cs, start(t, m, "exit7", null))
		}
		for _, c := range cs {
			await(t, "its end", c.done)
			if c.status.ExitStatus() != 7 {
				t.Errorf("status %v", describe(c.status))
			}
		}
	})
	t.Run("signal", func(t *testing.T) {
		c := start(t, m, "hang", null)
		m.exits.signal(c, unix.SIGKILL)
		await(t, "its end", c.done)
		if got := describe(c.status); got != "signal SIGKILL" {
			t.Errorf("status %s", got)
		}
		m.exits.signal(c, unix.SIGKILL) // it is gone: no one is hit
	})
	t.Run("a group that is not there", func(t *testing.T) {
		_, err := m.exits.start(program{argv: []string{"runink"}, cgroup: "/nonexistent", output: null})
		if !os.IsNotExist(err) {
			t.Errorf("got %v", err)
		}
	})
}

func TestOutput(t *testing.T) {
	m, out := testMachine(t)
	file := filepath.Join(t.TempDir(), "x.log")
	o, err := newOutput(m.con, "x", file)
	check(t, err)
	var wg sync.WaitGroup
	wg.Go(o.copy)
	c := start(t, m, "print", o.w)
	await(t, "its end", c.done)
	o.close()
	wg.Wait()
	m.con.flush(time.Second)
	got := out.String()
	for _, want := range []string{"x: out\r\n", "x: err?[2J\r\n", "x: last\r\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("console %q lacks %q", got, want)
		}
	}
	log, err := os.ReadFile(file)
	check(t, err)
	if n := strings.Count(string(log), "x"); n != maxLogLine {
		t.Errorf("a line of 10000 bytes left %d, want %d", n, maxLogLine)
	}
}

func TestOutputIsBounded(t *testing.T) {
	con := newConsole(io.Discard)
	file := filepath.Join(t.TempDir(), "x.log")
	o, err := newOutput(con, "x", file)
	check(t, err)
	line := strings.Repeat("y", 1000)
	for range 5000 {
		o.take(line)
	}
	o.close()
	o.copy()
	var total int64
	for _, f := range []string{file, file + ".1"} {
		info, err := os.Stat(f)
		check(t, err)
		total += info.Size()
	}
	if total > 2*maxLogFile {
		t.Errorf("5 MB of output keep %d bytes", total)
	}
}

func TestLimiter(t *testing.T) {
	l := limiter{tokens: burstLines}
	now := time.Unix(1000, 0)
	shown := 0
	for range burstLines + 100 {
		if ok, _ := l.allow(now); ok {
			shown++
		}
	}
	if shown != burstLines {
		t.Errorf("%d of a burst shown, want %d", shown, burstLines)
	}
	ok, dropped := l.allow(now.Add(time.Second))
	if !ok || dropped != 100 {
		t.Errorf("a second later: %v, %d dropped, want 100", ok, dropped)
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	var got []time.Duration
	for range 9 {
		got = append(got, b.after(time.Second))
	}
	want := []time.Duration{250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000}
	for i := range want {
		if got[i] != want[i]*time.Millisecond {
			t.Fatalf("waits %v, want %v ms", got, want)
		}
	}
	if d := b.after(backoffReset); d != backoffFirst {
		t.Errorf("after a long life it waits %v", d)
	}
}
