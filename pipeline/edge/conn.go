package edge

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/sdk/frame"
)

// Conn is what a socket edge needs of a connection. *os.File of a non-blocking stream
// socket and net.Conn are.
type Conn interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
}

// readBuffer is the size of reads from a socket.
const readBuffer = 256 << 10

// Producer is the sending end of a socket edge. Its methods are called by one goroutine.
type Producer struct {
	c     Conn
	hello Hello
	q     *Queue
	done  chan struct{} // the writer has ended
	once  sync.Once
}

// aborts makes blocking calls on c return when ctx ends, until the returned function is
// called.
func aborts(ctx context.Context, c Conn) (release func()) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

func cause(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, ok := errors.AsType[*errs.Error](err); ok {
		return err
	}
	return errs.E(errs.Unavailable, op, "%w", err)
}

// Open says hello on c, waits for the answer and takes c over. connect bounds the
// handshake; ctx is the life of the edge: when it ends, the edge fails.
func Open(ctx, connect context.Context, c Conn, h Hello) (*Producer, error) {
	const op = "open edge"
	release := aborts(connect, c)
	fail := func(err error) (*Producer, error) {
		release()
		return nil, errors.Join(cause(connect, op, err), c.Close())
	}
	if _, err := c.Write(h.Append(nil)); err != nil {
		return fail(err)
	}
	var answer [1]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return fail(err)
	}
	if err := ErrOf(answer[0], h); err != nil {
		return fail(err)
	}
	release()
	release = aborts(ctx, c)
	p := &Producer{c: c, hello: h, q: NewQueue(), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer release()
		p.write(ctx)
	}()
	return p, nil
}

func (p *Producer) write(ctx context.Context) {
	for {
		fs := p.q.Take()
		if fs == nil {
			return
		}
		var err error
		if conn, ok := p.c.(net.Conn); ok {
			bufs := net.Buffers(fs)
			_, err = bufs.WriteTo(conn)
		} else {
			for _, f := range fs {
				if _, err = p.c.Write(f); err != nil {
					break
				}
			}
		}
		if err != nil {
			p.q.Fail(cause(ctx, "send on "+p.hello.String(), err))
			return
		}
	}
}

// Send implements engine.Sender.
func (p *Producer) Send(ctx context.Context, f []byte) error { return p.q.Put(ctx, f) }

// Close implements engine.Sender: it waits until every frame is written and the peer has
// read the End (it then sends one byte).
func (p *Producer) Close(ctx context.Context) error {
	p.q.Close()
	release := aborts(ctx, p.c)
	defer release()
	<-p.done
	if err := p.q.Err(); err != nil {
		return errors.Join(err, p.c.Close())
	}
	var end [1]byte
	if _, err := io.ReadFull(p.c, end[:]); err != nil {
		return errors.Join(cause(ctx, "end "+p.hello.String(), err), p.c.Close())
	}
	return p.c.Close()
}

// Abort ends the edge without an End: the peer sees a failure.
func (p *Producer) Abort() {
	p.once.Do(func() {
		p.q.Fail(errs.E(errs.Unavailable, "send on "+p.hello.String(), "the edge was given up"))
		_ = p.c.Close()
		<-p.done
	})
}

// Consumer is the receiving end of a socket edge. One goroutine uses it.
type Consumer struct {
	c     Conn
	r     *bufio.Reader
	want  Hello
	ended bool
}

// Accept reads the producer's hello, checks it against want, answers and takes c over.
func Accept(ctx context.Context, c Conn, want Hello) (*Consumer, error) {
	release := aborts(ctx, c)
	defer release()
	r := bufio.NewReaderSize(c, readBuffer)
	h, err := ReadHello(r)
	if err != nil {
		return nil, errors.Join(cause(ctx, "accept edge", err), c.Close())
	}
	refused := h.Check(want)
	if _, err := c.Write([]byte{Answer(refused)}); err != nil && refused == nil {
		refused = cause(ctx, "accept edge", err)
	}
	if refused != nil {
		return nil, errors.Join(refused, c.Close())
	}
	return &Consumer{c: c, r: r, want: want}, nil
}

// Recv implements engine.Receiver. After it has returned an End frame it acknowledges it
// and returns io.EOF.
func (s *Consumer) Recv(ctx context.Context) ([]byte, error) {
	if s.ended {
		return nil, io.EOF
	}
	release := aborts(ctx, s.c)
	defer release()
	f, err := frame.Read(s.r)
	if err != nil {
		if errors.Is(err, io.EOF) && ctx.Err() == nil {
			return nil, io.EOF
		}
		return nil, cause(ctx, "receive on "+s.want.String(), err)
	}
	if h, err := frame.ParseHeader(f); err == nil && h.Kind == frame.End {
		s.ended = true
		if _, err := s.c.Write([]byte{answerOK}); err != nil {
			return nil, cause(ctx, "receive on "+s.want.String(), err)
		}
	}
	return f, nil
}

// Close closes the socket.
func (s *Consumer) Close() error { return s.c.Close() }
