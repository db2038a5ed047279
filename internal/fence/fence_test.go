package fence

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/runink/runink/internal/errs"
)

func TestDeadline(t *testing.T) {
	file := filepath.Join(t.TempDir(), "deadline")
	if d, err := LoadDeadline(file); d != 0 || err != nil {
		t.Errorf("before the first: %v, %v", d, err)
	}
	for _, want := range []time.Duration{1, 17*time.Hour + 3, 2} {
		if err := SaveDeadline(file, want); err != nil {
			t.Fatal(err)
		}
		if got, err := LoadDeadline(file); got != want || err != nil {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	if err := SaveDeadline(filepath.Join(t.TempDir(), "no", "such", "folder"), 1); err == nil {
		t.Error("a deadline that nobody can read was saved")
	}
	if _, err := LoadDeadline(t.TempDir()); err == nil {
		t.Error("a folder is a deadline")
	}
}

// What is no deadline is an error, never a time.
func FuzzLoadDeadline(f *testing.F) {
	for _, s := range []string{"", "0", "12\n", "-1", "1e9", "9223372036854775808", "12 13"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		file := filepath.Join(t.TempDir(), "deadline")
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := LoadDeadline(file)
		if d < 0 || err != nil && (d != 0 || !errors.Is(err, errs.Corrupt)) {
			t.Errorf("%q: %v, %v", s, d, err)
		}
	})
}

const holderEnv = "RUNINK_TEST_HOLDER"

// A lock is held as long as its process lives, however it ends.
func TestHold(t *testing.T) {
	if file := os.Getenv(holderEnv); file != "" {
		if _, err := Hold(file); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stdout.WriteString("held\n"); err != nil {
			t.Fatal(err)
		}
		select {}
	}
	file := filepath.Join(t.TempDir(), "run", "watchdog.lock")
	held := func(want bool, when string) {
		t.Helper()
		if got, err := Held(file); got != want || err != nil {
			t.Errorf("%s: held %v, %v", when, got, err)
		}
	}
	held(false, "before anybody")
	release, err := Hold(file)
	if err != nil {
		t.Fatal(err)
	}
	held(true, "by this process")
	if _, err := Hold(file); !errors.Is(err, errs.Conflict) {
		t.Errorf("held twice: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	held(false, "after its release")

	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHold$")
	cmd.Env = append(os.Environ(), holderEnv+"="+file)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	held(true, "by another process")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it was not killed")
	}
	held(false, "after that process was killed")
}
