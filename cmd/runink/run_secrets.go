package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// secretPrefix begins the variables that hold secrets of runs here.
const secretPrefix = "RUNINK_SECRET_"

// secretVariable is the variable for a path: warehouse/password is
// RUNINK_SECRET_WAREHOUSE_PASSWORD.
func secretVariable(path string) string {
	return secretPrefix + strings.ToUpper(strings.NewReplacer("/", "_", ".", "_", "-", "_").Replace(path))
}

// secretsHere finds the values of all secrets that a plan names, for a run on this machine:
// --secret PATH=@FILE, else the variable RUNINK_SECRET_…, else, where the pipeline wants it as
// a variable, that variable. What is missing is told all at once, before anything runs.
func secretsHere(p *plan.Plan, flags []string, lookup func(string) (string, bool)) (map[string][]byte, error) {
	const op = "run locally"
	given, err := secretFlags(flags)
	if err != nil {
		return nil, err
	}
	values, variables := map[string][]byte{}, map[string]string{}
	var names, missing []string
	for _, s := range p.Slices {
		for _, x := range s.Secrets {
			if _, done := values[x.Path]; done {
				continue
			}
			name := secretVariable(x.Path)
			if v, ok := given[x.Path]; ok {
				values[x.Path] = v
			} else if v, ok := lookup(name); ok {
				if o := variables[name]; o != "" {
					return nil, errs.E(errs.Invalid, op, "%s could be secret %s or %s", name, o, x.Path).WithField("--secret").
						WithHint("add --secret %s=@FILE", x.Path)
				}
				values[x.Path], variables[name] = []byte(v), x.Path
			} else if v, ok := lookup(x.Env); ok && x.Env != "" {
				values[x.Path] = []byte(v)
			} else {
				missing = append(missing, x.Path+" ("+placeOf(x.Pos)+")")
				values[x.Path] = nil // told once
				if len(missing) == 1 {
					names = append(names, x.Path, name)
				}
				continue
			}
		}
	}
	if len(missing) > 0 {
		return nil, errs.E(errs.NotFound, op, "%s of the pipeline without a value here: %s", plural(len(missing), "secret"), strings.Join(missing, ", ")).
			WithField("--secret").WithHint("add --secret %s=@FILE, or set the variable %s", names[0], names[1])
	}
	for path := range given {
		if _, ok := values[path]; !ok {
			return nil, errs.E(errs.Invalid, op, "the pipeline names no secret %q", path).WithField("--secret").WithHint("leave it out, or add @secret(%q) to the step that reads it", path)
		}
	}
	return values, nil
}

// secretFlags reads PATH=@FILE. A value on the command line is refused: every user of the
// machine can read it there.
func secretFlags(flags []string) (map[string][]byte, error) {
	const op = "run locally"
	given := map[string][]byte{}
	for _, f := range flags {
		path, file, ok := strings.Cut(f, "=@")
		if !ok || !plan.IsSecretPath(path) || file == "" {
			path, _, _ = strings.Cut(f, "=")
			return nil, errs.E(errs.Invalid, op, "the flag for %q is not PATH=@FILE", path).WithField("--secret").
				WithHint("write the value into a file; a command line is no place for it")
		}
		if _, dup := given[path]; dup {
			return nil, errs.E(errs.Invalid, op, "%q is given twice", path).WithField("--secret")
		}
		v, err := readSecretFile(file)
		if err != nil {
			return nil, errs.E(errs.NotFound, op, "%s: %w", path, err).WithField("--secret").WithHint("name a file of at most %d bytes", maxSecret)
		}
		given[path] = v
	}
	return given, nil
}

func readSecretFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	v, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(v) > maxSecret {
		err = errs.E(errs.Invalid, "read secret", "%s has more than %d bytes", file, maxSecret)
	}
	return v, err
}

// withoutSecrets is an environment without the variables that hold secrets of runs here: the
// pipeline's program gets those that it names another way.
func withoutSecrets(env []string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, secretPrefix) {
			out = append(out, e)
		}
	}
	return out
}

func placeOf(p plan.Pos) string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col) }
