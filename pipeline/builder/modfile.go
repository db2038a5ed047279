package builder

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"

	"github.com/runink/runink/internal/errs"
)

// The modules that generated programs import.
const (
	rootModule = "github.com/runink/runink"
	sdkModule  = "github.com/runink/runink/sdk"
)

// writeModfile makes the go.mod of the build: the user's, with the engine and the sdk
// replaced by their unpacked sources, and with what these require. Where both require a
// module, the higher version wins, as it would in any Go build. Replacements by relative
// folders stay as they are: the go command resolves them from the module's root.
func writeModfile(tmp, modDir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(modDir, "go.mod"))
	if err != nil {
		return "", err
	}
	f, err := modfile.Parse(filepath.Join(modDir, "go.mod"), data, nil)
	if err != nil {
		return "", errs.E(errs.Invalid, "", "%w", err)
	}
	if f.Module == nil {
		return "", errs.E(errs.Invalid, "", "%s names no module", filepath.Join(modDir, "go.mod"))
	}
	need, err := modfile.Parse("go.mod.txt", mustRead("go.mod.txt"), nil)
	if err != nil {
		return "", fmt.Errorf("embedded go.mod: %w", err)
	}
	have := map[string]string{}
	for _, r := range f.Require {
		have[r.Mod.Path] = r.Mod.Version
	}
	for _, r := range need.Require {
		if v, ok := have[r.Mod.Path]; !ok || semver.Compare(v, r.Mod.Version) < 0 {
			if err := f.AddRequire(r.Mod.Path, r.Mod.Version); err != nil {
				return "", err
			}
		}
	}
	for _, m := range []struct{ path, dir string }{{rootModule, "./" + sourceFolder + "/runink"}, {sdkModule, "./" + sourceFolder + "/sdk"}} {
		if f.Module.Mod.Path == m.path {
			continue // the pipeline is part of this project
		}
		if err := f.AddRequire(m.path, "v0.0.0"); err != nil {
			return "", err
		}
		for _, r := range f.Replace {
			if r.Old.Path == m.path {
				if err := f.DropReplace(r.Old.Path, r.Old.Version); err != nil {
					return "", err
				}
			}
		}
		if err := f.AddReplace(m.path, "", m.dir, ""); err != nil {
			return "", err
		}
	}
	if f.Go == nil || semver.Compare("v"+f.Go.Version, "v"+need.Go.Version) < 0 {
		if err := f.AddGoStmt(need.Go.Version); err != nil {
			return "", err
		}
	}
	f.Cleanup()
	out, err := f.Format()
	if err != nil {
		return "", err
	}
	sum, err := os.ReadFile(filepath.Join(modDir, "go.sum"))
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	sum = append(bytes.TrimRight(sum, "\n"), '\n')
	sum = append(sum, mustRead("go.sum.txt")...)
	path := filepath.Join(tmp, "go.mod")
	if err := os.WriteFile(path, out, 0o644); err != nil {
		return "", err
	}
	return path, os.WriteFile(filepath.Join(tmp, "go.sum"), bytes.TrimLeft(sum, "\n"), 0o644)
}
