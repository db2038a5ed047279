package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/slice/keeper"
)

// uploadPiece is the size of one message of an upload; artifact.proto allows 1 MiB.
const uploadPiece = 256 << 10

// fetch downloads a blob from the control plane, going on where it broke off.
func (t *attempt) fetch(ctx context.Context, digest string, offset int64, w io.Writer) error {
	return t.a.retry(ctx, t, "fetch blob", func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := apiv1.NewArtifactServiceClient(t.a.cfg.API).Download(ctx, &apiv1.DownloadBlobRequest{
			Digest: digest, Offset: offset, Run: t.runID(),
		})
		if err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			n, err := w.Write(m.Data)
			offset += int64(n)
			if err != nil {
				return errs.E(errs.Exhausted, "", "write to the cache: %w", err)
			}
		}
	})
}

func (t *attempt) runID() string {
	run, _, _ := t.key()
	return run
}

// store checks each part of a successful slice against what it said, and puts it on a
// majority of control nodes. Only then may the exit be reported: a commit refers to parts
// that exist. The outputs of an unsuccessful or unwanted slice are garbage.
func (t *attempt) store(ctx context.Context, as *apiv1.SliceAssignment) error {
	t.mu.Lock()
	done, exit, stored, dropped := t.rec.Done, t.rec.Exit, t.rec.Stored, t.rec.Dropped
	t.mu.Unlock()
	if stored || dropped != "" || done == nil || exit.Reason != keeper.ReasonExited || exit.Code != 0 {
		return nil
	}
	expected := map[string]bool{}
	for _, b := range as.Outputs {
		expected[b] = true
	}
	for _, p := range done.Parts {
		if !expected[p.Block] {
			return errs.E(errs.Corrupt, "store outputs", "the slice reports a part of %q, which is not its output", p.Block)
		}
		delete(expected, p.Block)
		t.report("running", "storing output "+p.Block)
		if err := t.upload(ctx, as.Herd, p); err != nil {
			return err
		}
	}
	for b := range expected {
		return errs.E(errs.Corrupt, "store outputs", "the slice reports no part of its output %q", b)
	}
	// Not saved by itself: a new agent would find them stored.
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rec.Stored = true
	return nil
}

func (t *attempt) upload(ctx context.Context, herd string, p slicechan.Part) error {
	f, err := os.Open(t.staging(p.Block))
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != p.Digest || n != p.Bytes {
		return errs.E(errs.Corrupt, "store output "+p.Block, "the slice reported %d bytes of %s, its file has %d of %s", p.Bytes, p.Digest, n, got)
	}
	// The control plane looks once more when it records the exit (runs, withParts): a blob that
	// was collected meanwhile costs this attempt, and the next one asks.
	_, _, epoch := t.key()
	if epoch == 1 && t.a.held.has(herd, p.Digest) {
		return nil
	}
	// Stat and Upload may reach different replicas: one that misses the beginning says
	// Conflict, and gets the whole.
	whole := false
	if err := t.a.retry(ctx, t, "store output "+p.Block, func(ctx context.Context) error {
		api := apiv1.NewArtifactServiceClient(t.a.cfg.API)
		st, err := api.Stat(ctx, &apiv1.StatBlobRequest{Digest: p.Digest, Herd: herd})
		if err != nil {
			return err
		}
		if st.Complete {
			return nil
		}
		offset := min(st.Uploaded, p.Bytes)
		if whole {
			offset = 0
		}
		err = uploadBlob(ctx, api, f, &apiv1.UploadBlobRequest{Digest: p.Digest, Size: p.Bytes, Offset: offset, Herd: herd})
		whole = errors.Is(err, errs.Conflict) || errors.Is(err, errs.Corrupt)
		if errors.Is(err, errs.Corrupt) {
			// Our bytes are right, see above: what had arrived earlier was damaged there.
			err = errs.E(errs.Unavailable, "", "%w", err)
		}
		return err
	}); err != nil {
		return err
	}
	t.a.held.add(herd, p.Digest)
	return nil
}

// heldFor is how long a blob that the control plane held is taken to be held still. It is
// short beside the age below which nothing is collected.
const heldFor = time.Minute

// maxHeld bounds how many are remembered.
const maxHeld = 4096

// heldBlobs remembers which blobs the control plane was seen to hold for a herd. Equal outputs
// are common, and the empty one, of a slice that rejected nothing, is the rule.
type heldBlobs struct {
	mu sync.Mutex
	at map[[2]string]time.Time // by herd and digest
}

func (s *heldBlobs) has(herd, digest string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.at[[2]string{herd, digest}]
	return ok && time.Since(at) < heldFor
}

func (s *heldBlobs) add(herd, digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil || len(s.at) >= maxHeld {
		s.at = map[[2]string]time.Time{}
	}
	s.at[[2]string{herd, digest}] = time.Now()
}

// uploadBlob sends f from head.Offset on and waits for the answer.
func uploadBlob(ctx context.Context, api apiv1.ArtifactServiceClient, f *os.File, head *apiv1.UploadBlobRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := api.Upload(ctx)
	if err != nil {
		return err
	}
	buf := make([]byte, uploadPiece)
	r := io.NewSectionReader(f, head.Offset, head.Size-head.Offset)
	m := head
	for {
		n, err := io.ReadFull(r, buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		m.Data = buf[:n]
		// A failed Send hides its cause; CloseAndRecv returns it.
		if n > 0 || m == head {
			if serr := stream.Send(m); serr != nil {
				break
			}
		}
		if err != nil {
			break
		}
		m = &apiv1.UploadBlobRequest{}
	}
	_, err = stream.CloseAndRecv()
	return err
}
