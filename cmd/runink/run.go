package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/bundle"
)

// runFlags are those of `runink run`.
type runFlags struct {
	herd      string
	params    []string
	inputs    []string
	secrets   []string
	scenario  string
	requestID string
	idFile    string
	wait      bool
	local     bool
	dryRun    bool
}

func newRunCmd() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run FILE.dsl|FILE.bundle",
		Short: "Run a pipeline in the cluster, or here with --local",
		Long: `Run builds a pipeline (or takes a bundle that "runink build" made), uploads it with its
inputs, and submits it. A source that reads file:// takes the file that its URI names,
relative to the pipeline's folder, unless --input names another.

With --wait it shows the run until it ends, and exits with 1 if the run did not succeed.
With --local nothing is uploaded: the pipeline runs on this machine, and its sinks are
written where their URIs say, relative to its folder. A secret that it names is read from
--secret PATH=@FILE, else from the variable RUNINK_SECRET_ and its path in capitals
(warehouse/password: RUNINK_SECRET_WAREHOUSE_PASSWORD), else from the variable that its
@secret asks for.`,
		Example: `  runink run flights.dsl --herd analytics --wait
  runink run flights.dsl --param min_delay=30 --input airports=/data/airports.csv
  runink run --local flights.dsl --input airports=/data/airports.csv`,
		Args: exactArgs(1, "one FILE.dsl or FILE.bundle"),
		RunE: func(c *cobra.Command, args []string) error {
			if f.local {
				return runLocal(c, args[0], f)
			}
			if len(f.secrets) > 0 {
				return errs.E(errs.Invalid, c.CommandPath(), "a run in the cluster reads the herd's secrets").WithField("--secret").
					WithHint("runink secret put --herd HERD PATH < FILE")
			}
			api, err := dialAPI(c)
			if e, ok := errors.AsType[*errs.Error](err); ok && e.Field == "--context" {
				return e.WithHint("%s; without a cluster: runink run --local %s", e.Hint, args[0])
			}
			if err != nil {
				return err
			}
			defer api.Close()
			return runRemote(c, api, args[0], f)
		},
	}
	addClientFlags(c)
	addOutputFlag(c)
	fl := c.Flags()
	fl.StringVar(&f.herd, "herd", "", "herd to run in (default: the pipeline's @herd)")
	fl.StringArrayVarP(&f.params, "param", "p", nil, "NAME=VALUE of a parameter; may be repeated")
	fl.StringArrayVarP(&f.inputs, "input", "i", nil, "SOURCE=FILE, the file a source reads; may be repeated")
	fl.StringArrayVar(&f.secrets, "secret", nil, "PATH=@FILE, a secret's value, with --local; may be repeated")
	fl.StringVar(&f.scenario, "scenario", "", "which scenario of the file to run, where it has several")
	fl.StringVar(&f.requestID, "request-id", "", "id of this request: the same id gives the same run")
	fl.StringVar(&f.idFile, "id-file", "", "write the run's id to this file")
	fl.BoolVarP(&f.wait, "wait", "w", false, "follow the run until it ends")
	fl.BoolVar(&f.local, "local", false, "run in this process instead")
	fl.BoolVar(&f.dryRun, "dry-run", false, "say where it would run; no run is recorded")
	return c
}

// pairs reads NAME=VALUE flags.
func pairs(flag string, all []string) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range all {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, errs.E(errs.Invalid, "run", "%q is not NAME=VALUE", s).WithField(flag).WithHint("write %s NAME=VALUE, without spaces around =", flag)
		}
		if _, dup := out[k]; dup {
			return nil, errs.E(errs.Invalid, "run", "%q is given twice", k).WithField(flag).WithHint("keep one of them")
		}
		out[k] = v
	}
	return out, nil
}

func runRemote(c *cobra.Command, api *apiclient.Client, file string, f runFlags) error {
	params, err := pairs("--param", f.params)
	if err != nil {
		return err
	}
	given, err := pairs("--input", f.inputs)
	if err != nil {
		return err
	}
	b, err := openBundle(c.Context(), c.ErrOrStderr(), file, f.scenario)
	if err != nil {
		return err
	}
	defer b.close()
	if f.herd, err = herdOf(b.plan, f.herd); err != nil {
		return err
	}
	values, err := resolve(b.plan, params)
	if err != nil {
		return err
	}
	req := &v1.SubmitRunRequest{RequestId: f.requestID, Herd: f.herd, Params: params, DryRun: f.dryRun}
	if req.RequestId == "" {
		req.RequestId = apiclient.NewRequestID()
	}
	sources, err := sourceFiles(b.plan, filepath.Dir(file), values, given)
	if err != nil {
		return err
	}
	if err := admissible(c.Context(), api, f.herd, b.plan); err != nil {
		return err
	}
	up := newUploader(api, f.herd, c.ErrOrStderr())
	if req.BundleDigest, _, err = up.file(c.Context(), "bundle", b.path); err != nil {
		return err
	}
	for _, s := range sources {
		digest, n, err := up.file(c.Context(), s.block, s.path)
		if err != nil {
			return err
		}
		req.Inputs = append(req.Inputs, &v1.RunInput{Block: s.block, Digest: digest, Size: n, File: filepath.Base(s.path)})
	}
	run, err := v1.NewRunServiceClient(api).Submit(c.Context(), req)
	if err != nil {
		return err
	}
	if f.idFile != "" && !f.dryRun {
		if err := fsx.WriteFileAtomic(f.idFile, []byte(run.Id+"\n"), 0o644); err != nil {
			return errs.E(errs.Invalid, "run", "run %s was submitted, but: %w", run.Id, err).WithField("--id-file")
		}
	}
	if f.dryRun || !f.wait {
		return emit(c, run, func(w io.Writer) {
			if f.dryRun {
				printRun(w, run)
				return
			}
			fmt.Fprintf(w, "%s\n", run.Id)
			fmt.Fprintf(c.ErrOrStderr(), "submitted; follow it with `runink watch %s`\n", run.Id)
		})
	}
	return watchRun(c, api, run.Id)
}

// source is the file that a source block reads.
type source struct{ block, path string }

// sourceFiles finds the file of each source, as an absolute path: what --input names, else
// what its URI does below dir. params has a value for every parameter.
func sourceFiles(p *plan.Plan, dir string, params, given map[string]string) ([]source, error) {
	var values []string
	for k, v := range params {
		values = append(values, "${"+k+"}", v)
	}
	expand := strings.NewReplacer(values...)
	var out []source
	for _, b := range p.Blocks {
		if b.Kind != plan.KindSource {
			continue
		}
		path, ok := given[b.Name]
		delete(given, b.Name)
		if !ok {
			uri := expand.Replace(b.URI)
			rel, isFile := strings.CutPrefix(uri, "file://")
			if !isFile {
				return nil, errs.E(errs.Unimplemented, "run", "source %s reads %s; this version reads file:// only", b.Name, uri)
			}
			if path = rel; !filepath.IsAbs(rel) {
				path = filepath.Join(dir, rel)
			}
		}
		path, err := filepath.Abs(path)
		if err != nil {
			return nil, errs.E(errs.Internal, "run", "%w", err)
		}
		if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
			return nil, errs.E(errs.NotFound, "run", "source %s reads %s, which is no file here", b.Name, path).
				WithField("--input").WithHint("add --input %s=FILE", b.Name)
		}
		out = append(out, source{b.Name, path})
	}
	for k := range given {
		return nil, noSource(p, k)
	}
	return out, nil
}

func noSource(p *plan.Plan, name string) error {
	var have []string
	for _, b := range p.Blocks {
		if b.Kind == plan.KindSource {
			have = append(have, b.Name)
		}
	}
	return errs.E(errs.Invalid, "run", "the pipeline has no source %q", name).WithField("--input").WithHint("its sources: %s", strings.Join(have, ", "))
}

// bundleFile is a bundle on this machine, and its plan.
type bundleFile struct {
	path  string
	plan  *plan.Plan
	close func()
}

// openBundle opens a bundle, or builds one of a .dsl in a temporary folder.
func openBundle(ctx context.Context, stderr io.Writer, file, scenario string) (*bundleFile, error) {
	if filepath.Ext(file) != ".dsl" {
		p, err := readBundlePlan(file)
		return &bundleFile{file, p, func() {}}, err
	}
	dir, err := os.MkdirTemp("", "runink-run-")
	if err != nil {
		return nil, errs.E(errs.Internal, "build bundle", "%w", err)
	}
	remove := func() { _ = os.RemoveAll(dir) } // a leftover in the temporary folder hurts nobody
	b, err := buildBundle(ctx, stderr, file, scenario, filepath.Join(dir, "pipeline.bundle"))
	if err != nil {
		remove()
		return nil, err
	}
	return &bundleFile{b.Path, b.Plan, remove}, nil
}

// readBundlePlan reads the plan of a bundle, checking the whole archive.
func readBundlePlan(file string) (*plan.Plan, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, errs.E(errs.NotFound, "open bundle", "%w", err).WithHint("name a .dsl, or a bundle that `runink build` made")
	}
	defer f.Close()
	b, err := bundle.Read(f)
	if err != nil {
		return nil, errs.E(errs.KindOf(err), "open bundle", "%s: %w", file, err).WithHint("build it again with `runink build`")
	}
	return b.Plan, nil
}
