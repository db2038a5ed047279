package nodecfg

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
)

// Load reads a Config written by Save and checks it again. NotFound if there is none.
func Load(path string) (Config, error) {
	var c Config
	if err := readJSON("read node configuration", path, &c); err != nil {
		return Config{}, err
	}
	if err := c.Validate(); err != nil {
		return Config{}, errs.Wrap("read node configuration "+path, err)
	}
	return c, nil
}

// Save replaces path with c, mode 0600: a token may be in it. The folder is made if absent.
func Save(path string, c Config) error {
	return writeJSON("write node configuration", path, c, 0o600)
}

// LoadNet reads NetFile or a file like it. NotFound while netd has not written it.
func LoadNet(path string) (NetState, error) {
	var s NetState
	err := readJSON("read network state", path, &s)
	return s, err
}

// SaveNet replaces path with s, mode 0644.
func SaveNet(path string, s NetState) error {
	return writeJSON("write network state", path, s, 0o644)
}

// ImageInfo is what the booted image says about itself.
type ImageInfo struct {
	Version string    // IMAGE_VERSION: names the digest of the image's inputs
	Time    time.Time // RUNINK_BUILD_TIME, the commit's: the clock is never earlier; may be zero
}

// LoadImage reads ImageFile or a file like it, in the format of os-release(5). NotFound if
// there is none.
func LoadImage(path string) (ImageInfo, error) {
	const op = "read image description"
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ImageInfo{}, errs.E(errs.NotFound, op, "%w", err)
	}
	if err != nil {
		return ImageInfo{}, errs.E(errs.Internal, op, "%w", err)
	}
	var info ImageInfo
	for line := range strings.Lines(string(data)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		v = strings.Trim(v, `"'`)
		switch k {
		case "IMAGE_VERSION":
			info.Version = v
		case "RUNINK_BUILD_TIME":
			sec, err := strconv.ParseInt(v, 10, 64)
			if err != nil || sec < 0 {
				return ImageInfo{}, errs.E(errs.Corrupt, op, "%s: RUNINK_BUILD_TIME %q is no number of seconds", path, v)
			}
			info.Time = time.Unix(sec, 0).UTC()
		}
	}
	return info, nil
}

func readJSON(op, path string, v any) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return errs.E(errs.NotFound, op, "%w", err)
	}
	if err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return errs.E(errs.Corrupt, op, "%s: %w", path, err)
	}
	return nil
}

func writeJSON(op, path string, v any, mode os.FileMode) error {
	data, err := json.Marshal(v)
	if err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	if err := fsx.WriteFileAtomic(path, append(data, '\n'), mode); err != nil {
		return errs.E(errs.Internal, op, "%s: %w", path, err)
	}
	return nil
}
