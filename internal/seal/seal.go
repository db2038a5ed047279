// Package seal encrypts what the cluster keeps at rest: secrets and the keys of its
// authorities.
//
// Every value is sealed by AES-256-GCM under a data key of its own, and the data key is
// wrapped by the key-encryption key (KEK). Both layers are bound to a context (what the
// value is and where it stands), so that a sealed value moved elsewhere does not open. A
// value is stored as JSON with its KEK's id, so that a replaced KEK is told apart from a
// wrong one.
//
// It promises that a value opens only under the same KEK and context, whole and unchanged.
// It never logs a key or a value, and returns neither in an error.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
)

const keySize = 32

// KEK is a key-encryption key. Its zero value seals nothing.
type KEK struct{ key []byte }

// Box is a sealed value.
type Box struct {
	KEK     string `json:"kek"`     // id of the key-encryption key
	Wrapped []byte `json:"wrapped"` // the data key: nonce, ciphertext, tag
	Value   []byte `json:"value"`   // nonce, ciphertext, tag
}

// NewKEK makes a key-encryption key.
func NewKEK() (KEK, error) {
	k := make([]byte, keySize)
	if _, err := rand.Read(k); err != nil {
		return KEK{}, errs.E(errs.Internal, "make key-encryption key", "%w", err)
	}
	return KEK{k}, nil
}

// KEKFromBytes takes 32 bytes as they travel to a control node.
func KEKFromBytes(b []byte) (KEK, error) {
	if len(b) != keySize {
		return KEK{}, errs.E(errs.Invalid, "read key-encryption key", "it has %d bytes, not %d", len(b), keySize)
	}
	return KEK{append([]byte(nil), b...)}, nil
}

// Bytes is the key itself.
func (k KEK) Bytes() []byte { return append([]byte(nil), k.key...) }

// ID names the key without telling anything about it.
func (k KEK) ID() string {
	m := hmac.New(sha256.New, k.key)
	m.Write([]byte("runink key-encryption key id"))
	return hex.EncodeToString(m.Sum(nil)[:8])
}

// Derive makes 32 bytes that only holders of the key can make, the same for the same
// parts. It is how a retried request gets the credential of its first attempt.
func (k KEK) Derive(parts ...string) []byte {
	m := hmac.New(sha256.New, k.key)
	m.Write([]byte("runink derived secret"))
	m.Write(contextBytes(parts))
	return m.Sum(nil)
}

const recoveryPrefix = "rkek_"

// Recovery is the form for people to keep: RecoveryKEK reads it, and notices a slip.
func (k KEK) Recovery() string {
	sum := sha256.Sum256(k.key)
	enc := base32.StdEncoding.WithPadding(base32.NoPadding)
	return recoveryPrefix + strings.ToLower(enc.EncodeToString(append(k.Bytes(), sum[:3]...)))
}

// RecoveryKEK reads what Recovery wrote.
func RecoveryKEK(s string) (KEK, error) {
	const op = "read recovery key"
	enc := base32.StdEncoding.WithPadding(base32.NoPadding)
	body, ok := strings.CutPrefix(strings.TrimSpace(s), recoveryPrefix)
	b, err := enc.DecodeString(strings.ToUpper(body))
	if !ok || err != nil || len(b) != keySize+3 {
		return KEK{}, errs.E(errs.Invalid, op, "it does not look like one").WithHint("it begins with %s", recoveryPrefix)
	}
	if sum := sha256.Sum256(b[:keySize]); string(sum[:3]) != string(b[keySize:]) {
		return KEK{}, errs.E(errs.Invalid, op, "its checksum is wrong").WithHint("a character was mistyped")
	}
	return KEK{b[:keySize]}, nil
}

// SaveKEK replaces path with the key, mode 0600.
func SaveKEK(path string, k KEK) error {
	const op = "write key-encryption key"
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	if err := fsx.WriteFileAtomic(path, []byte(hex.EncodeToString(k.key)+"\n"), 0o600); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	return nil
}

// LoadKEK reads what SaveKEK wrote. NotFound if there is none.
func LoadKEK(path string) (KEK, error) {
	const op = "read key-encryption key"
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return KEK{}, errs.E(errs.NotFound, op, "%w", err)
	}
	if err != nil {
		return KEK{}, errs.E(errs.Internal, op, "%w", err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(b) != keySize {
		return KEK{}, errs.E(errs.Corrupt, op, "%s is not %d bytes in hexadecimal", path, keySize)
	}
	return KEK{b}, nil
}

// Seal seals plain under a new data key, bound to context: the parts that say what the
// value is, of which none can be taken for another.
func (k KEK) Seal(plain []byte, context ...string) (Box, error) {
	const op = "seal"
	if len(k.key) != keySize {
		return Box{}, errs.E(errs.Internal, op, "there is no key-encryption key")
	}
	dek := make([]byte, keySize)
	if _, err := rand.Read(dek); err != nil {
		return Box{}, errs.E(errs.Internal, op, "%w", err)
	}
	aad := contextBytes(context)
	value, err := encrypt(dek, plain, aad)
	if err != nil {
		return Box{}, errs.E(errs.Internal, op, "%w", err)
	}
	wrapped, err := encrypt(k.key, dek, aad)
	if err != nil {
		return Box{}, errs.E(errs.Internal, op, "%w", err)
	}
	return Box{KEK: k.ID(), Wrapped: wrapped, Value: value}, nil
}

// Open is the inverse of Seal. Errors: Denied if the box was sealed under another
// key-encryption key; Corrupt if it was changed or belongs to another context.
func (k KEK) Open(b Box, context ...string) ([]byte, error) {
	const op = "open sealed value"
	if len(k.key) != keySize {
		return nil, errs.E(errs.Internal, op, "there is no key-encryption key")
	}
	if id := k.ID(); b.KEK != id {
		return nil, errs.E(errs.Denied, op, "it was sealed under key %s, and this is %s", b.KEK, id).
			WithHint("restore the cluster's own key-encryption key from the recovery copy")
	}
	aad := contextBytes(context)
	dek, err := decrypt(k.key, b.Wrapped, aad)
	if err != nil || len(dek) != keySize {
		return nil, errs.E(errs.Corrupt, op, "the data key does not open in this place")
	}
	plain, err := decrypt(dek, b.Value, aad)
	if err != nil {
		return nil, errs.E(errs.Corrupt, op, "the value does not open in this place")
	}
	return plain, nil
}

// contextBytes joins parts with their lengths: ("a","bc") and ("ab","c") differ.
func contextBytes(parts []string) []byte {
	var b []byte
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}

func gcm(key []byte) (cipher.AEAD, error) {
	c, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(c)
}

func encrypt(key, plain, aad []byte) ([]byte, error) {
	g, err := gcm(key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, g.NonceSize(), g.NonceSize()+len(plain)+g.Overhead())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return g.Seal(nonce, nonce, plain, aad), nil
}

func decrypt(key, box, aad []byte) ([]byte, error) {
	g, err := gcm(key)
	if err != nil {
		return nil, err
	}
	if len(box) < g.NonceSize() {
		return nil, errors.New("too short")
	}
	return g.Open(nil, box[:g.NonceSize()], box[g.NonceSize():], aad)
}

// Size is the number of bytes of the value in the box.
func (b Box) Size() int { return max(len(b.Value)-boxOverhead, 0) }

// boxOverhead is what encrypt adds: GCM's nonce and tag.
const boxOverhead = 12 + 16
