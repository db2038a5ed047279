package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

func TestDeliverSecretsOnALaptop(t *testing.T) {
	t.Setenv("RUNINK_TEST_TOKEN", "")
	t.Setenv("RUNINK_SECRETS", "")
	t.Setenv("XDG_RUNTIME_DIR", "")
	p := &plan.Plan{Slices: []plan.Slice{
		{Secrets: []plan.Secret{{Path: "a/token", Env: "RUNINK_TEST_TOKEN"}, {Path: "tls/key", File: "tls.key"}}},
		{Secrets: []plan.Secret{{Path: "tls/key", File: "tls.key"}, {Path: "ctx"}}},
	}}
	values, err := readSecrets(strings.NewReader(`{"a/token":"dG9r","tls/key":"AP8=","ctx":"Yw=="}`))
	if err != nil {
		t.Fatal(err)
	}
	s, err := deliverSecrets(p, values)
	if err != nil {
		t.Fatal(err)
	}
	if got := os.Getenv("RUNINK_TEST_TOKEN"); got != "tok" {
		t.Errorf("variable %q", got)
	}
	file := s.files["tls/key"]
	b, err := os.ReadFile(file)
	if err != nil || string(b) != "\x00\xff" || filepath.Dir(file) != os.Getenv("RUNINK_SECRETS") {
		t.Errorf("file %s: %q, %v", file, b, err)
	}
	for path, mode := range map[string]os.FileMode{file: 0o400, filepath.Dir(file): 0o700} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
	if s.values["ctx"] != "c" || s.values["tls/key"] != "\x00\xff" {
		t.Errorf("values %q", s.values)
	}
	if err := s.remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(file)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

func TestDeliverSecretsRefuses(t *testing.T) {
	t.Setenv("RUNINK_TEST_TOKEN", "before")
	p := &plan.Plan{Slices: []plan.Slice{{Secrets: []plan.Secret{
		{Path: "a", Env: "RUNINK_TEST_TOKEN"}, {Path: "b", Pos: plan.Pos{File: "x.dsl", Line: 3, Col: 5}},
	}}}}
	for _, c := range []struct {
		name   string
		values map[string][]byte
		kind   errs.Kind
		want   string
	}{
		{"a missing one", map[string][]byte{"a": []byte("x")}, errs.NotFound, "x.dsl:3:5"},
		{"a zero byte in a variable", map[string][]byte{"a": []byte("hush\x00"), "b": nil}, errs.Invalid, "zero byte"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := deliverSecrets(p, c.values)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hush") {
				t.Errorf("%v", err)
			}
			if got := os.Getenv("RUNINK_TEST_TOKEN"); got != "before" {
				t.Errorf("the variable was changed to %q", got)
			}
		})
	}
	if _, err := readSecrets(strings.NewReader("x")); !errors.Is(err, errs.Invalid) {
		t.Errorf("no JSON: %v", err)
	}
}
