package agent

import (
	"context"
	"os"
	"testing"

	"google.golang.org/grpc"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/slicechan"
)

// damagedStore has the beginning of an upload, and it is not what was sent.
type damagedStore struct {
	grpc.ClientConnInterface
	uploaded int64
	heads    []int64 // offsets of the uploads
}

func (d *damagedStore) Invoke(_ context.Context, _ string, _, resp any, _ ...grpc.CallOption) error {
	resp.(*apiv1.StatBlobResponse).Uploaded = d.uploaded
	return nil
}

func (d *damagedStore) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return &damagedUpload{store: d}, nil
}

type damagedUpload struct {
	grpc.ClientStream
	store *damagedStore
	head  *apiv1.UploadBlobRequest
}

func (u *damagedUpload) CloseSend() error { return nil }
func (u *damagedUpload) SendMsg(m any) error {
	if u.head == nil {
		u.head = m.(*apiv1.UploadBlobRequest)
		u.store.heads = append(u.store.heads, u.head.Offset)
	}
	return nil
}

func (u *damagedUpload) RecvMsg(any) error {
	if u.head.Offset > 0 {
		return errs.E(errs.Corrupt, "store blob", "the content has another digest")
	}
	return nil
}

// A control node that lost power may hold a damaged beginning of an output. The output is
// good, so it is sent again from its first byte.
func TestUploadStartsAgainOnADamagedBeginning(t *testing.T) {
	data := []byte("rows and rows")
	a := testAgent(t, scripted{}.listen(t), quietNet{})
	api := &damagedStore{uploaded: 4}
	a.cfg.API = api
	at := a.newAttempt("r/s@1", t.TempDir())
	if err := os.WriteFile(at.staging("out"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	part := slicechan.Part{Block: "out", Bytes: int64(len(data)), Digest: digestOf(data)}
	if err := at.upload(t.Context(), "h", part); err != nil {
		t.Fatal(err)
	}
	if len(api.heads) != 2 || api.heads[0] != 4 || api.heads[1] != 0 {
		t.Fatalf("uploads began at %v", api.heads)
	}
}
