package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"sync"

	"github.com/runink/runink/internal/errs"
)

// qmp speaks QEMU's machine protocol (docs/interop/qmp-spec) over one connection.
type qmp struct {
	conn   net.Conn
	onEvnt func(name string, data json.RawMessage)

	mu      sync.Mutex // one command at a time
	replies chan qmpReply
	done    chan struct{} // closed when the reader ended
}

type qmpReply struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
	QMP   json.RawMessage `json:"QMP"`
}

// newQMP starts reading conn and leaves negotiation mode. onEvent runs on the reader.
func newQMP(ctx context.Context, conn net.Conn, onEvent func(string, json.RawMessage)) (*qmp, error) {
	q := &qmp{conn: conn, onEvnt: onEvent, replies: make(chan qmpReply, 1), done: make(chan struct{})}
	go q.read()
	if _, err := q.do(ctx, "qmp_capabilities", nil); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

func (q *qmp) read() {
	defer close(q.done)
	dec := json.NewDecoder(bufio.NewReader(q.conn))
	for {
		var r qmpReply
		if err := dec.Decode(&r); err != nil {
			return // the process ended or broke the protocol: do sees done
		}
		switch {
		case r.QMP != nil:
		case r.Event != "":
			q.onEvnt(r.Event, r.Data)
		default:
			select {
			case q.replies <- r:
			default: // an answer nobody waits for any more
			}
		}
	}
}

// do runs a command and returns its answer.
func (q *qmp) do(ctx context.Context, command string, args any) (json.RawMessage, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-q.replies: // left by a command that was given up
	default:
	}
	msg := map[string]any{"execute": command}
	if args != nil {
		msg["arguments"] = args
	}
	data, err := json.Marshal(msg)
	if err != nil {
		return nil, err
	}
	op := "qmp " + command
	if _, err := q.conn.Write(append(data, '\n')); err != nil {
		return nil, errs.E(errs.Unavailable, op, "%w", err)
	}
	select {
	case r := <-q.replies:
		if r.Error != nil {
			return nil, errs.E(errs.Conflict, op, "%s: %s", r.Error.Class, r.Error.Desc)
		}
		return r.Return, nil
	case <-q.done:
		return nil, errs.E(errs.Unavailable, op, "%w", io.ErrUnexpectedEOF)
	case <-ctx.Done():
		return nil, errs.E(errs.Timeout, op, "%w", context.Cause(ctx))
	}
}

func (q *qmp) close() {
	q.conn.Close()
	<-q.done
}
