package secrets

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/seal"
)

// TestHerdKey: however many ask at once, a herd has one key; what is sealed to it opens for
// that herd and run only, and never without a record.
func TestHerdKey(t *testing.T) {
	b, s := open(t)
	ctx := t.Context()
	const n = 8
	keys := make([][]byte, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			k, err := s.HerdKey(ctx, "system:scheduler", "analytics")
			if err != nil {
				t.Error(err)
			}
			keys[i] = k
		})
	}
	wg.Wait()
	if slices.ContainsFunc(keys, func(k []byte) bool { return len(k) != 32 || !bytes.Equal(k, keys[0]) }) {
		t.Fatalf("%d callers got different keys: %x", n, keys)
	}
	sealer, err := seal.NewRowSealer(keys[0], "analytics", "r-1")
	if err != nil {
		t.Fatal(err)
	}
	row := string(sealer.Append(nil, []byte("as it was read"), nil))

	o, err := s.OpenRejected(ctx, "key:k1", Opening{Herd: "analytics", Run: "r-1", Block: "rejected"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := o.Open(row, nil); err != nil || string(got) != "as it was read" {
		t.Errorf("%q, %v", got, err)
	}
	r := audits(t, b, CmdOpenRejected)
	if len(r) != 1 || r[0].Outcome != "ok" || r[0].Principal != "key:k1" || r[0].Detail["run"] != "r-1" || r[0].Detail["block"] != "rejected" || r[0].Detail["herd"] != "analytics" {
		t.Errorf("audit of the opening: %+v", r)
	}
	if o, err = s.OpenRejected(ctx, "key:k1", Opening{Herd: "analytics", Run: "r-2", Block: "rejected"}); err != nil {
		t.Fatal(err)
	}
	if got, err := o.Open(row, nil); !errors.Is(err, errs.Corrupt) {
		t.Errorf("as a row of another run: %q, %v", got, err)
	}
	if _, err := s.OpenRejected(ctx, "key:k1", Opening{Herd: "other", Run: "r-1"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("a herd without a key: %v", err)
	}
	if r := audits(t, b, CmdOpenRejected); len(r) != 3 || r[2].Outcome != "not_found" {
		t.Errorf("audit of the refusal: %+v", r)
	}
	if _, err := s.HerdKey(ctx, "system:scheduler", "nobody"); !errors.Is(err, errs.NotFound) {
		t.Errorf("no herd: %v", err)
	}
}

// TestHerdKeyIsSealed: the private half is nowhere in Barn, and does not open as another
// herd's.
func TestHerdKeyIsSealed(t *testing.T) {
	b, s := open(t)
	ctx := t.Context()
	if _, err := s.HerdKey(ctx, "system:scheduler", "analytics"); err != nil {
		t.Fatal(err)
	}
	v, err := b.View(ctx, barn.Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	k, ok, err := readHerdKey(v, "analytics")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	private, err := s.kek.Open(k.Box, boundKey("analytics")...)
	if err != nil {
		t.Fatal(err)
	}
	v.Range("", func(key string, val barn.Value) bool {
		if bytes.Contains(val.Data, private) {
			t.Errorf("%s holds the private half in clear", key)
		}
		return true
	})
	if _, err := b.Propose(ctx, barn.Command{Kind: "test.move", Version: 1, Payload: []byte("/herdkey/analytics /herdkey/other")}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.OpenRejected(ctx, "key:k1", Opening{Herd: "other", Run: "r"}); !errors.Is(err, errs.Corrupt) {
		t.Errorf("another herd's key: %v", err)
	}
}

func TestSize(t *testing.T) {
	b, s := open(t)
	if _, err := s.Put(t.Context(), "operator:alice", "1", "analytics", "a", make([]byte, 123)); err != nil {
		t.Fatal(err)
	}
	v, err := b.View(t.Context(), barn.Linearizable)
	if err != nil {
		t.Fatal(err)
	}
	if n, ok, err := Size(v, "analytics", "a"); n != 123 || !ok || err != nil {
		t.Errorf("%d, %t, %v", n, ok, err)
	}
	if _, ok, err := Size(v, "analytics", "b"); ok || err != nil {
		t.Errorf("a secret that is not there: %t, %v", ok, err)
	}
}
