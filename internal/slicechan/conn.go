package slicechan

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// SliceURI is the identity in a slice certificate: it authenticates edges only.
func SliceURI(run, slice string, epoch uint64) string {
	return "runink://slice/" + run + "/" + slice + "/" + strconv.FormatUint(epoch, 10)
}

// Conn is one end of the channel. One goroutine may send while another receives.
type Conn struct {
	f   *os.File
	mu  sync.Mutex // serializes senders
	buf []byte
}

// NewConn takes over f, one end of a SOCK_SEQPACKET socketpair.
func NewConn(f *os.File) *Conn { return &Conn{f: f} }

// Pair makes a connected pair of close-on-exec descriptors.
func Pair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("slice channel: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "slicechan"), os.NewFile(uintptr(fds[1]), "slicechan"), nil
}

// Close closes this end.
func (c *Conn) Close() error { return c.f.Close() }

// Send writes one message as one packet. It blocks while the peer's queue is full.
func (c *Conn) Send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > MaxPacket {
		return fmt.Errorf("slice channel: message of %d bytes exceeds %d", len(b), MaxPacket)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err = c.f.Write(b)
	return err
}

// Recv reads one message into v. io.EOF means the peer's last copy was closed.
func (c *Conn) Recv(v any) error {
	size, err := c.next()
	switch {
	case err != nil:
		return err
	case size > MaxPacket:
		if _, err := c.f.Read(make([]byte, 1)); err != nil { // which takes all of it away
			return err
		}
		return fmt.Errorf("slice channel: packet exceeds %d bytes", MaxPacket)
	case len(c.buf) < size+1:
		c.buf = make([]byte, size+1) // one more: a read into nothing says nothing
	}
	n, err := c.f.Read(c.buf)
	switch {
	case errors.Is(err, io.EOF), err == nil && n == 0:
		return io.EOF
	case err != nil:
		return err
	}
	if err := json.Unmarshal(c.buf[:n], v); err != nil {
		return fmt.Errorf("slice channel: %w", err)
	}
	return nil
}

// next waits for a packet and returns its size, 0 at the end. Messages are small, and a node
// has a channel for each slice: to keep room for the largest in each costs more than to ask.
func (c *Conn) next() (size int, err error) {
	raw, err := c.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var perr error
	err = raw.Read(func(fd uintptr) bool {
		for {
			size, _, perr = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_TRUNC)
			if !errors.Is(perr, unix.EINTR) {
				return !errors.Is(perr, unix.EAGAIN)
			}
		}
	})
	if err == nil && perr != nil {
		err = &os.PathError{Op: "read", Path: c.f.Name(), Err: perr}
	}
	return size, err
}

// NewAgentID returns a random id for Hello.
func NewAgentID() string { return rand.Text()[:12] }
