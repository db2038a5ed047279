package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/runink/runink/internal/fault"
)

// TestShelfKeepsItsBound: the logs of ended slices stay within the bound, the oldest go first,
// those of slices that run are not counted or touched, and folders count where they are empty.
func TestShelfKeepsItsBound(t *testing.T) {
	a := testAgent(t, scripted{}.listen(t), quietNet{})
	made := func(id string, size int64, age time.Duration) string {
		dir := a.logDir(id)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(dir, "stdout.0"))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil { // it takes no room
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(f.Name(), when, when); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	there := func(dir string) bool { _, err := os.Stat(dir); return err == nil }

	older, old := made("r/old@1", logBytes/2, time.Hour), made("r/old@2", logBytes/4, time.Minute)
	live := made("r/live@1", logBytes, 2*time.Hour)
	// It is only beginning: the agent's table does not have it yet.
	if err := os.MkdirAll(filepath.Join(a.cfg.Dir, "attempts", filepath.Base(live)), 0o700); err != nil {
		t.Fatal(err)
	}
	first := made("r/s@1", logBytes/8, 0)
	if err := a.shelf.put(a, first); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{older, old, live, first} {
		if !there(dir) {
			t.Fatalf("%s is gone, and there was room", dir)
		}
	}
	second := made("r/s@2", logBytes*5/8-20*folderBytes, 0) // room for some folders is left
	if err := a.shelf.put(a, second); err != nil {
		t.Fatal(err)
	}
	if there(older) || !there(old) || !there(live) || !there(first) || !there(second) {
		t.Fatal("not the oldest went")
	}
	if err := a.shelf.put(a, second); err != nil { // repeated
		t.Fatal(err)
	}
	const silent = 40
	for i := range silent {
		if err := a.shelf.put(a, made(fmt.Sprintf("r/silent@%d", i), 0, 0)); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(filepath.Join(a.cfg.Dir, "logs"))
	if err != nil {
		t.Fatal(err)
	}
	if there(old) || !there(first) || len(left) != silent+3 || a.shelf.bytes > logBytes || !there(live) {
		t.Fatalf("%d folders of %d bytes are left", len(left), a.shelf.bytes)
	}
}

// TestShelfIsHeldUpByNothing: logs that cannot be looked at or removed do not keep those of
// another slice from their bound, and are tried again.
func TestShelfIsHeldUpByNothing(t *testing.T) {
	a := testAgent(t, scripted{}.listen(t), quietNet{})
	made := func(id string, size int64) string {
		dir := a.logDir(id)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "stdout.0")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, size); err != nil { // it takes no room
			t.Fatal(err)
		}
		return dir
	}
	there := func(dir string) bool { _, err := os.Stat(dir); return err == nil }
	stays := made("r/stays@1", logBytes/4)
	if err := os.WriteFile(a.logDir("no folder"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	disarm := fault.Arm("agent.remove("+filepath.Base(stays)+")", 0, func(string) error { return fault.ErrInjected })
	defer disarm()
	first, second := made("r/s@1", logBytes/2), made("r/s@2", logBytes/2)
	for _, dir := range []string{stays, first, second} {
		if err := a.shelf.put(a, dir); err != nil {
			t.Fatal(err)
		}
	}
	if !there(stays) || there(first) || !there(second) || a.shelf.bytes > logBytes {
		t.Errorf("left: %t, %t, %t, %d bytes", there(stays), there(first), there(second), a.shelf.bytes)
	}
	if err := a.shelf.put(a, a.logDir("r/silent@1")); err != nil { // somebody removed it
		t.Fatal(err)
	}
	disarm()
	for i := range 2 {
		if err := a.shelf.put(a, made(fmt.Sprintf("r/later@%d", i), logBytes/2)); err != nil {
			t.Fatal(err)
		}
	}
	if there(stays) || a.shelf.bytes > logBytes {
		t.Errorf("%s is not tried again; %d bytes are left", stays, a.shelf.bytes)
	}
}
