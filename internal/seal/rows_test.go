package seal

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/runink/runink/internal/errs"
)

func newRows(t testing.TB, scope ...string) (KeyPair, *RowSealer) {
	t.Helper()
	k, err := NewKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewRowSealer(k.Public, scope...)
	if err != nil {
		t.Fatal(err)
	}
	return k, s
}

func newOpener(t testing.TB, private []byte, scope ...string) *RowOpener {
	t.Helper()
	o, err := NewRowOpener(private, scope...)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestRowsOpen(t *testing.T) {
	k, s := newRows(t, "herd", "run")
	o := newOpener(t, k.Private, "herd", "run")
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		place := Place(rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, "place")...)
		sealed := string(s.Append([]byte("before"), plain, place))
		got, err := o.Open(strings.TrimPrefix(sealed, "before"), place)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%x, %v", got, err)
		}
	})
}

// Several goroutines and several sealers: every row opens by itself, in any order, and no two
// sealed rows are equal.
func TestRowsOfManyWriters(t *testing.T) {
	k, first := newRows(t, "herd", "run")
	second, err := NewRowSealer(k.Public, "herd", "run")
	if err != nil {
		t.Fatal(err)
	}
	const writers, rows = 8, 200
	out := make([][]string, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			s := first
			if w%2 == 1 {
				s = second
			}
			for range rows {
				out[w] = append(out[w], string(s.Append(nil, []byte("the same row"), nil)))
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	o := newOpener(t, k.Private, "herd", "run")
	for i := range rows {
		for w := range writers {
			x := out[w][rows-1-i]
			if seen[x] {
				t.Fatal("two sealed rows are equal")
			}
			seen[x] = true
			if got, err := o.Open(x, nil); err != nil || string(got) != "the same row" {
				t.Fatalf("%q, %v", got, err)
			}
		}
	}
}

func TestRowsDoNotOpenElsewhere(t *testing.T) {
	k, s := newRows(t, "herd", "run")
	other, _ := newRows(t)
	place := Place("step", "source", "7")
	sealed := string(s.Append(nil, []byte("secret row"), place))
	raw, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte("secret")) {
		t.Fatal("the row is there in clear")
	}
	flipped := func(i int) string {
		b := bytes.Clone(raw)
		b[(i+len(b))%len(b)] ^= 1
		return base64.StdEncoding.EncodeToString(b)
	}
	for _, c := range []struct {
		name    string
		private []byte
		scope   []string
		sealed  string
		place   []byte
	}{
		{"another key", other.Private, []string{"herd", "run"}, sealed, place},
		{"another run", k.Private, []string{"herd", "run2"}, sealed, place},
		{"another herd", k.Private, []string{"her", "drun"}, sealed, place},
		{"another place", k.Private, []string{"herd", "run"}, sealed, Place("step", "source", "8")},
		{"another version", k.Private, []string{"herd", "run"}, flipped(0), place},
		{"another encapsulated key", k.Private, []string{"herd", "run"}, flipped(5), place},
		{"another number", k.Private, []string{"herd", "run"}, flipped(rowHeadSize + 7), place},
		{"a changed byte", k.Private, []string{"herd", "run"}, flipped(-1), place},
		{"cut", k.Private, []string{"herd", "run"}, base64.StdEncoding.EncodeToString(raw[:rowHeadSize+3]), place},
		{"no base64", k.Private, []string{"herd", "run"}, "%", place},
		{"nothing", k.Private, []string{"herd", "run"}, "", place},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := newOpener(t, c.private, c.scope...).Open(c.sealed, c.place); !errors.Is(err, errs.Corrupt) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	if _, err := NewRowSealer(make([]byte, 31)); !errors.Is(err, errs.Invalid) {
		t.Errorf("a short public key: %v", err)
	}
	if _, err := NewRowSealer(make([]byte, 32)); !errors.Is(err, errs.Invalid) {
		t.Errorf("a public key of low order: %v", err)
	}
}

// TestKeysAreBounded: a file with more writers than are kept opens all the same.
func TestKeysAreBounded(t *testing.T) {
	k, _ := newRows(t)
	o := newOpener(t, k.Private)
	for i := range maxOpened + 10 {
		s, err := NewRowSealer(k.Public)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Open(string(s.Append(nil, fmt.Append(nil, i), nil)), nil); err != nil {
			t.Fatal(err)
		}
	}
	if len(o.keys) > maxOpened {
		t.Errorf("%d keys are kept", len(o.keys))
	}
}

func FuzzRowOpener(f *testing.F) {
	k, s := newRows(f)
	f.Add(string(s.Append(nil, []byte("x"), nil)))
	f.Add("")
	o := newOpener(f, k.Private)
	f.Fuzz(func(t *testing.T, sealed string) {
		if _, err := o.Open(sealed, []byte("elsewhere")); err == nil {
			t.Fatal("it opened in another place")
		}
	})
}

func BenchmarkRows(b *testing.B) {
	k, s := newRows(b)
	plain := bytes.Repeat([]byte("x"), 64)
	place := Place("step", "source", "123456")
	b.Run("seal", func(b *testing.B) {
		var dst []byte
		for b.Loop() {
			dst = s.Append(dst[:0], plain, place)
		}
	})
	sealed := string(s.Append(nil, plain, place))
	o := newOpener(b, k.Private)
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			if _, err := o.Open(sealed, place); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("sealer", func(b *testing.B) {
		for b.Loop() {
			if _, err := NewRowSealer(k.Public); err != nil {
				b.Fatal(err)
			}
		}
	})
}
