package qemu

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

// Line is one line of a console.
type Line struct {
	At   time.Duration // when the harness read its end
	Text string        // without line end, control sequences removed
}

// maxLine is where a line without an end is broken, in bytes.
const maxLine = 16 << 10

// Console is everything a machine wrote on its serial port, over all its boots. It is
// read as fast as the machine writes, whether anyone waits or not: a full pipe would
// stop the guest. Safe for concurrent use.
type Console struct {
	machine string
	journal *Journal
	log     io.Writer // every line with its time; may be nil

	mu      sync.Mutex
	lines   []Line
	partial []byte          // of the line being read, at most maxLine
	buf     [maxLine]byte   // what take reads into
	in      syscall.RawConn // the pipe from the machine; nil while it is off
	ended   bool            // the machine is off
	changed chan struct{}   // closed and replaced at each change
}

func newConsole(machine string, j *Journal, log io.Writer) *Console {
	return &Console{machine: machine, journal: j, log: log, ended: true, changed: make(chan struct{})}
}

var controlSequence = regexp.MustCompile("\x1b(\\[[0-9;?=]*[A-Za-z]|[()][A-Z0-9]|c)|[\x00-\x08\x0b-\x1f\x7f]")

// drain reads one boot's output until it ends.
func (c *Console) drain(r *os.File) error {
	in, err := r.SyscallConn()
	if err != nil {
		return err
	}
	c.set(func() { c.ended, c.in = false, in })
	defer c.set(func() {
		c.endLine()
		c.ended, c.in = true, nil
	})
	for {
		var n int
		var readErr error
		err := in.Read(func(fd uintptr) bool {
			n, readErr = c.take(int(fd))
			return !errors.Is(readErr, unix.EAGAIN)
		})
		if err := cmp.Or(err, readErr); err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

// cut ends the line the machine was writing when it was reset: what it writes next is
// another boot's, and "F" of a line that was never finished must not become a part of it.
//
// QEMU tells of a reset before the guest runs again, so what it wrote earlier is in the
// pipe by now or was read. It is read here first, and reading and adding are one step
// under the lock: else the rest of the old line could come after its end.
func (c *Console) cut() {
	c.mu.Lock()
	in := c.in
	c.mu.Unlock()
	if in == nil {
		return // off: drain ended the line
	}
	// An error here is drain's too, which reports it.
	_ = in.Control(func(fd uintptr) {
		for range 64<<10/maxLine + 1 { // what a pipe holds
			if n, err := c.take(int(fd)); n == 0 || err != nil {
				break
			}
		}
		c.set(c.endLine)
	})
}

// take reads once, without waiting, and adds what it got. It returns 0 at the end and
// EAGAIN when there is nothing to read yet.
func (c *Console) take(fd int) (n int, err error) {
	c.set(func() {
		for {
			n, err = unix.Read(fd, c.buf[:])
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
		for rest := c.buf[:max(n, 0)]; len(rest) > 0; {
			end := bytes.IndexByte(rest, '\n') + 1
			if end == 0 {
				end = len(rest)
			}
			end = min(end, maxLine-len(c.partial))
			c.partial = append(c.partial, rest[:end]...)
			rest = rest[end:]
			if len(c.partial) == maxLine || c.partial[len(c.partial)-1] == '\n' {
				c.endLine()
			}
		}
	})
	return max(n, 0), err
}

// endLine makes a line of what was read since the last one; the caller holds mu.
func (c *Console) endLine() {
	if len(c.partial) == 0 {
		return
	}
	text := controlSequence.ReplaceAllString(strings.TrimRight(string(c.partial), "\r\n"), "")
	c.partial = c.partial[:0]
	l := Line{c.journal.Now(), text}
	c.lines = append(c.lines, l)
	if c.log != nil {
		// A console log that cannot be written must not stop the machine; the
		// lines stay in memory and Tail shows them.
		_, _ = fmt.Fprintf(c.log, "%10.3f %s %s\n", l.At.Seconds(), c.machine, text)
	}
}

func (c *Console) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

// Mark is a place in the console's output.
type Mark int

// Mark returns the place after the last line read.
func (c *Console) Mark() Mark {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Mark(len(c.lines))
}

// Since returns the lines after a mark; Since(0) is everything.
func (c *Console) Since(m Mark) []Line {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Line(nil), c.lines[min(int(m), len(c.lines)):]...)
}

// Wait returns the first line after from that matches, with its submatches. It fails with
// the last lines of the console: kind Timeout when ctx ends, Unavailable when the machine
// is off and no line matched.
func (c *Console) Wait(ctx context.Context, from Mark, re *regexp.Regexp) (Line, []string, error) {
	next := int(from)
	for {
		c.mu.Lock()
		lines, ended, changed := c.lines, c.ended, c.changed
		c.mu.Unlock()
		for ; next < len(lines); next++ {
			if m := re.FindStringSubmatch(lines[next].Text); m != nil {
				return lines[next], m, nil
			}
		}
		if ended {
			return Line{}, nil, errs.E(errs.Unavailable, "wait for console", "%s is off and never wrote %q; its last lines:\n%s", c.machine, re, c.Tail(30))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Line{}, nil, errs.E(errs.Timeout, "wait for console", "%s did not write %q: %w; its last lines:\n%s", c.machine, re, context.Cause(ctx), c.Tail(30))
		}
	}
}

// Tail formats the last n lines.
func (c *Console) Tail(n int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, l := range c.lines[max(0, len(c.lines)-n):] {
		fmt.Fprintf(&b, "%10.3f %s| %s\n", l.At.Seconds(), c.machine, l.Text)
	}
	return b.String()
}
