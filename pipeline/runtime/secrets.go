package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// secretsVariable tells a slice, and what it starts, the folder of its secrets' files.
const secretsVariable = "RUNINK_SECRETS"

// readSecrets reads values by path, a JSON object of base64, as `runink run --local` writes
// them to standard input: a command line or a variable would show them to others.
func readSecrets(r io.Reader) (map[string][]byte, error) {
	values := map[string][]byte{}
	if err := json.NewDecoder(r).Decode(&values); err != nil {
		return nil, errs.E(errs.Invalid, "read secrets", "standard input: %w", err)
	}
	return values, nil
}

// localSecrets are the secrets of a run on a laptop.
type localSecrets struct {
	values map[string]string // by path
	files  map[string]string
	dir    string // of the files, "" without
}

// deliverSecrets does on a laptop what agent and keeper do on a node: values appear as
// variables of this process and as files, mode 0400 in a folder of mode 0700, in memory where
// the machine has such a place. Without all the plan names it changes nothing.
func deliverSecrets(p *plan.Plan, values map[string][]byte) (s *localSecrets, err error) {
	const op = "deliver secrets"
	s = &localSecrets{values: map[string]string{}, files: map[string]string{}}
	for _, sl := range p.Slices {
		for _, x := range sl.Secrets {
			v, ok := values[x.Path]
			switch {
			case !ok:
				return nil, errs.E(errs.NotFound, op, "secret %q has no value", x.Path).At(placeOf(x.Pos)).
					WithHint("runink run --local --secret %s=@FILE", x.Path)
			case x.Env != "" && bytes.IndexByte(v, 0) >= 0:
				return nil, errs.E(errs.Invalid, op, "secret %q holds a zero byte, and cannot be variable %s", x.Path, x.Env).
					At(placeOf(x.Pos)).WithHint("write as=\"file\"")
			}
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.remove())
		}
	}()
	for _, sl := range p.Slices {
		for _, x := range sl.Secrets {
			v := values[x.Path]
			s.values[x.Path] = string(v)
			if x.Env != "" {
				if err := os.Setenv(x.Env, string(v)); err != nil {
					return nil, errs.E(errs.Internal, op, "variable %s: %w", x.Env, err)
				}
			}
			if x.File != "" {
				if err := s.file(x, v); err != nil {
					return nil, errs.E(errs.Internal, op, "file of secret %q: %w", x.Path, err)
				}
			}
		}
	}
	return s, nil
}

func (s *localSecrets) file(x plan.Secret, value []byte) error {
	if s.dir == "" {
		dir, err := os.MkdirTemp(inMemory(), "runink-secrets-")
		if err != nil {
			return err
		}
		s.dir = dir
		if err := os.Setenv(secretsVariable, dir); err != nil {
			return err
		}
	}
	path := filepath.Join(s.dir, x.File)
	if s.files[x.Path] == path {
		return nil
	}
	if err := os.WriteFile(path, value, 0o400); err != nil {
		return err
	}
	s.files[x.Path] = path
	return nil
}

// remove deletes the files.
func (s *localSecrets) remove() error {
	if s.dir == "" {
		return nil
	}
	return os.RemoveAll(s.dir)
}

// inMemory returns a folder on a tmpfs, or "" for the default of temporary files.
func inMemory() string {
	for _, dir := range []string{os.Getenv("XDG_RUNTIME_DIR"), "/dev/shm"} {
		var fs unix.Statfs_t
		if dir != "" && unix.Statfs(dir, &fs) == nil && fs.Type == unix.TMPFS_MAGIC && unix.Access(dir, unix.W_OK) == nil {
			return dir
		}
	}
	return ""
}

func placeOf(p plan.Pos) string {
	if p.File == "" {
		return ""
	}
	return p.File + ":" + strconv.Itoa(p.Line) + ":" + strconv.Itoa(p.Col)
}
