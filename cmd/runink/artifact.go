package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

func newArtifactCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "artifact", Short: "Fetch what runs wrote",
		Example: "  runink artifact get 1hkz3v0c8q2m4x7a/late -o late.jsonl",
	}
	addClientFlags(c)
	c.AddCommand(newArtifactListCmd(), newArtifactGetCmd())
	return c
}

func newArtifactListCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "list RUN", Short: "List the outputs of a run", Args: exactArgs(1, "one RUN"),
		Example: "  runink artifact list 1hkz3v0c8q2m4x7a",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			r, err := v1.NewRunServiceClient(api).Get(c.Context(), &v1.GetRunRequest{Id: args[0]})
			if err != nil {
				return err
			}
			return emit(c, r, func(w io.Writer) { printOutputs(w, r) })
		}),
	}
	addOutputFlag(c)
	return c
}

func newArtifactGetCmd() *cobra.Command {
	var file string
	var open, bundle bool
	c := &cobra.Command{
		Use:   "get RUN/SINK",
		Short: "Fetch an output of a run, or its bundle",
		Long: `Get writes an output of a run to standard output, or to a file with -o. Every part is
checked against the digest that the run's commit names; a file appears only when it is
complete. With --bundle it fetches what the run ran: the file can be submitted again.`,
		Example: `  runink artifact get 1hkz3v0c8q2m4x7a/late | head
  runink artifact get 1hkz3v0c8q2m4x7a/late -o late.jsonl
  runink artifact get 1hkz3v0c8q2m4x7a --bundle -o flights.bundle`,
		Args: exactArgs(1, "one RUN/SINK"),
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			id, block, ok := strings.Cut(args[0], "/")
			switch {
			case bundle && open:
				return errs.E(errs.Invalid, c.CommandPath(), "a bundle has no sealed rows").WithField("--open").WithHint("leave out --bundle or --open")
			case bundle && ok:
				return errs.E(errs.Invalid, c.CommandPath(), "%q is not RUN", args[0]).WithHint("a run has one bundle: `runink artifact get %s --bundle`", id)
			case !bundle && (!ok || block == ""):
				return errs.E(errs.Invalid, c.CommandPath(), "%q is not RUN/SINK", args[0]).WithHint("`runink artifact list RUN` shows them")
			}
			r, err := v1.NewRunServiceClient(api).Get(c.Context(), &v1.GetRunRequest{Id: id})
			if err != nil {
				return err
			}
			if bundle {
				return fetchTo(c, file, func(w io.Writer) error { return fetchBlob(c.Context(), api, r.Id, r.BundleDigest, w) })
			}
			out, err := outputOf(r, block)
			if err != nil {
				return err
			}
			if open {
				return openRejected(c.Context(), api, r.Id, out.Block, file, c.OutOrStdout())
			}
			return fetchTo(c, file, func(w io.Writer) error { return fetchOutput(c.Context(), api, r.Id, out, w) })
		}),
	}
	c.Flags().StringVarP(&file, "output", "o", "", "file to write (default: standard output)")
	c.Flags().BoolVar(&bundle, "bundle", false, "fetch the bundle that the run ran")
	c.Flags().BoolVar(&open, "open", false, "unseal what the rows of a dead-letter file held; recorded in the audit log")
	return c
}

func outputOf(r *v1.Run, block string) (*v1.RunOutput, error) {
	var names []string
	for _, o := range r.Outputs {
		if o.Block == block {
			return o, nil
		}
		names = append(names, o.Block)
	}
	if r.State != "succeeded" {
		return nil, errs.E(errs.Conflict, "get artifact", "run %s is %s, and has published nothing", r.Id, r.State).WithHint("runink watch %s", r.Id)
	}
	return nil, errs.E(errs.NotFound, "get artifact", "run %s has no output %q", r.Id, block).WithHint("its outputs: %s", strings.Join(names, ", "))
}

// fetchTo gives fetch standard output, or a file that appears only when it is complete.
func fetchTo(c *cobra.Command, file string, fetch func(io.Writer) error) (err error) {
	if file == "" || file == "-" {
		return fetch(c.OutOrStdout())
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return errs.E(errs.Invalid, "get artifact", "%w", err).WithField("--output")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if err = fetch(f); err != nil {
		return err
	}
	if err = f.Chmod(0o644); err != nil {
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

// fetchOutput writes the parts of an output one after the other. Each CSV part has a
// header; they are one file with one header.
func fetchOutput(ctx context.Context, api *apiclient.Client, run string, out *v1.RunOutput, w io.Writer) error {
	var csv *oneHeader
	if strings.HasSuffix(out.Uri, ".csv") {
		csv = &oneHeader{w: w, output: out.Block}
		w = csv
	}
	for _, p := range out.Parts {
		if err := fetchBlob(ctx, api, run, p.Digest, w); err != nil {
			return err
		}
		if csv == nil {
			continue
		}
		if err := csv.endPart(); err != nil {
			return err
		}
	}
	return nil
}

// fetchBlob writes one blob, going on elsewhere where a control node fails, and checks its
// digest.
func fetchBlob(ctx context.Context, api *apiclient.Client, run, digest string, w io.Writer) error {
	sum := sha256.New()
	var at int64
	for broken := 0; ; {
		s, err := v1.NewArtifactServiceClient(api).Download(ctx, &v1.DownloadBlobRequest{Digest: digest, Offset: at, Run: run})
		for err == nil {
			var m *v1.DownloadBlobResponse
			if m, err = s.Recv(); err != nil {
				break
			}
			broken = 0
			sum.Write(m.Data)
			at += int64(len(m.Data))
			if _, err := w.Write(m.Data); err != nil {
				return errs.Wrap("get artifact", err)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if broken++; broken > 10 || !errors.Is(err, errs.Unavailable) {
			return err
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != digest {
		return errs.E(errs.Corrupt, "get artifact", "the content has digest %s, the commit names %s", got, digest).WithHint("fetch it again")
	}
	return nil
}
