package pid1

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// consoleQueue is how many lines may wait for a slow serial line.
const consoleQueue = 1024

// console writes whole lines to the machine's console, in order, and never blocks its
// callers: a serial line is slow, and a stalled reader of it must not stall PID 1. When
// its queue is full, lines are dropped and their number is said later. It only appends,
// so that a recorded console reads like a log.
type console struct {
	lines   chan consoleLine
	dropped atomic.Int64

	mu   sync.Mutex
	also []io.Writer // further consoles; see add
}

type consoleLine struct {
	text string
	done chan struct{} // closed when everything before it is written
}

// newConsole starts the writer. It lives as long as the process: the last line must get
// out after everything else has stopped.
func newConsole(w io.Writer) *console {
	c := &console{lines: make(chan consoleLine, consoleQueue)}
	go c.write(w)
	return c
}

func (c *console) write(w io.Writer) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(w, "\nrunink: PANIC in console: %v\n", p)
		}
	}()
	for l := range c.lines {
		if n := c.dropped.Swap(0); n > 0 {
			fmt.Fprintf(w, "runink: %d console lines dropped\r\n", n)
		}
		if l.text != "" {
			// A console that cannot be written has nobody to tell it to.
			io.WriteString(w, l.text+"\r\n")
			for _, other := range c.others() {
				io.WriteString(other, l.text+"\r\n")
			}
		}
		if l.done != nil {
			close(l.done)
		}
	}
}

// add makes w a console too, for the lines that are written from here on.
func (c *console) add(w io.Writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.also = append(c.also, w)
}

func (c *console) others() []io.Writer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.also
}

// findConsoles writes to every console that the kernel does (console= may be given more
// than once: a screen and a serial line). /dev/console, which we were started with, is only
// the last of them.
func (m *machine) findConsoles(context.Context) error {
	active, err := os.ReadFile("/sys/class/tty/console/active")
	if err != nil {
		m.log.Warn("only one console is written to", "err", err)
		return nil
	}
	names := strings.Fields(string(active))
	for _, name := range names[:max(len(names)-1, 0)] {
		f, err := os.OpenFile(filepath.Join("/dev", name), os.O_WRONLY|unix.O_NOCTTY, 0)
		if err != nil {
			m.log.Warn("a console is not written to", "name", name, "err", err)
			continue
		}
		m.con.add(f) // for as long as the machine runs
	}
	return nil
}

// line queues one line as it is. Control characters are made visible: what a child prints
// must not move the cursor or forge another line.
func (c *console) line(s string) {
	select {
	case c.lines <- consoleLine{text: printable(s)}:
	default:
		c.dropped.Add(1)
	}
}

// printf queues a line of our own.
func (c *console) printf(format string, args ...any) {
	for l := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		c.line("runink: " + l)
	}
}

// flush waits until everything queued before is written, at most d.
func (c *console) flush(d time.Duration) {
	done := make(chan struct{})
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case c.lines <- consoleLine{done: done}:
	case <-timer.C:
		return
	}
	select {
	case <-done:
	case <-timer.C:
	}
}

func printable(s string) string {
	clean := func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\uFFFD' }
	if !strings.ContainsFunc(s, clean) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if clean(r) {
			return '?'
		}
		return r
	}, s)
}

// handler makes an slog.Handler of a console. Lines read "runink: message key=value".
type handler struct {
	con   *console
	attrs string // given by WithAttrs, written
}

// Enabled implements slog.Handler.
func (h handler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// Handle implements slog.Handler.
func (h handler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	if r.Level > slog.LevelInfo {
		b.WriteString(r.Level.String() + " ")
	}
	b.WriteString(r.Message)
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		writeAttr(&b, a)
		return true
	})
	h.con.line("runink: " + b.String())
	return nil
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs(as []slog.Attr) slog.Handler {
	var b strings.Builder
	for _, a := range as {
		writeAttr(&b, a)
	}
	return handler{con: h.con, attrs: h.attrs + b.String()}
}

// WithGroup implements slog.Handler; groups have no place in a console line.
func (h handler) WithGroup(string) slog.Handler { return h }

func writeAttr(b *strings.Builder, a slog.Attr) {
	v := a.Value.Resolve().String()
	if v == "" || strings.ContainsAny(v, " \"\n\t=") {
		v = strconv.Quote(v)
	}
	b.WriteString(" " + a.Key + "=" + v)
}
