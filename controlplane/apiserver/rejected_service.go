package apiserver

import (
	"bufio"
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/runs"
	"github.com/runink/runink/controlplane/secrets"
	"github.com/runink/runink/internal/deadletter"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/seal"
)

// maxRejectedLine bounds a line of a dead-letter file, in bytes: a record of the largest size
// that the engine reads, quoted, sealed and in base64.
const maxRejectedLine = 192 << 20

// rejectedChunk is how much is sent at once, in bytes.
const rejectedChunk = 256 << 10

// OpenRejected streams a dead-letter file with its rows unsealed, for runners and admins of
// the run's herd.
func (s *artifactService) OpenRejected(req *v1.OpenRejectedRequest, stream grpc.ServerStreamingServer[v1.OpenRejectedResponse]) error {
	const op = "open rejected rows"
	ctx := stream.Context()
	v, err := s.h.View(ctx, v1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return err
	}
	run, err := s.p.runs.Get(v, req.Run)
	if err != nil {
		return err
	}
	if err := RequireHerd(ctx, run.Herd, "run \""+req.Run+"\""); err != nil {
		return err
	}
	var out *v1.RunOutput
	for _, o := range run.Outputs {
		if o.Block == req.Block {
			out = o
		}
	}
	switch {
	case out == nil && run.State != "succeeded":
		return errs.E(errs.Conflict, op, "run %s is %s, and has published nothing", req.Run, run.State).WithHint("runink watch %s", req.Run)
	case out == nil:
		return errs.E(errs.NotFound, op, "run %s has no output %q", req.Run, req.Block).WithField("block").WithHint("`runink artifact list %s` shows them", req.Run)
	}
	if ok, err := runs.IsDeadLetter(v, req.Run, req.Block); err != nil {
		return err
	} else if !ok {
		return errs.E(errs.Invalid, op, "%s is no dead-letter file: nothing in it is sealed", req.Block).WithField("block").
			WithHint("runink artifact get %s/%s", req.Run, req.Block)
	}
	opener, err := s.h.Secrets.OpenRejected(ctx, PrincipalFrom(ctx).String(), secrets.Opening{Herd: run.Herd, Run: req.Run, Block: req.Block})
	if err != nil {
		return err
	}
	for _, p := range out.Parts {
		if err := s.openPart(ctx, p.Digest, opener, func(b []byte) error {
			return stream.Send(&v1.OpenRejectedResponse{Data: b})
		}); err != nil {
			return errs.Wrap(op, err)
		}
	}
	return nil
}

// openPart sends the lines of one part, unsealed.
func (s *artifactService) openPart(ctx context.Context, digest string, o *seal.RowOpener, send func([]byte) error) error {
	f, _, err := s.p.blobs.OpenAt(ctx, digest, 0, false)
	if err != nil {
		return err
	}
	defer f.Close()
	return unsealLines(f, o, send)
}

// unsealLines reads lines and sends them opened, in pieces of rejectedChunk at most. send may
// not keep what it is given.
func unsealLines(r io.Reader, o *seal.RowOpener, send func([]byte) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var out, line []byte
	flush := func(least int) error {
		for len(out) >= least && len(out) > 0 {
			n := min(len(out), rejectedChunk)
			if err := send(out[:n]); err != nil {
				return err
			}
			out = out[:copy(out, out[n:])]
		}
		return nil
	}
	for {
		piece, err := in.ReadSlice('\n')
		if line = append(line, piece...); len(line) > maxRejectedLine {
			return errs.E(errs.Corrupt, "read dead-letter file", "a line of more than %d bytes", maxRejectedLine)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return errs.E(errs.Unavailable, "read dead-letter file", "%w", err)
		}
		if len(line) > 0 {
			var oerr error
			if out, oerr = deadletter.Open(out, line, o); oerr != nil {
				return oerr
			}
			line = line[:0]
		}
		if err != nil {
			return flush(1)
		}
		if err := flush(rejectedChunk); err != nil {
			return err
		}
	}
}
