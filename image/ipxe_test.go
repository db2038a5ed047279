package image

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/runink/runink/internal/errs"
)

func lockedIPXE(t *testing.T) *IPXE {
	t.Helper()
	lock, err := IPXELock()
	check(t, err)
	x, err := FetchIPXE(t.Context(), lock, cache, slog.Default())
	check(t, err)
	return x
}

// What the package has is what its lock names, for both firmwares, and is read from the cache
// the second time.
func TestIPXE(t *testing.T) {
	for range 2 {
		x := lockedIPXE(t)
		if !x.Locked || x.deb.SHA256 != x.SHA256 || len(x.files) != 2 {
			t.Fatalf("%+v of %d files, locked %v", x.deb, len(x.files), x.Locked)
		}
		if efi := x.files["usr/lib/ipxe/snponly.efi"]; !bytes.HasPrefix(efi, []byte("MZ")) {
			t.Errorf("UEFI's is no program: %d bytes", len(efi))
		}
		if bios := x.files["usr/lib/ipxe/undionly.kpxe"]; len(bios) < 32<<10 || len(bios) > 512<<10 {
			t.Errorf("BIOS's has %d bytes", len(bios))
		}
	}
}

// A package without a program that is to be handed out is not built in.
func TestIPXEWithoutAProgram(t *testing.T) {
	lock, err := IPXELock()
	check(t, err)
	dir := t.TempDir()
	deb, err := os.ReadFile(filepath.Join(cache, lockedIPXE(t).SHA256+".deb"))
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, lock.SHA256+".deb"), deb, 0o644))
	check(t, os.MkdirAll(filepath.Join(dir, "ipxe-"+lock.SHA256, "usr/lib/ipxe"), 0o755))
	if _, err := FetchIPXE(t.Context(), lock, dir, slog.Default()); !errors.Is(err, errs.Corrupt) {
		t.Errorf("got %v, want kind corrupt", err)
	}
}
