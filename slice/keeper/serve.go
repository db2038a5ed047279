package keeper

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/slice/cgroup"
)

const (
	// requestTimeout bounds how long a client may take to send its one request.
	requestTimeout = 10 * time.Second
	// page is how many slices one answer to list holds; each takes well under 1 KiB.
	page = 200
)

// serve answers until the listener is closed, and waits for the answers under way.
func (k *Keeper) serve(ctx context.Context, ln *net.UnixListener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: it passes
			k.log.Error("accept", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		wg.Go(func() { k.answer(ctx, c) })
	}
}

// answer serves one connection: one request, one reply. A defect in it must not take the
// slices along.
func (k *Keeper) answer(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	defer func() {
		if p := recover(); p != nil {
			k.log.Error("a request panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	if err := peerAllowed(c); err != nil {
		k.log.Warn("refused a client", "err", err)
		return
	}
	if err := c.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return
	}
	b, files, err := readPacket(c)
	if err != nil {
		if !errors.Is(err, io.EOF) {
			k.log.Warn("read a request", "err", err)
		}
		return
	}
	var req request
	var rep *reply
	var send []*os.File
	if err = json.Unmarshal(b, &req); err != nil {
		closeAll(files)
		err = errs.E(errs.Invalid, "", "request: %w", err)
	} else {
		rep, send, err = k.do(ctx, &req, files)
	}
	if err != nil {
		rep = &reply{Error: toWire(err)}
	}
	defer closeAll(send)
	out, err := json.Marshal(rep)
	if err != nil {
		k.log.Error("encode a reply", "err", err)
		return
	}
	fds, err := rawFDs(send)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(requestTimeout))
	}
	if err == nil {
		err = writePacket(c, out, fds)
	}
	if err != nil {
		// It sees an end of file and asks again; that is worth a word, for the call was good.
		k.log.Warn("an answer did not reach its client", "op", req.Op, "err", err)
	}
}

// do executes a request. It owns files; the caller closes the descriptors it returns.
func (k *Keeper) do(ctx context.Context, req *request, files []*os.File) (*reply, []*os.File, error) {
	if req.Op != opLaunch {
		closeAll(files)
	}
	rep := &reply{}
	switch req.Op {
	case opLaunch:
		s, existing, err := k.launch(ctx, req.Launch, files)
		if err != nil {
			return nil, nil, err
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		rep.PID, rep.Existing = s.pid, existing
		send, err := dup(s.pidfd)
		rep.PidFD = len(send) == 1
		return rep, send, err
	case opList:
		var err error
		rep.Slices, rep.More, err = k.list(ctx, req.ID, req.After)
		return rep, nil, err
	case opAttach:
		return k.attach(req.ID)
	case opSignal:
		return rep, nil, k.signal(req.ID, req.Signal)
	case opKill:
		s, err := k.find(req.ID)
		if err != nil {
			return nil, nil, err
		}
		k.kill(s, ReasonKilled, req.Reason)
		return rep, nil, nil
	case opAck:
		return rep, nil, k.ack(ctx, req.ID)
	case opSetDeadline:
		t, err := k.deadman.set(req.Deadline)
		if err != nil {
			return nil, nil, errs.E(errs.Internal, "", "%w", err)
		}
		rep.Deadline = t
		return rep, nil, nil
	case opSetHerd:
		return rep, nil, k.setHerd(req.Herd, req.Limits)
	case opCapabilities:
		k.mu.Lock()
		n := len(k.slices)
		k.mu.Unlock()
		rep.Capabilities = &Capabilities{NotEnforced: k.lacks(), Boot: k.boot, Slices: n, Deadline: k.deadman.deadline()}
		return rep, nil, nil
	}
	return nil, nil, errs.E(errs.Unimplemented, "", "operation %q", req.Op)
}

// list shows the slice with the id, or all after another one.
func (k *Keeper) list(ctx context.Context, id, after string) ([]Slice, bool, error) {
	var found []*slice
	for _, s := range k.all() {
		if s.spec.ID > after && (id == "" || s.spec.ID == id) {
			found = append(found, s)
		}
	}
	if err := k.settled(ctx, found...); err != nil {
		return nil, false, err
	}
	slices.SortFunc(found, func(a, b *slice) int { return cmp.Compare(a.spec.ID, b.spec.ID) })
	var out []Slice
	for _, s := range found {
		k.mu.Lock()
		shown := s.running || s.exit != nil && isClosed(s.built) // else its launch is failing
		v := s.view()
		k.mu.Unlock()
		if !shown {
			continue
		}
		if len(out) == page {
			return out, true, nil
		}
		if v.State == StateRunning {
			v.Usage = s.usage()
		}
		out = append(out, v)
	}
	return out, false, nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// attach copies the node's ends for an agent.
func (k *Keeper) attach(id string) (*reply, []*os.File, error) {
	s, err := k.find(id)
	if err != nil {
		return nil, nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.channel == nil {
		return nil, nil, errs.E(errs.NotFound, "", "its channel and logs are gone").
			WithHint("it was lost with a former keeper; acknowledge it")
	}
	files := []*os.File{s.channel, s.stdout, s.stderr}
	if s.pidfd != nil {
		files = append(files, s.pidfd)
	}
	send, err := dup(files...)
	return &reply{PID: s.pid, PidFD: s.pidfd != nil}, send, err
}

// dup copies descriptors, so that they stay good while the originals are closed by others.
func dup(files ...*os.File) ([]*os.File, error) {
	var out []*os.File
	for _, f := range files {
		if f == nil {
			continue
		}
		n, err := dupFile(f)
		if err != nil {
			closeAll(out)
			return nil, errs.E(errs.Internal, "", "%w", err)
		}
		out = append(out, n)
	}
	return out, nil
}

func (k *Keeper) setHerd(herd string, l *Limits) error {
	if !validName(herd) {
		return invalid("herd", "%q is no herd's name", herd)
	}
	if l == nil || l.MilliCPU < 0 || l.Memory < 0 || l.Pids < 0 {
		return invalid("limits", "missing or negative")
	}
	if k.tree == nil {
		return nil // Capabilities says that nothing is limited
	}
	err := k.tree.SetHerd(herd, cgroup.Limits{MilliCPU: l.MilliCPU, Memory: l.Memory, Pids: l.Pids})
	if err != nil {
		return errs.E(errs.Internal, "", "%w", err)
	}
	return nil
}
