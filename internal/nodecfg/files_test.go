package nodecfg

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/runink/runink/internal/errs"
)

func TestSaveIsPrivate(t *testing.T) {
	c, err := Parse(worker)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "run", "config.json")
	if err := Save(path, c); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, and a token is in it", info.Mode())
	}
	if err := os.WriteFile(path, []byte(`{"cluster":"c1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); !errors.Is(err, errs.Invalid) {
		t.Errorf("a file that lost its keys: %v", err)
	}
	if _, err := Load(path + ".none"); !errors.Is(err, errs.NotFound) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte(`{"cluster":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); !errors.Is(err, errs.Corrupt) {
		t.Errorf("half a file: %v", err)
	}
}

func TestStatus(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "status")
	if _, err := ReadStatus(dir, "agent"); !errors.Is(err, errs.NotFound) {
		t.Errorf("before it is written: %v", err)
	}
	want := Status{State: StateWaiting, Message: "for the operator", Detail: map[string]string{DetailFingerprint: pinA}}
	if err := WriteStatus(dir, "agent", want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadStatus(dir, "agent")
	if err != nil || got.State != want.State || got.Message != want.Message || got.Detail[DetailFingerprint] != pinA {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := WriteStatus(dir, "../agent", want); !errors.Is(err, errs.Invalid) {
		t.Errorf("a component outside the folder: %v", err)
	}
}

func TestLoadImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "os-release")
	if err := os.WriteFile(path, []byte("NAME=Runink\nIMAGE_VERSION=\"sha256:ab\"\nRUNINK_BUILD_TIME=86400\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := LoadImage(path)
	if err != nil || got.Version != "sha256:ab" || !got.Time.Equal(time.Unix(86400, 0)) {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := os.WriteFile(path, []byte("RUNINK_BUILD_TIME=yesterday\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadImage(path); !errors.Is(err, errs.Corrupt) {
		t.Errorf("a time that is none: %v", err)
	}
}
