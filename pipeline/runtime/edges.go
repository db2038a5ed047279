package runtime

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/pipeline/edge"
	"github.com/runink/runink/pipeline/engine"
)

// edges are the open edges of a slice.
type edges struct {
	mu       sync.Mutex
	senders  []edge.Sender
	conns    []*edge.Consumer
	listener edge.Listener
}

// abort gives every edge up, so that the peers fail now and not at a time-out.
func (e *edges) abort() {
	for _, s := range e.senders {
		if a, ok := s.(interface{ Abort() }); ok {
			a.Abort()
		}
	}
	_ = e.close()
}

// close closes what receives; senders were closed by the engine.
func (e *edges) close() error {
	var all error
	for _, c := range e.conns {
		all = errors.Join(all, c.Close())
	}
	if e.listener != nil {
		all = errors.Join(all, e.listener.Close())
	}
	return all
}

// openEdges opens every edge side by side: one slice may wait for a peer that waits for
// another edge of this one.
func (s *slice) openEdges(ctx context.Context, job *engine.Job) (*edges, error) {
	e := &edges{}
	connect, cancel := context.WithTimeoutCause(ctx, s.scale(connectTimeout),
		errs.E(errs.Timeout, "open edges", "a peer did not come within %s", s.scale(connectTimeout)))
	defer cancel()
	var id edge.TLS
	if s.spec.TLS != nil {
		id = edge.TLS{Cert: []byte(s.spec.TLS.Cert), Key: []byte(s.spec.TLS.Key), CA: []byte(s.spec.TLS.CA)}
	}
	if err := s.listen(ctx, e, job, id); err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	var first error
	for _, se := range s.spec.Edges {
		if !se.Out && se.Address != "" {
			continue
		}
		wg.Go(func() {
			send, recv, err := s.openEdge(ctx, connect, se, id)
			e.mu.Lock()
			defer e.mu.Unlock()
			switch {
			case err != nil:
				if first == nil {
					first = err
				}
				cancel()
			case send != nil:
				e.senders = append(e.senders, send)
				job.Send[se.ID] = send
			default:
				e.conns = append(e.conns, recv)
				job.Receive[se.ID] = recv
			}
		})
	}
	wg.Wait()
	if first != nil {
		e.abort()
		return nil, first
	}
	return e, nil
}

// hello is what the producer of an edge says.
func (s *slice) hello(se slicechan.Edge) edge.Hello {
	h := edge.Hello{Run: s.spec.Run, Edge: se.ID, Epoch: s.spec.Epoch, Slice: se.Peer}
	if se.Out {
		h.Slice = s.spec.Slice
	}
	return h
}

func (s *slice) network(se slicechan.Edge) (edge.Network, error) {
	switch {
	case s.cfg.Network == nil:
		return nil, errs.E(errs.Invalid, "open edge", "edge %d leaves the node, and this binary was built without a network", se.ID)
	case s.spec.TLS == nil:
		return nil, errs.E(errs.Invalid, "open edge", "edge %d leaves the node, and the slice has no certificate", se.ID)
	}
	return s.cfg.Network, nil
}

func (s *slice) listen(ctx context.Context, e *edges, job *engine.Job, id edge.TLS) error {
	var peers []edge.Peer
	addr := ""
	for _, se := range s.spec.Edges {
		if se.Out || se.Address == "" {
			continue
		}
		if _, err := s.network(se); err != nil {
			return err
		}
		if addr != "" && addr != se.Address {
			return errs.E(errs.Invalid, "open edges", "two listening addresses, %s and %s", addr, se.Address)
		}
		addr = se.Address
		peers = append(peers, edge.Peer{Hello: s.hello(se), URI: slicechan.SliceURI(s.spec.Run, se.Peer, s.spec.Epoch)})
	}
	if addr == "" {
		return nil
	}
	l, err := s.cfg.Network.Listen(ctx, addr, id, peers)
	if err != nil {
		return err
	}
	e.listener = l
	for _, p := range peers {
		job.Receive[p.Hello.Edge] = l.Receiver(p.Hello.Edge)
	}
	return nil
}

func (s *slice) openEdge(ctx, connect context.Context, se slicechan.Edge, id edge.TLS) (edge.Sender, *edge.Consumer, error) {
	if se.Address != "" {
		n, err := s.network(se)
		if err != nil {
			return nil, nil, err
		}
		peer := slicechan.SliceURI(s.spec.Run, se.Peer, s.spec.Epoch)
		send, err := n.Dial(ctx, connect, se.Address, id, s.hello(se), peer)
		return send, nil, err
	}
	f, err := inherit(se.FD, "edge")
	if err != nil {
		return nil, nil, err
	}
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, nil, errs.E(errs.Invalid, "open edge", "edge %d: descriptor %d: %w", se.ID, se.FD, err)
	}
	if se.Out {
		p, err := edge.Open(ctx, connect, c, s.hello(se))
		if err != nil {
			return nil, nil, err
		}
		return p, nil, nil
	}
	r, err := edge.Accept(connect, c, s.hello(se))
	return nil, r, err
}
