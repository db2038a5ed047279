package builder

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"github.com/runink/runink/internal"
	"github.com/runink/runink/pipeline"
	"github.com/runink/runink/sdk"
)

func mustRead(name string) []byte {
	b, err := pipeline.Source.ReadFile(name)
	if err != nil { // the compiler put it there
		panic(err)
	}
	return b
}

// sources lists the embedded files by their place in the unpacked folder, tests left out.
func sources() (map[string][]byte, error) {
	files := map[string][]byte{"runink/go.mod": mustRead("go.mod.txt"), "runink/go.sum": mustRead("go.sum.txt")}
	for _, tree := range []struct {
		prefix string
		fsys   fs.FS
	}{
		{"runink/internal", internal.Source}, {"runink/pipeline", pipeline.Source}, {"sdk", sdk.Source},
	} {
		err := fs.WalkDir(tree.fsys, ".", func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				if d.Name() == "testdata" {
					return fs.SkipDir
				}
				return nil
			}
			if strings.HasSuffix(p, "_test.go") || path.Ext(p) == ".txt" {
				return nil
			}
			b, err := fs.ReadFile(tree.fsys, p)
			files[path.Join(tree.prefix, p)] = b
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

// unpack writes the embedded sources below cache, once for each content, and returns
// their folder. It is safe against other processes that do the same.
func unpack(cache string) (string, error) {
	files, err := sources()
	if err != nil {
		return "", err
	}
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	sort.Strings(names)
	h := sha256.New()
	for _, n := range names {
		fmt.Fprintf(h, "%s %d\n", n, len(files[n]))
		h.Write(files[n])
	}
	dir := filepath.Join(cache, "source-"+hex.EncodeToString(h.Sum(nil))[:32])
	if whole(dir, files) {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(cache, "unpack-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	for _, n := range names {
		at := filepath.Join(tmp, filepath.FromSlash(n))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(at, files[n], 0o444); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	// What lies there was damaged; another process may be ahead with the same.
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil && !whole(dir, files) {
		return "", err
	}
	return dir, nil
}

// whole reports whether dir holds the files as they should be. They are compared, not
// trusted: what is compiled from a cache that anything may have touched must be ours.
func whole(dir string, files map[string][]byte) bool {
	for n, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(n)))
		if err != nil || string(got) != string(want) {
			return false
		}
	}
	return true
}
