package rest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
)

// The two RPCs that take bytes. Their bodies are those bytes as they are.
const (
	UploadPath  = "/v1/herds/{herd}/blobs/{digest}"
	RestorePath = "/v1/cluster/snapshot"
)

// uploadChunk is how much of a body goes into one message, in bytes.
const uploadChunk = 256 << 10

// upload is ArtifactService.Upload. ?size= is the whole blob's, by default that of the body;
// ?offset= is where in it the body begins. A body that ends before the blob does is answered
// with 202 and how far the blob got.
func (g *Gateway) upload(w http.ResponseWriter, r *http.Request) {
	const method = v1.ArtifactService_Upload_FullMethodName
	first := &v1.UploadBlobRequest{Herd: r.PathValue("herd"), Digest: r.PathValue("digest")}
	q := r.URL.Query()
	if err := numbers(q, map[string]*int64{"size": &first.Size, "offset": &first.Offset}); err != nil {
		fail(w, r, err)
		return
	}
	if !q.Has("size") {
		if r.ContentLength < 0 {
			fail(w, r, errs.E(errs.Invalid, "upload blob", "how long the blob is, is not said").WithField("size").WithHint("give ?size=, or a Content-Length"))
			return
		}
		first.Size = first.Offset + r.ContentLength
	}
	cl := v1.NewArtifactServiceClient(g.cc)
	g.send(w, r, method, func(ctx context.Context, next func() ([]byte, error)) error {
		s, err := cl.Upload(ctx)
		if err != nil {
			return err
		}
		n, err := pump(s, next, func(data []byte, begin bool) *v1.UploadBlobRequest {
			if !begin {
				return &v1.UploadBlobRequest{Data: data}
			}
			first.Data = data
			return first
		})
		if err != nil {
			return err
		}
		if first.Offset+n < first.Size {
			// The server keeps what came, and says that it is not all.
			if _, err := s.CloseAndRecv(); errs.KindOf(meant(ctx, err)) != errs.Invalid {
				return err
			}
			st, err := cl.Stat(ctx, &v1.StatBlobRequest{Digest: first.Digest, Herd: first.Herd})
			if err != nil {
				return err
			}
			return writeMessage(w, http.StatusAccepted, st)
		}
		resp, err := s.CloseAndRecv()
		if err != nil {
			return err
		}
		return writeMessage(w, http.StatusOK, resp)
	})
}

// restore is ClusterService.Restore.
func (g *Gateway) restore(w http.ResponseWriter, r *http.Request) {
	if err := numbers(r.URL.Query(), nil); err != nil {
		fail(w, r, err)
		return
	}
	g.send(w, r, v1.ClusterService_Restore_FullMethodName, func(ctx context.Context, next func() ([]byte, error)) error {
		s, err := v1.NewClusterServiceClient(g.cc).Restore(ctx)
		if err != nil {
			return err
		}
		if _, err := pump(s, next, func(data []byte, _ bool) *v1.RestoreChunk { return &v1.RestoreChunk{Data: data} }); err != nil {
			return err
		}
		resp, err := s.CloseAndRecv()
		if err != nil {
			return err
		}
		return writeMessage(w, http.StatusOK, resp)
	})
}

// numbers reads the query's parameters, and refuses others.
func numbers(q url.Values, into map[string]*int64) error {
	for name, values := range q {
		p, ok := into[name]
		if !ok {
			return errs.E(errs.Invalid, "check request", "there is no such parameter").WithField(name).WithHint("GET /openapi.json lists what there is")
		}
		n, err := strconv.ParseInt(values[0], 10, 64)
		if err != nil || n < 0 || len(values) > 1 {
			return errs.E(errs.Invalid, "check request", "%q is no number of bytes", strings.Join(values, ",")).WithField(name)
		}
		*p = n
	}
	return nil
}

// send has call make an RPC of a request's body. The RPC is ended without its end being
// said, if the body does not arrive whole.
func (g *Gateway) send(w http.ResponseWriter, r *http.Request, method string, call func(context.Context, func() ([]byte, error)) error) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	x := exchangeOf(ctx)
	x.stream, x.raw = true, true
	if err := announced(r, g.limits.Piece); err != nil {
		g.refuse(w, r, g.limits.Piece, err)
		return
	}
	ctx, err := runtime.AnnotateContext(ctx, g.mux, r, method)
	if err != nil {
		fail(w, r, meant(ctx, err))
		return
	}
	p := g.pace(w, r, g.limits.Piece)
	var broken error
	buf := make([]byte, uploadChunk)
	err = call(ctx, func() ([]byte, error) {
		n, err := io.ReadFull(p, buf)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil // the last piece; the next read says io.EOF
		}
		if err != nil && !errors.Is(err, io.EOF) {
			broken = err
		}
		return buf[:n], err
	})
	switch {
	case broken != nil:
		g.refuse(w, r, g.limits.Piece, broken)
	case err != nil:
		w.Header().Set("Connection", "close") // what is left of the body is not read
		fail(w, r, meant(ctx, err))
	default:
		if err := p.end(); err != nil {
			w.Header().Set("Connection", "close")
		}
	}
}

// pump sends what next returns, and at least one message. It returns the number of bytes. A
// stream that the server ended is no error here: its answer says why.
func pump[Q, R any](s grpc.ClientStreamingClient[Q, R], next func() ([]byte, error), message func(data []byte, first bool) *Q) (int64, error) {
	var n int64
	for begin := true; ; begin = false {
		data, err := next()
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return n, err
		}
		if end && !begin {
			return n, nil
		}
		if err := s.Send(message(data, begin)); errors.Is(err, io.EOF) {
			if _, err := s.CloseAndRecv(); err != nil {
				return n, err
			}
			return n, errs.E(errs.Internal, "upload", "the server ended the stream without an answer")
		} else if err != nil {
			return n, err
		}
		n += int64(len(data))
		if end {
			return n, nil
		}
	}
}

// writeMessage answers with a message of the API.
func writeMessage(w http.ResponseWriter, code int, m any) error {
	data, err := newCodec(lines).Marshal(m)
	if err != nil {
		return errs.E(errs.Internal, "write answer", "%w", err)
	}
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(code)
	// The client may be gone, and there is nobody to tell.
	_, _ = w.Write(data)
	return nil
}
