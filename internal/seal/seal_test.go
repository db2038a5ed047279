package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/runink/runink/internal/errs"
)

func newKEK(t testing.TB) KEK {
	t.Helper()
	k, err := NewKEK()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSealOpens(t *testing.T) {
	k := newKEK(t)
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		where := rapid.SliceOfN(rapid.String(), 0, 4).Draw(t, "context")
		other := rapid.SliceOfN(rapid.String(), 0, 4).Draw(t, "other")
		box, err := k.Seal(plain, where...)
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.Open(box, where...)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("got %x, %v", got, err)
		}
		same := len(where) == len(other)
		for i := range where {
			same = same && where[i] == other[i]
		}
		if _, err := k.Open(box, other...); (err == nil) != same {
			t.Fatalf("sealed for %q, opened for %q: %v", where, other, err)
		}
	})
}

func TestSealedIsNotClear(t *testing.T) {
	k := newKEK(t)
	secret := []byte("correct horse battery staple")
	a, err := k.Seal(secret, "herd", "path", "1")
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.Seal(secret, "herd", "path", "1")
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, secret) || bytes.Contains(a.Value, secret) {
		t.Error("the value is in the box")
	}
	if bytes.Equal(a.Value, b.Value) || bytes.Equal(a.Wrapped, b.Wrapped) {
		t.Error("two seals of one value are equal")
	}
	for name, tc := range map[string]struct {
		box  Box
		kek  KEK
		kind errs.Kind
	}{
		"another key":        {a, newKEK(t), errs.Denied},
		"a value of another": {Box{a.KEK, a.Wrapped, b.Value}, k, errs.Corrupt},
		"a flipped bit":      {Box{a.KEK, a.Wrapped, flip(a.Value)}, k, errs.Corrupt},
		"a flipped data key": {Box{a.KEK, flip(a.Wrapped), a.Value}, k, errs.Corrupt},
		"cut":                {Box{a.KEK, a.Wrapped, a.Value[:5]}, k, errs.Corrupt},
		"no key at all":      {a, KEK{}, errs.Internal},
		"empty":              {Box{KEK: a.KEK}, k, errs.Corrupt},
	} {
		_, err := tc.kek.Open(tc.box, "herd", "path", "1")
		if !errors.Is(err, tc.kind) {
			t.Errorf("%s: %v, want %v", name, err, tc.kind)
		}
		if err != nil && strings.Contains(err.Error(), "horse") {
			t.Errorf("%s: the value is in the error", name)
		}
	}
}

func flip(b []byte) []byte {
	c := append([]byte(nil), b...)
	c[len(c)-1] ^= 1
	return c
}

func TestKEKFileAndRecovery(t *testing.T) {
	k := newKEK(t)
	path := filepath.Join(t.TempDir(), "state", "kek")
	if _, err := LoadKEK(path); !errors.Is(err, errs.NotFound) {
		t.Fatalf("absent: %v", err)
	}
	if err := SaveKEK(path, k); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if got, err := LoadKEK(path); err != nil || got.ID() != k.ID() {
		t.Errorf("%v, %v", got.ID(), err)
	}
	text := k.Recovery()
	if got, err := RecoveryKEK(" " + text + "\n"); err != nil || !bytes.Equal(got.Bytes(), k.Bytes()) {
		t.Errorf("recovery: %v", err)
	}
	for i := len(recoveryPrefix); i < len(text); i++ {
		b := []byte(text)
		if b[i] = 'a'; text[i] == 'a' {
			b[i] = 'b'
		}
		if _, err := RecoveryKEK(string(b)); !errors.Is(err, errs.Invalid) {
			t.Errorf("a slip at %d is not noticed: %v", i, err)
		}
	}
	if bytes.Equal(k.Derive("a", "bc"), k.Derive("ab", "c")) || !bytes.Equal(k.Derive("a"), k.Derive("a")) {
		t.Error("derived secrets are confused")
	}
}

func FuzzRecoveryKEK(f *testing.F) {
	f.Add("rkek_")
	f.Add(newKEK(f).Recovery())
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := RecoveryKEK(s); err == nil && len(k.Bytes()) != keySize {
			t.Fatalf("%d bytes", len(k.Bytes()))
		}
	})
}
