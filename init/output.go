package pid1

import (
	"bufio"
	"errors"
	"io"
	"os"
	"strings"
	"time"
)

const (
	maxLogFile = 1 << 20 // bytes of a component's log; the one before it is kept too
	maxLogLine = 4 << 10 // bytes; longer ones are cut
	burstLines = 200     // of a component on the console at once
	linesPerS  = 20      // of a component on the console, in the long run
)

// output takes what a component prints: all of it into a bounded file, and to the console
// with the component's name before each line, as much as a serial line bears. The pipe
// outlives the process, so nothing is lost between two runs.
type output struct {
	con        *console
	name, file string
	r, w       *os.File
	log        *os.File
	size       int64
	limit      limiter
}

func newOutput(con *console, name, file string) (*output, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	o := &output{con: con, name: name, file: file, r: r, w: w, limit: limiter{tokens: burstLines}}
	if err := o.openLog(); err != nil {
		return nil, errors.Join(err, r.Close(), w.Close())
	}
	return o, nil
}

func (o *output) openLog() error {
	f, err := os.OpenFile(o.file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	o.log, o.size = f, 0
	return nil
}

// close ends copy, after it has read what is in the pipe.
func (o *output) close() {
	o.w.Close()
	// A process that inherited the pipe (and should not have) must not hold up our end.
	o.r.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
}

// copy runs until close.
func (o *output) copy() {
	defer o.r.Close()
	defer func() { o.log.Close() }()
	in := bufio.NewReaderSize(o.r, maxLogLine)
	for {
		line, err := in.ReadSlice('\n')
		cut := errors.Is(err, bufio.ErrBufferFull)
		if len(line) > 0 {
			o.take(strings.TrimRight(string(line), "\r\n"))
		}
		for cut { // the rest of a line that is too long
			_, err = in.ReadSlice('\n')
			cut = errors.Is(err, bufio.ErrBufferFull)
		}
		if err != nil {
			return
		}
	}
}

func (o *output) take(line string) {
	if o.size+int64(len(line)) >= maxLogFile {
		o.log.Close()
		if err := errors.Join(os.Rename(o.file, o.file+".1"), o.openLog()); err != nil {
			o.con.printf("log of %s: %v", o.name, err)
		}
	}
	n, err := io.WriteString(o.log, line+"\n")
	o.size += int64(n)
	if err != nil && o.limit.dropped == 0 {
		o.con.printf("log of %s: %v", o.name, err)
	}
	show, dropped := o.limit.allow(time.Now())
	if !show {
		return
	}
	if dropped > 0 {
		o.con.printf("%d lines of %s are only in its log", dropped, o.name)
	}
	o.con.line(o.name + ": " + line)
}

// limiter is a token bucket of linesPerS and burstLines.
type limiter struct {
	tokens  float64
	last    time.Time
	dropped int
}

// allow reports whether a line may be shown, and how many were not since the last one.
func (l *limiter) allow(now time.Time) (ok bool, dropped int) {
	if !l.last.IsZero() {
		l.tokens = min(burstLines, l.tokens+now.Sub(l.last).Seconds()*linesPerS)
	}
	l.last = now
	if l.tokens < 1 {
		l.dropped++
		return false, 0
	}
	l.tokens--
	dropped, l.dropped = l.dropped, 0
	return true, dropped
}
