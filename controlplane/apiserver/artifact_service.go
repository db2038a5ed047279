package apiserver

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/artifacts"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/errs"
)

// artifactService answers ArtifactService.
//
// Who may read a blob: nodes and operators any; an API key one that its herd uploaded, or
// one that a run of its herd refers to. What it may not read does not exist for it.
type artifactService struct {
	v1.UnimplementedArtifactServiceServer
	h *Host
	p *pipelines
}

func (s *artifactService) Stat(ctx context.Context, req *v1.StatBlobRequest) (*v1.StatBlobResponse, error) {
	p := PrincipalFrom(ctx)
	if req.Local && p.IsNode() {
		size, ok, err := s.p.blobs.Promise(req.Digest)
		return &v1.StatBlobResponse{Size: size, Complete: ok, Uploaded: s.p.blobs.Received(req.Digest)}, err
	}
	herd := req.Herd
	if p.Herd != "" {
		if herd != "" && herd != p.Herd {
			return nil, errs.E(errs.Denied, "stat blob", "%s is of herd %q", p, p.Herd).WithField("herd")
		}
		herd = p.Herd
	}
	v, err := s.h.Barn.View(ctx, barn.Stale)
	if err != nil {
		return nil, err
	}
	b, ok, err := artifacts.Lookup(v, req.Digest)
	if err != nil {
		return nil, err
	}
	if ok && (herd == "" || b.OwnedBy(herd)) {
		return &v1.StatBlobResponse{Size: b.Size, Complete: true, Uploaded: b.Size}, nil
	}
	return &v1.StatBlobResponse{Uploaded: s.p.blobs.Received(req.Digest)}, nil
}

// blobStream is the receiving end of Upload and Replicate.
type blobStream interface {
	Context() context.Context
	Recv() (*v1.UploadBlobRequest, error)
	SendAndClose(*v1.UploadBlobResponse) error
}

// begin reads the first message, which says what comes, and returns the bytes of all.
func begin(stream blobStream) (*v1.UploadBlobRequest, artifacts.Source, error) {
	const op = "upload blob"
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil, nil, errs.E(errs.Invalid, op, "an upload without a message")
	}
	if err != nil {
		return nil, nil, err
	}
	if err := artifacts.CheckDigest(op, first.Digest); err != nil {
		return nil, nil, err
	}
	pending := first.Data
	return first, func() ([]byte, error) {
		if len(pending) > 0 {
			d := pending
			pending = nil
			return d, nil
		}
		m, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		return m.Data, nil
	}, nil
}

func (s *artifactService) Upload(stream grpc.ClientStreamingServer[v1.UploadBlobRequest, v1.UploadBlobResponse]) error {
	const op = "upload blob"
	ctx := stream.Context()
	first, next, err := begin(stream)
	if err != nil {
		return err
	}
	p := PrincipalFrom(ctx)
	if first.Herd == "" {
		return errs.E(errs.Invalid, op, "whose blob it is, is not said").WithField("herd")
	}
	if !p.InHerd(first.Herd) {
		return errs.E(errs.Denied, op, "%s is of herd %q", p, p.Herd).WithField("herd")
	}
	v, err := s.h.View(ctx, v1.Consistency_CONSISTENCY_LINEARIZABLE)
	if err != nil {
		return err
	}
	if _, ok, err := identity.ReadHerd(v, first.Herd); err != nil {
		return err
	} else if !ok {
		return errs.E(errs.NotFound, op, "there is no herd %q", first.Herd).WithField("herd").
			WithHint("`runink herd list` shows them; an operator makes one with `runink herd put %s`", first.Herd)
	}
	copies, err := s.p.blobs.Upload(ctx, p.String(), first.Herd, first.Digest, first.Size, first.Offset, next)
	if err != nil {
		return err
	}
	return stream.SendAndClose(&v1.UploadBlobResponse{Digest: first.Digest, Size: first.Size, Copies: int32(copies)})
}

func (s *artifactService) Replicate(stream grpc.ClientStreamingServer[v1.UploadBlobRequest, v1.UploadBlobResponse]) error {
	first, next, err := begin(stream)
	if err != nil {
		return err
	}
	if err := s.p.blobs.Receive(stream.Context(), first.Digest, first.Size, first.Offset, next); err != nil {
		return err
	}
	return stream.SendAndClose(&v1.UploadBlobResponse{Digest: first.Digest, Size: first.Size, Copies: 1})
}

func (s *artifactService) Download(req *v1.DownloadBlobRequest, stream grpc.ServerStreamingServer[v1.DownloadBlobResponse]) error {
	const op = "download blob"
	ctx := stream.Context()
	if err := s.readable(ctx, req); err != nil {
		return err
	}
	r, size, err := s.p.blobs.OpenAt(ctx, req.Digest, req.Offset, req.Local && PrincipalFrom(ctx).IsNode())
	if err != nil {
		return err
	}
	defer r.Close()
	buf := make([]byte, artifacts.ChunkSize)
	for first := true; ; first = false {
		n, err := io.ReadFull(r, buf)
		if n > 0 || first {
			if serr := stream.Send(&v1.DownloadBlobResponse{Data: buf[:n], Size: size}); serr != nil {
				return serr
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return errs.E(errs.Unavailable, op, "%w", err)
		}
	}
}

// readable refuses a herd's key what is not its herd's.
func (s *artifactService) readable(ctx context.Context, req *v1.DownloadBlobRequest) error {
	p := PrincipalFrom(ctx)
	if p.Herd == "" {
		return nil
	}
	v, err := s.h.Barn.View(ctx, barn.Stale)
	if err != nil {
		return err
	}
	b, ok, err := artifacts.Lookup(v, req.Digest)
	if err != nil {
		return err
	}
	if ok && b.OwnedBy(p.Herd) {
		return nil
	}
	if ok && req.Run != "" && artifacts.Referred(v, req.Digest, req.Run) {
		herd, err := s.p.runs.HerdOf(v, req.Run)
		if err != nil {
			return err
		}
		return RequireHerd(ctx, herd, "blob "+req.Digest)
	}
	return errs.E(errs.NotFound, "download blob", "there is no blob %s", req.Digest)
}
