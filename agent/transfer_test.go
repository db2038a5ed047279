package agent

import (
	"context"
	"os"
	"testing"
	"testing/synctest"
	"time"

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

// holdingStore holds every blob, and counts how often it is asked.
type holdingStore struct {
	grpc.ClientConnInterface
	asked int
}

func (h *holdingStore) Invoke(_ context.Context, _ string, _, resp any, _ ...grpc.CallOption) error {
	h.asked++
	resp.(*apiv1.StatBlobResponse).Complete = true
	return nil
}

// A blob that the control plane was seen to hold is not asked for again, for a while. An attempt
// that follows another asks: that one may have ended because the blob was collected meanwhile.
func TestBlobsHeldAreNotAskedForAgain(t *testing.T) {
	a := testAgent(t, scripted{}.listen(t), quietNet{})
	synctest.Test(t, func(t *testing.T) {
		api := &holdingStore{}
		a.cfg.API = api
		for _, c := range []struct {
			name, id, herd, data string
			later                time.Duration
			asks                 int
		}{
			{"the first", "r/s@1", "h", "rows", 0, 1},
			{"the same of another slice", "r/t@1", "h", "rows", 0, 0},
			{"of another herd", "q/s@1", "i", "rows", 0, 1},
			{"another", "r/s@1", "h", "other rows", 0, 1},
			{"the same of a later attempt", "r/s@2", "h", "rows", 0, 1},
			{"after a while", "r/u@1", "h", "rows", heldFor, 1},
		} {
			time.Sleep(c.later)
			api.asked = 0
			at := a.newAttempt(c.id, t.TempDir())
			if err := os.WriteFile(at.staging("out"), []byte(c.data), 0o600); err != nil {
				t.Fatal(err)
			}
			part := slicechan.Part{Block: "out", Bytes: int64(len(c.data)), Digest: digestOf([]byte(c.data))}
			if err := at.upload(t.Context(), c.herd, part); err != nil {
				t.Fatal(err)
			}
			if api.asked != c.asks {
				t.Errorf("%s: asked %d times, want %d", c.name, api.asked, c.asks)
			}
		}
	})
}
