package artifacts

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// Config is what a Store needs. Everything without "optional" is required.
type Config struct {
	Dir  string // of the blob files; made if absent
	Node string // this control node
	Barn *barn.Barn
	// Members names the control nodes of the Raft group, this one among them. It lists every
	// member, also those that Peer cannot reach.
	Members func() []string
	// Peer connects to another control node as this one.
	Peer func(node string) (grpc.ClientConnInterface, error)
	// Reserve is how many bytes of the disk stay free; optional, 128 MiB.
	Reserve uint64
	// Grace is how old an unreferenced blob must be to be collected; optional, 1 h.
	Grace     time.Duration
	TimeScale float64      // multiplies every timeout; optional, 1
	Log       *slog.Logger // optional
}

// ChunkSize is how much one message of an upload or download carries.
const ChunkSize = 512 << 10

// Store is the blob store of one control node. All methods are safe for concurrent use.
type Store struct {
	cfg  Config
	disk *disk
	ages ages
	log  *slog.Logger
}

// New opens the store's directory.
func New(cfg Config) (*Store, error) {
	if cfg.Reserve == 0 {
		cfg.Reserve = 128 << 20
	}
	if cfg.Grace == 0 {
		cfg.Grace = time.Hour
	}
	if cfg.TimeScale <= 0 {
		cfg.TimeScale = 1
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d, err := openDisk(cfg.Dir, cfg.Reserve)
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, disk: d, log: cfg.Log}
	d.idle = s.scaled(uploadIdle)
	return s, nil
}

func (s *Store) scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) * s.cfg.TimeScale)
}

// Held returns the size of this node's own copy, false if it has none.
func (s *Store) Held(digest string) (int64, bool, error) {
	if err := CheckDigest("read blob", digest); err != nil {
		return 0, false, err
	}
	return s.disk.size(digest)
}

// Promise is Held for another control node that is about to count this copy: it stays at
// least for the grace period.
func (s *Store) Promise(digest string) (int64, bool, error) {
	if err := CheckDigest("promise blob", digest); err != nil {
		return 0, false, err
	}
	return s.disk.promise(digest)
}

// Received returns how many bytes of an unfinished upload this node has.
func (s *Store) Received(digest string) int64 { return s.disk.received(digest) }

// Source yields the bytes of an upload; io.EOF ends it.
type Source func() ([]byte, error)

// Upload receives a blob from offset, checks it, copies it to a majority of the control
// nodes and registers it for herd, all before it returns. It returns how many nodes hold
// it. principal stands in the audit record.
//
// Errors: Corrupt (digest), Invalid (size), Conflict (offset), Exhausted (disk of this
// node, or of too many others), Unavailable (no majority).
func (s *Store) Upload(ctx context.Context, principal, herd, digest string, size, offset int64, next Source) (int, error) {
	if err := s.Receive(ctx, digest, size, offset, next); err != nil {
		return 0, err
	}
	copies, err := s.replicate(ctx, digest, size)
	if err != nil {
		return copies, err
	}
	payload, err := json.Marshal(registration{Digest: digest, Size: size, Herd: herd})
	if err != nil {
		return copies, errs.E(errs.Internal, "register blob", "%w", err)
	}
	_, err = s.cfg.Barn.Propose(ctx, barn.Command{Kind: CmdRegister, Version: 1, Payload: payload, Principal: principal, Time: time.Now()})
	return copies, err
}

// Receive stores a blob on this node only. The content is read and checked even if a copy
// is here: who sends it proves to have it.
func (s *Store) Receive(ctx context.Context, digest string, size, offset int64, next Source) error {
	w, err := s.disk.create(ctx, digest, size, offset)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		data, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return w.commit()
}

// Open reads a blob, pulling a copy first if this node has none.
//
// Errors: NotFound if no reachable control node has one.
func (s *Store) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	f, _, err := s.OpenAt(ctx, digest, 0, false)
	return f, err
}

// OpenAt is Open from an offset, with the blob's size. local: do not pull.
func (s *Store) OpenAt(ctx context.Context, digest string, offset int64, local bool) (io.ReadCloser, int64, error) {
	const op = "read blob"
	size, ok, err := s.Held(digest)
	if err != nil {
		return nil, 0, err
	}
	if !ok {
		if local {
			return nil, 0, errs.E(errs.NotFound, op, "control node %s holds no copy of %s", s.cfg.Node, digest)
		}
		if err := s.pull(ctx, digest); err != nil {
			return nil, 0, err
		}
		if size, _, err = s.Held(digest); err != nil {
			return nil, 0, err
		}
	}
	if offset < 0 || offset > size {
		return nil, 0, errs.E(errs.Invalid, op, "offset %d of %d bytes", offset, size).WithField("offset")
	}
	f, err := s.disk.open(digest)
	if err != nil {
		return nil, 0, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, 0, errs.E(errs.Unavailable, op, "%w", err)
	}
	return f, size, nil
}

// Secure returns nil once a majority of the control nodes holds the blob, copying it where
// needed. NotFound if no reachable node holds one.
func (s *Store) Secure(ctx context.Context, digest string) error {
	size, ok, err := s.Held(digest)
	if err != nil {
		return err
	}
	if !ok {
		if err := s.pull(ctx, digest); err != nil {
			return err
		}
		if size, _, err = s.Held(digest); err != nil {
			return err
		}
	}
	_, err = s.replicate(ctx, digest, size)
	return err
}

// replicate copies a blob of this node to others until a majority holds it. All members
// are tried at once; the rest of the copies arrive by the background pull if they fail.
func (s *Store) replicate(ctx context.Context, digest string, size int64) (int, error) {
	members := s.cfg.Members()
	need := len(members)/2 + 1
	copies := 1
	if copies >= need {
		return copies, nil
	}
	type result struct {
		node string
		err  error
	}
	results := make(chan result, len(members))
	var wg sync.WaitGroup
	sctx, cancel := context.WithCancel(ctx)
	defer wg.Wait()
	defer cancel() // before the wait: a majority is enough
	others := 0
	for _, m := range members {
		if m == s.cfg.Node {
			continue
		}
		others++
		wg.Go(func() { results <- result{m, s.copyTo(sctx, m, digest, size)} })
	}
	var last error
	for range others {
		r := <-results
		if r.err != nil {
			s.log.Warn("blob not copied", "digest", digest, "to", r.node, "err", r.err)
			last = errs.Wrap("copy to control node "+r.node, r.err)
			continue
		}
		if copies++; copies >= need {
			return copies, nil
		}
	}
	kind := errs.Unavailable
	if errors.Is(last, errs.Exhausted) {
		kind = errs.Exhausted
	}
	return copies, errs.E(kind, "store blob", "%d of %d control nodes have a copy of %s, %d are needed: %w", copies, len(members), digest, need, last).
		WithHint("try again when a majority of the control nodes is up and has space")
}

// copyTo makes sure that another control node holds the blob.
func (s *Store) copyTo(ctx context.Context, node, digest string, size int64) error {
	conn, err := s.cfg.Peer(node)
	if err != nil {
		return err
	}
	c := apiv1.NewArtifactServiceClient(conn)
	st, err := c.Stat(ctx, &apiv1.StatBlobRequest{Digest: digest, Local: true})
	if err != nil {
		return err
	}
	if st.Complete {
		return nil
	}
	f, err := s.disk.open(digest)
	if err != nil {
		return err
	}
	defer f.Close()
	at := min(st.Uploaded, size)
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return err
	}
	up, err := c.Replicate(ctx)
	if err != nil {
		return err
	}
	if err := Send(f, &apiv1.UploadBlobRequest{Digest: digest, Size: size, Offset: at}, up.Send); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err = up.CloseAndRecv()
	return err
}

// Send writes what is left of r as the messages of an upload, the first with head's
// fields. io.EOF: the other side ended the stream, and its answer says why.
func Send(r io.Reader, head *apiv1.UploadBlobRequest, send func(*apiv1.UploadBlobRequest) error) error {
	buf := make([]byte, ChunkSize)
	msg := head
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 || msg == head {
			msg.Data = buf[:n]
			if err := send(msg); err != nil {
				return err
			}
			msg = &apiv1.UploadBlobRequest{}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
