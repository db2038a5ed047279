package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

// uploader stores files for a herd, resuming where an attempt broke off.
type uploader struct {
	api  *apiclient.Client
	herd string
	out  io.Writer
	live bool // out is a terminal: progress may overwrite its line
}

// Limits of an upload.
const (
	uploadChunk   = 512 << 10
	uploadRetries = 10
	progressAfter = time.Second
	progressEvery = 200 * time.Millisecond
)

func newUploader(api *apiclient.Client, herd string, out io.Writer) *uploader {
	return &uploader{api: api, herd: herd, out: out, live: isTerminal(out)}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// file stores one file and returns its digest and size. A blob that is stored already is
// not sent.
func (u *uploader) file(ctx context.Context, what, path string) (string, int64, error) {
	const op = "upload"
	f, err := os.Open(path)
	if err != nil {
		return "", 0, errs.E(errs.NotFound, op, "%w", err).WithField(what)
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return "", 0, errs.E(errs.Invalid, op, "%w", err).WithField(what)
	}
	digest := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	c := v1.NewArtifactServiceClient(u.api)
	p := &progress{u: u, what: what, size: n, begun: time.Now()}
	defer p.end()
	for try := 1; ; try++ {
		st, err := c.Stat(ctx, &v1.StatBlobRequest{Digest: digest, Herd: u.herd})
		if err != nil {
			return "", 0, err
		}
		if st.Complete {
			return digest, n, nil
		}
		err = u.send(ctx, f, digest, n, min(st.Uploaded, n), p)
		if err == nil {
			return digest, n, nil
		}
		// A control node that did not receive the beginning says Conflict: ask again.
		again := errors.Is(err, errs.Unavailable) || errors.Is(err, errs.Conflict) || errors.Is(err, errs.Timeout)
		if !again || try == uploadRetries || ctx.Err() != nil {
			return "", 0, err
		}
		if err := pause(ctx, time.Duration(try)*200*time.Millisecond); err != nil {
			return "", 0, err
		}
	}
}

func (u *uploader) send(ctx context.Context, f *os.File, digest string, size, at int64, p *progress) error {
	const op = "upload"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	up, err := v1.NewArtifactServiceClient(u.api).Upload(ctx)
	if err != nil {
		return err
	}
	if _, err := f.Seek(at, io.SeekStart); err != nil {
		return errs.E(errs.Invalid, op, "%w", err)
	}
	buf := make([]byte, uploadChunk)
	msg := &v1.UploadBlobRequest{Digest: digest, Size: size, Offset: at, Herd: u.herd}
	for first := true; first || at < size; first = false {
		n, err := io.ReadFull(f, buf[:min(uploadChunk, size-at)])
		if err != nil && !(size == at && errors.Is(err, io.EOF)) {
			return errs.E(errs.Invalid, op, "%s changed while it was read: %w", f.Name(), err)
		}
		msg.Data = buf[:n]
		if err := up.Send(msg); err != nil {
			break // its reason comes with the answer
		}
		msg = &v1.UploadBlobRequest{}
		at += int64(n)
		p.at(at)
	}
	_, err = up.CloseAndRecv()
	return apiclient.FromStatus(v1.ArtifactService_Upload_FullMethodName, err)
}

// progress shows how far an upload got, once it takes longer than a second.
type progress struct {
	u     *uploader
	what  string
	size  int64
	begun time.Time
	shown time.Time
}

func (p *progress) at(n int64) {
	now := time.Now()
	if !p.u.live || now.Sub(p.begun) < progressAfter || now.Sub(p.shown) < progressEvery {
		return
	}
	p.shown = now
	fmt.Fprintf(p.u.out, "\r\x1b[Kuploading %s: %s of %s, %d %%", p.what, size(n), size(p.size), 100*n/max(1, p.size))
}

func (p *progress) end() {
	if !p.shown.IsZero() {
		fmt.Fprint(p.u.out, "\r\x1b[K")
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
