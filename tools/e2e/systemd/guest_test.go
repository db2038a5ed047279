//go:build cluster

package systemd

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// shell types commands into the guest, by the port that its service reads.
type shell struct {
	boots chan string // the boot id at each start of the service

	mu      sync.Mutex
	conn    net.Conn
	next    int
	waiting map[string]chan answer
}

type answer struct {
	status int
	out    string
}

func newShell() *shell {
	return &shell{boots: make(chan string, 16), waiting: map[string]chan answer{}}
}

// serve reads what the guest says until its machine is off.
func (s *shell) serve(conn net.Conn) {
	defer conn.Close()
	s.mu.Lock()
	s.conn = conn
	s.mu.Unlock()
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		f := strings.Fields(line)
		if len(f) == 2 && f[0] == "boot" {
			s.boots <- f[1]
			continue
		}
		if len(f) < 2 {
			continue // half a line of a guest that was reset
		}
		status, err := strconv.Atoi(f[1])
		if err != nil {
			continue
		}
		var out []byte
		if len(f) == 3 {
			if out, err = base64.StdEncoding.DecodeString(f[2]); err != nil {
				continue
			}
		}
		s.mu.Lock()
		c := s.waiting[f[0]]
		delete(s.waiting, f[0])
		s.mu.Unlock()
		if c != nil {
			c <- answer{status, string(out)}
		}
	}
}

// send starts a command; its answer comes into the channel.
func (s *shell) send(text string) (chan answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	id := fmt.Sprintf("c%d", s.next)
	c := make(chan answer, 1)
	s.waiting[id] = c
	_, err := io.WriteString(s.conn, id+" "+base64.StdEncoding.EncodeToString([]byte(text))+"\n")
	return c, err
}

// try runs a command and returns its status and all it printed.
func (s *shell) try(ctx context.Context, t *testing.T, text string) (int, string) {
	t.Helper()
	c, err := s.send(text)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case a := <-c:
		return a.status, a.out
	case <-ctx.Done():
		t.Fatalf("the guest does not answer %q: %v", text, context.Cause(ctx))
		return 0, ""
	}
}

// run is try of a command that must succeed.
func (s *shell) run(ctx context.Context, t *testing.T, text string) string {
	t.Helper()
	status, out := s.try(ctx, t, text)
	if status != 0 {
		t.Fatalf("in the guest, %q: status %d\n%s", text, status, out)
	}
	return out
}

// up waits for the guest to have started, and returns its boot id.
func (s *shell) up(ctx context.Context, t *testing.T) string {
	t.Helper()
	select {
	case id := <-s.boots:
		return id
	case <-ctx.Done():
		t.Fatalf("the guest did not boot: %v", context.Cause(ctx))
		return ""
	}
}
