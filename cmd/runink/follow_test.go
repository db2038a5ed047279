package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// follower is the program while it follows something, until a Ctrl-C.
type follower struct {
	c      *realCluster
	typed  string
	cmd    *exec.Cmd
	lines  chan string // closed where its output ends
	stderr bytes.Buffer
}

// follow starts the program, as typed does.
func (c *realCluster) follow(args ...string) *follower {
	c.t.Helper()
	f := &follower{c: c, typed: "runink " + strings.Join(args, " "), cmd: c.command(args...), lines: make(chan string, 1)}
	f.cmd.Stderr = &f.stderr
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := f.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		defer close(f.lines)
		in := bufio.NewReader(out)
		for {
			line, err := in.ReadString('\n')
			if line != "" {
				f.lines <- line
			}
			if err != nil {
				return
			}
		}
	}()
	return f
}

// next waits for a line. Until it comes, something happens again and again, if that is given:
// when the program begins to listen cannot be seen from here.
func (f *follower) next(happen func()) string {
	f.c.t.Helper()
	for {
		if happen != nil {
			happen()
		}
		select {
		case line, ok := <-f.lines:
			if !ok {
				f.c.t.Fatalf("%s ended: %v\n%s", f.typed, f.cmd.Wait(), &f.stderr)
			}
			return line
		case <-time.After(100 * time.Millisecond): // a poll, not an assertion
		case <-f.c.t.Context().Done():
			f.c.t.Fatal(f.c.t.Context().Err())
		}
	}
}

// interrupt is a Ctrl-C. It returns the cursor that the program says to go on from; what it
// printed by then is left for rest.
func (f *follower) interrupt() (cursor string) {
	f.c.t.Helper()
	if err := f.cmd.Process.Signal(os.Interrupt); err != nil {
		f.c.t.Fatal(err)
	}
	var kept []string
	for line := range f.lines {
		kept = append(kept, line)
	}
	if err := f.cmd.Wait(); err != nil {
		f.c.t.Errorf("%s, interrupted: %v\n%s", f.typed, err, &f.stderr)
	}
	f.lines = make(chan string, len(kept))
	for _, line := range kept {
		f.lines <- line
	}
	close(f.lines)
	m := regexp.MustCompile(`(?m)^to go on from here: runink events --follow --since (\S+)$`).FindStringSubmatch(f.stderr.String())
	if m == nil {
		f.c.t.Fatalf("%s says no cursor to go on from:\n%s", f.typed, &f.stderr)
	}
	return m[1]
}

// rest is what was printed before the end.
func (f *follower) rest() []string {
	var out []string
	for line := range f.lines {
		out = append(out, line)
	}
	return out
}
