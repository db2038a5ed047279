// Package buildinfo says what program this is, as far as the program knows.
//
// It promises nothing about a build that was told nothing: what is not known is empty or
// "devel". What tells one build from another in any case is the program's digest, because
// the same source gives the same bytes. It reads the program's own file and no other.
package buildinfo

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/runink/runink/internal/errs"
)

// Devel is the version of a build that was given none.
const Devel = "devel"

// Info is a program.
type Info struct {
	Version string // of the main module
	Go      string // that compiled it
	OS      string
	Arch    string
}

// Read returns what was linked into this program.
func Read() Info {
	i := Info{Version: Devel, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" && b.Main.Version != "(devel)" {
		i.Version = b.Main.Version
	}
	return i
}

// Digest is "sha256:…" of this program's file. It reads all of it.
func Digest() (string, error) {
	const op = "hash this program"
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", errs.E(errs.Internal, op, "%w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", errs.E(errs.Internal, op, "%w", err)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}
