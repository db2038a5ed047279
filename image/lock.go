package image

import (
	_ "embed"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/runink/runink/internal/errs"
)

//go:embed kernel.lock
var kernelLock string

//go:embed metal.lock
var metalLock string

//go:embed ipxe.lock
var ipxeLock string

// Lock pins a Debian package.
type Lock struct {
	Package string `json:"package"` // of a kernel linux-image-<release>, a concrete one, not a metapackage
	Version string `json:"version"` // Debian version
	SHA256  string `json:"sha256"`  // of the .deb, lower-case hexadecimal
}

// KernelLock returns the cloud kernel's lock, committed with this package.
func KernelLock() (Lock, error) { return ParseLock(kernelLock) }

// MetalLock returns the metal kernel's lock, committed with this package.
func MetalLock() (Lock, error) { return ParseLock(metalLock) }

// IPXELock returns the lock of iPXE's package, committed with this package.
func IPXELock() (Lock, error) { return parseLock("ipxe.lock", ipxeLock) }

var (
	packageName    = regexp.MustCompile(`^linux-image-[a-z0-9][a-z0-9.+-]*$`)
	packageVersion = regexp.MustCompile(`^[0-9][A-Za-z0-9.+~:-]*$`)
)

// ParseLock reads the lock file of a kernel: lines "package NAME", "version VERSION",
// "sha256 HEX", each exactly once; # starts a comment. Errors are of kind Invalid with the line.
func ParseLock(text string) (Lock, error) {
	const file = "kernel.lock"
	l, err := parseLock(file, text)
	if err != nil {
		return Lock{}, err
	}
	if !packageName.MatchString(l.Package) || l.Package == Cloud.meta() || l.Package == Metal.meta() {
		return Lock{}, errs.E(errs.Invalid, "read "+file, "%q is not a kernel package such as linux-image-6.1.0-1-cloud-amd64", l.Package).WithField("package")
	}
	return l, nil
}

// parseLock reads a lock file of any package; file is for messages.
func parseLock(file, text string) (Lock, error) {
	op := "read " + file
	var l Lock
	fields := map[string]*string{"package": &l.Package, "version": &l.Version, "sha256": &l.SHA256}
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		place := fmt.Sprintf("%s:%d", file, i+1)
		dst, ok := fields[words[0]]
		switch {
		case !ok:
			return Lock{}, errs.E(errs.Invalid, op, "unknown key %q", words[0]).At(place)
		case len(words) != 2:
			return Lock{}, errs.E(errs.Invalid, op, "want a key and one value").At(place)
		case *dst != "":
			return Lock{}, errs.E(errs.Invalid, op, "%s is given twice", words[0]).At(place)
		}
		*dst = words[1]
	}
	if l.Package == "" {
		return Lock{}, errs.E(errs.Invalid, op, "it is missing").WithField("package")
	}
	if !packageVersion.MatchString(l.Version) {
		return Lock{}, errs.E(errs.Invalid, op, "%q is not a Debian version", l.Version).WithField("version")
	}
	if b, err := hex.DecodeString(l.SHA256); err != nil || len(b) != 32 || strings.ToLower(l.SHA256) != l.SHA256 {
		return Lock{}, errs.E(errs.Invalid, op, "want 64 lower-case hexadecimal digits").WithField("sha256")
	}
	return l, nil
}
