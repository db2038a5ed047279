package artifacts

import (
	"encoding/json"
	"regexp"
	"slices"
	"time"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

const (
	blobPrefix = "/blob/"
	refPrefix  = "/blobref/"
)

// Reader is the state to read from: a barn.View or, in a handler, a *barn.Tx.
type Reader interface {
	Get(key string) (barn.Value, bool)
	Range(prefix string, fn func(key string, v barn.Value) bool)
}

// Blob is a registered blob: a majority of the control nodes held it when it was
// registered.
type Blob struct {
	Digest string    `json:"digest"`
	Size   int64     `json:"size"`
	Herds  []string  `json:"herds"` // that proved to have the content, sorted
	Time   time.Time `json:"time"`  // of the last registration
}

// OwnedBy reports whether herd uploaded the content.
func (b Blob) OwnedBy(herd string) bool { return slices.Contains(b.Herds, herd) }

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// CheckDigest returns an errs.Invalid unless d is "sha256:" and 64 lower-case hex digits.
func CheckDigest(op, d string) error {
	if !digestForm.MatchString(d) {
		return errs.E(errs.Invalid, op, "%.80q is not sha256:<64 hex digits>", d).WithField("digest").WithHint("it is the SHA-256 of the content")
	}
	return nil
}

// Lookup returns a registered blob.
func Lookup(r Reader, digest string) (Blob, bool, error) {
	v, ok := r.Get(blobPrefix + digest)
	if !ok {
		return Blob{}, false, nil
	}
	var b Blob
	if err := json.Unmarshal(v.Data, &b); err != nil {
		return b, false, errs.E(errs.Corrupt, "read blob table", "%w", err).WithField(digest)
	}
	return b, true, nil
}

// Ref records that run refers to digest, so that the blob is kept. It is for handlers.
func Ref(tx *barn.Tx, digest, run string) { tx.Put(refPrefix+digest+"/"+run, []byte("{}")) }

// Unref takes a Ref back. It is for handlers.
func Unref(tx *barn.Tx, digest, run string) { tx.Delete(refPrefix + digest + "/" + run) }

// Referred reports whether run refers to digest.
func Referred(r Reader, digest, run string) bool {
	_, ok := r.Get(refPrefix + digest + "/" + run)
	return ok
}
