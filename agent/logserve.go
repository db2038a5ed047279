package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sync"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/slice/keeper"
)

// logBytes bounds the logs of ended slices on this node; the oldest go first.
const logBytes = 256 << 20

// serveLog answers one LogRequest by a PushLog stream of its own, so that a slow reader
// holds up nothing else of the session.
func (s *session) serveLog(ctx context.Context, req *apiv1.LogRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if req.Cancel {
		if cancel := s.logs[req.Id]; cancel != nil {
			cancel()
		}
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	s.logs[req.Id] = cancel
	s.logWG.Go(func() {
		defer func() {
			cancel()
			s.mu.Lock()
			delete(s.logs, req.Id)
			s.mu.Unlock()
		}()
		err := s.a.pushLog(ctx, req)
		if err == nil || ctx.Err() != nil {
			return
		}
		s.a.cfg.Log.Warn("log not delivered", "slice", keeper.Key(req.Key.Run, req.Key.Slice, req.Key.Epoch), "err", err)
		// The reader may not have heard it: it waits at the leader, which is where the session goes.
		if err := s.send(&apiv1.AgentMessage{Message: &apiv1.AgentMessage_LogRefusal{LogRefusal: &apiv1.LogRefusal{Id: req.Id, Error: err.Error()}}}); err != nil {
			s.a.cfg.Log.Warn("its reader was not told", "err", err) // it is told with the session's end
		}
	})
}

func (s *session) stopLogs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, cancel := range s.logs {
		cancel()
	}
}

// pushLog sends what is stored of the asked streams, then with follow what comes, until
// the slice has ended. A failure to read is told to the reader in the last chunk; every
// failure is returned.
func (a *Agent) pushLog(ctx context.Context, req *apiv1.LogRequest) error {
	stream, err := apiv1.NewAgentServiceClient(a.cfg.API).PushLog(ctx)
	if err != nil {
		return err
	}
	var mu sync.Mutex // Send is not safe for two goroutines
	send := func(c *apiv1.LogChunk) error {
		mu.Lock()
		defer mu.Unlock()
		return stream.Send(c)
	}
	if err := a.readLogs(ctx, req, send); err != nil && ctx.Err() == nil {
		serr := send(&apiv1.LogChunk{Id: req.Id, Error: err.Error()})
		if _, rerr := stream.CloseAndRecv(); errors.Is(serr, io.EOF) && rerr != nil {
			return rerr // the leader ended the stream, and this is why
		}
		return err
	}
	_, err = stream.CloseAndRecv()
	return err
}

func (a *Agent) readLogs(ctx context.Context, req *apiv1.LogRequest, send func(*apiv1.LogChunk) error) error {
	id := keeper.Key(req.Key.Run, req.Key.Slice, req.Key.Epoch)
	names := []string{"stdout", "stderr"}
	if req.Stream != "" {
		names = []string{req.Stream}
	}
	// An empty first chunk: the reader learns that the request arrived, and its id.
	if err := send(&apiv1.LogChunk{Id: req.Id}); err != nil {
		return err
	}
	logs := make([]*logStream, len(names))
	for i, name := range names {
		var err error
		if logs[i], err = a.logOf(id, name); err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	out := make([]error, len(names))
	for i, name := range names {
		wg.Go(func() {
			out[i] = logs[i].read(ctx, req.Offset, req.Follow, func(data []byte, at int64) error {
				return send(&apiv1.LogChunk{Id: req.Id, Stream: name, Data: slices.Clone(data), Offset: at})
			})
		})
	}
	wg.Wait()
	return errors.Join(out...)
}

// logOf finds a stream of a slice that runs here, or that ended here and is still kept.
func (a *Agent) logOf(id, stream string) (*logStream, error) {
	if stream != "stdout" && stream != "stderr" {
		return nil, errs.E(errs.Invalid, "read log", "%q is not stdout or stderr", stream)
	}
	a.mu.Lock()
	t := a.attempts[id]
	a.mu.Unlock()
	if t != nil {
		return t.logs[stream], nil
	}
	if _, err := os.Stat(a.logDir(id)); err != nil {
		return nil, errs.E(errs.NotFound, "read log", "this node keeps no log of %s", id).
			WithHint("logs of ended slices are kept until newer ones need the room")
	}
	l, err := openLogStream(a.logDir(id), stream)
	if err != nil {
		return nil, err
	}
	l.finish()
	return l, nil
}
