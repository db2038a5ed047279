package image

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/netboot"
)

// IPXE is what a control node hands out first to machines that boot from it: one program for
// each firmware. Only the metal image has it: there are no others that a machine could boot.
type IPXE struct {
	fetched
	deb   File
	files map[string][]byte // by path in the image, which is that in the package
}

// FetchIPXE returns the package that lock names, as FetchKernel does.
func FetchIPXE(ctx context.Context, lock Lock, cache string, log *slog.Logger) (*IPXE, error) {
	const op = "read iPXE's package"
	x := &IPXE{files: map[string][]byte{}}
	deb, err := x.fetch(ctx, lock, cache, log)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(deb)
	if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	x.deb = fileOf(x.debName(), data)
	dir := filepath.Join(cache, "ipxe-"+x.SHA256)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := unpackDeb(ctx, deb, dir, netboot.DefaultIPXE[1:]+"/"); err != nil {
			return nil, errs.Wrap("unpack "+filepath.Base(deb), err)
		}
	} else if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	for _, name := range netboot.IPXEFiles() {
		name = netboot.DefaultIPXE[1:] + "/" + name
		if x.files[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			return nil, errs.E(errs.Corrupt, op, "%s %s: %w", x.Package, x.Version, err)
		}
	}
	return x, nil
}
