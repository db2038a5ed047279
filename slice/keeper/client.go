package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

// Client talks to the keeper. Every call uses a connection of its own, so a slow launch never
// delays SetDeadline, and a client that dies in a call leaves nothing behind. Safe for
// concurrent use.
//
// Errors are errs errors: the keeper's own, or errs.Unavailable when it cannot be reached and
// errs.Timeout when ctx ended; after both, the operation may have happened. All operations
// may be repeated.
type Client struct{ path string }

// NewClient makes a client of the keeper that listens on path (nodecfg.KeeperSock). It does
// not connect.
func NewClient(path string) *Client { return &Client{path: path} }

// Handle is a launched slice.
type Handle struct {
	PID int
	// PidFD becomes readable when the slice ends (poll it; it carries no status: see List).
	// Nil when the slice has ended already. The caller closes it.
	PidFD *os.File
	// Existing is true when the id had been launched before; nothing was started then.
	Existing bool
}

// Launch starts a slice, or finds the one with the same id. files become descriptors 4, 5, …
// of the slice; the caller keeps and closes its own copies.
//
// Errors: Invalid (a field of spec); Fenced (a newer epoch of the slice is known, this one was
// acknowledged, or the deadline has passed or was never set); Conflict (an older epoch still runs: kill it first);
// Exhausted (no free uid). When the sandbox cannot be built the launch fails with Internal and
// leaves nothing behind; once it is built, the slice's end is reported by List only.
func (c *Client) Launch(ctx context.Context, spec *LaunchSpec, files []*os.File) (*Handle, error) {
	fds, err := rawFDs(files)
	if err != nil {
		return nil, errs.Wrap("launch "+spec.ID, err)
	}
	rep, got, err := c.call(ctx, &request{Op: opLaunch, Launch: spec}, fds)
	runtime.KeepAlive(files)
	if err != nil {
		return nil, errs.Wrap("launch "+spec.ID, err)
	}
	h := &Handle{PID: rep.PID, Existing: rep.Existing}
	if rep.PidFD && len(got) == 1 {
		h.PidFD = got[0]
	} else {
		closeAll(got)
	}
	return h, nil
}

// List returns all slices, running or exited and not acknowledged, ordered by id. Whose end a
// pidfd has told is in it as exited.
func (c *Client) List(ctx context.Context) ([]Slice, error) {
	var all []Slice
	req := &request{Op: opList}
	for {
		rep, got, err := c.call(ctx, req, nil)
		closeAll(got)
		if err != nil {
			return nil, errs.Wrap("list slices", err)
		}
		all = append(all, rep.Slices...)
		if !rep.More || len(rep.Slices) == 0 {
			return all, nil
		}
		req.After = rep.Slices[len(rep.Slices)-1].ID
	}
}

// Get returns one slice, as List would. Errors: NotFound.
func (c *Client) Get(ctx context.Context, id string) (*Slice, error) {
	req := &request{Op: opList, ID: id}
	for {
		rep, got, err := c.call(ctx, req, nil)
		closeAll(got)
		if err != nil {
			return nil, errs.Wrap("find slice "+id, err)
		}
		for i := range rep.Slices {
			if rep.Slices[i].ID == id {
				return &rep.Slices[i], nil
			}
		}
		if !rep.More || len(rep.Slices) == 0 {
			return nil, errs.E(errs.NotFound, "find slice "+id, "the keeper does not know it")
		}
		req.After = rep.Slices[len(rep.Slices)-1].ID // of a keeper that is older than this, and lists all
	}
}

// Attachment is an agent's hold on a slice. The keeper keeps copies of all, so closing them
// ends nothing. The caller closes them (Close closes all).
type Attachment struct {
	// Channel is the node's end of the slice channel, non-blocking: slicechan.NewConn takes it.
	Channel *os.File
	// Stdout and Stderr are read ends of pipes. What is read here is gone for the next agent:
	// move it with splice(2), so that no line can be lost in between. After the slice's end
	// they give what was left, then EOF; Ack throws the rest away.
	Stdout, Stderr *os.File
	// PidFD as in Handle; nil when the slice has ended.
	PidFD *os.File
}

// Close closes what the attachment holds.
func (a *Attachment) Close() {
	closeAll([]*os.File{a.Channel, a.Stdout, a.Stderr, a.PidFD})
}

// Attach lends the slice's channel and log pipes. Two holders at a time would steal each
// other's messages; the keeper does not prevent it. Errors: NotFound.
func (c *Client) Attach(ctx context.Context, id string) (*Attachment, error) {
	rep, got, err := c.call(ctx, &request{Op: opAttach, ID: id}, nil)
	if err != nil {
		return nil, errs.Wrap("attach "+id, err)
	}
	want := 3
	if rep.PidFD {
		want = 4
	}
	if len(got) != want {
		closeAll(got)
		return nil, errs.E(errs.Internal, "attach "+id, "the keeper sent %d descriptors, expected %d", len(got), want)
	}
	a := &Attachment{Channel: got[0], Stdout: got[1], Stderr: got[2]}
	if rep.PidFD {
		a.PidFD = got[3]
	}
	return a, nil
}

// Signal sends sig to the slice's process. The bundle is PID 1 of its namespace: signals it
// has no handler for are ignored; Go programs handle SIGTERM. A slice that has ended is no
// error. Errors: NotFound, Invalid (SIGKILL: use Kill).
func (c *Client) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	_, got, err := c.call(ctx, &request{Op: opSignal, ID: id, Signal: int(sig)}, nil)
	closeAll(got)
	return errs.Wrap("signal "+id, err)
}

// Kill ends all of a slice's processes now; its exit then says ReasonKilled with reason as
// Detail. It does not wait for them. A slice that has ended is no error. Errors: NotFound.
func (c *Client) Kill(ctx context.Context, id, reason string) error {
	_, got, err := c.call(ctx, &request{Op: opKill, ID: id, Reason: reason}, nil)
	closeAll(got)
	return errs.Wrap("kill "+id, err)
}

// Ack forgets an ended slice and cleans up after it: cgroup, network, pipes; its uid is free
// again once all is verified gone. Unread log bytes are lost. An unknown id is no error, so
// Ack may be repeated; it may follow the pidfd's word at once. Errors: Conflict (it still runs), Internal (something of it is left;
// the slice stays listed, try again).
func (c *Client) Ack(ctx context.Context, id string) error {
	_, got, err := c.call(ctx, &request{Op: opAck, ID: id}, nil)
	closeAll(got)
	return errs.Wrap("acknowledge "+id, err)
}

// SetDeadline moves the deadman to t on CLOCK_BOOTTIME (see Boottime) and returns the
// deadline that holds: an earlier t than the current one changes nothing, so late answers to
// old heartbeats are harmless. Until it was called once, nothing can be launched.
func (c *Client) SetDeadline(ctx context.Context, t time.Duration) (time.Duration, error) {
	rep, got, err := c.call(ctx, &request{Op: opSetDeadline, Deadline: t}, nil)
	closeAll(got)
	if err != nil {
		return 0, errs.Wrap("set the deadline", err)
	}
	return rep.Deadline, nil
}

// SetHerd sets limits for all slices of a herd on this node together; zero fields are not
// limited. TmpBytes and FileBytes do not apply.
func (c *Client) SetHerd(ctx context.Context, herd string, l Limits) error {
	_, got, err := c.call(ctx, &request{Op: opSetHerd, Herd: herd, Limits: &l}, nil)
	closeAll(got)
	return errs.Wrap("limit herd "+herd, err)
}

// Capabilities says what the keeper enforces; it doubles as the keeper's health check.
func (c *Client) Capabilities(ctx context.Context) (*Capabilities, error) {
	rep, got, err := c.call(ctx, &request{Op: opCapabilities}, nil)
	closeAll(got)
	if err != nil {
		return nil, errs.Wrap("ask the keeper", err)
	}
	if rep.Capabilities == nil {
		return nil, errs.E(errs.Internal, "ask the keeper", "empty answer")
	}
	return rep.Capabilities, nil
}

// Boottime is the time since boot, suspension included: the clock of SetDeadline.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("CLOCK_BOOTTIME: %v", err)) // Linux >= 2.6.39 always has it
	}
	return time.Duration(ts.Nano())
}

// call sends one request and reads its reply. Descriptors that come back belong to the
// caller, close-on-exec set, even when err is not nil they are closed already.
func (c *Client) call(ctx context.Context, req *request, fds []int) (*reply, []*os.File, error) {
	b, err := json.Marshal(req)
	if err != nil {
		return nil, nil, errs.E(errs.Invalid, "", "%w", err)
	}
	if len(b) > MaxPacket {
		return nil, nil, errs.E(errs.Invalid, "", "request of %d bytes exceeds %d", len(b), MaxPacket).
			WithHint("secrets, slice spec and environment must fit in one packet")
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unixpacket", c.path)
	if err != nil {
		return nil, nil, unreachable(ctx, err).WithHint("is the keeper running? It listens on %s", c.path)
	}
	conn := nc.(*net.UnixConn)
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	if err := writePacket(conn, b, fds); err != nil {
		return nil, nil, unreachable(ctx, err)
	}
	buf, files, err := readPacket(conn)
	if err != nil {
		return nil, nil, unreachable(ctx, err)
	}
	var rep reply
	if err := json.Unmarshal(buf, &rep); err != nil {
		closeAll(files)
		return nil, nil, errs.E(errs.Internal, "", "answer of the keeper: %w", err)
	}
	if rep.Error != nil {
		closeAll(files)
		return nil, nil, rep.Error.err()
	}
	return &rep, files, nil
}

func unreachable(ctx context.Context, err error) *errs.Error {
	if cause := context.Cause(ctx); cause != nil {
		kind := errs.Unavailable
		if errors.Is(cause, context.DeadlineExceeded) {
			kind = errs.Timeout
		}
		return errs.E(kind, "", "keeper: %w", cause)
	}
	return errs.E(errs.Unavailable, "", "keeper: %w", err)
}

func (e *wireError) err() error {
	kind, _ := errs.ParseKind(e.Kind)
	x := errs.E(kind, e.Op, "%s", e.Why)
	if e.Field != "" {
		x = x.WithField(e.Field)
	}
	if e.Hint != "" {
		x = x.WithHint("%s", e.Hint)
	}
	return x
}

func toWire(err error) *wireError {
	w := &wireError{Kind: errs.KindOf(err).String(), Why: err.Error(), Hint: errs.HintOf(err)}
	var x *errs.Error
	if errors.As(err, &x) {
		w.Op, w.Field = x.Op, x.Field
		if x.Err != nil {
			w.Why = x.Err.Error()
		}
	}
	return w
}
