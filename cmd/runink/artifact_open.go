package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

// openRejected writes a dead-letter file with the content of its rows unsealed, to w, or to
// file with mode 0600.
func openRejected(ctx context.Context, api *apiclient.Client, run, block, file string, w io.Writer) (err error) {
	const op = "open rejected rows"
	s, err := v1.NewArtifactServiceClient(api).OpenRejected(ctx, &v1.OpenRejectedRequest{Run: run, Block: block})
	if err != nil {
		return err
	}
	if file == "" || file == "-" {
		return receiveRejected(s.Recv, w)
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*") // mode 0600
	if err != nil {
		return errs.E(errs.Invalid, op, "%w", err).WithField("--output")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if err = receiveRejected(s.Recv, f); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), file); err != nil {
		return err
	}
	return f.Close()
}

func receiveRejected(recv func() (*v1.OpenRejectedResponse, error), w io.Writer) error {
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(m.Data); err != nil {
			return errs.E(errs.Invalid, "open rejected rows", "%w", err)
		}
	}
}
