package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// File is one input or output of a build. Names are relative to what they come from,
// never paths of the build machine.
type File struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

func fileOf(name string, data []byte) File {
	return File{Name: name, SHA256: digest(data), Bytes: int64(len(data))}
}

// Manifest says how an image was made. It holds no time, host or path: two builds from
// the same inputs have the same manifest.
type Manifest struct {
	Format  int    `json:"format"`  // 1
	Version string `json:"version"` // digest over all inputs; IMAGE_VERSION in /etc/os-release
	Kernel  struct {
		Lock
		Release string `json:"release"`
		Locked  bool   `json:"locked"` // false: not the kernel that kernel.lock names
	} `json:"kernel"`
	IPXE      *Package `json:"ipxe,omitempty"` // of a metal image
	Go        string   `json:"go"`             // toolchain that the binary says it was built with
	BuildTime int64    `json:"build_time"`     // seconds since 1970 of the commit, 0 if unknown; a floor for the node's clock
	ZstdLevel int      `json:"zstd_level"`
	Load      []string `json:"load"` // modules loaded at boot, in order
	Inputs    []File   `json:"inputs"`
	Outputs   []File   `json:"outputs"`
}

// Package is a Debian package that something of the image is from.
type Package struct {
	Lock
	Locked bool `json:"locked"` // false: not the one that the lock file names
}

// setVersion derives the version from everything that goes in.
func (m *Manifest) setVersion() {
	h := sha256.New()
	fmt.Fprintf(h, "%d %s %s %d %d %s\n", m.Format, m.Kernel.Release, m.Go, m.BuildTime, m.ZstdLevel, strings.Join(m.Load, " "))
	slices.SortFunc(m.Inputs, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	for _, f := range m.Inputs {
		fmt.Fprintf(h, "%s %s\n", f.SHA256, f.Name)
	}
	m.Version = "sha256:" + hex.EncodeToString(h.Sum(nil))
}

func (m *Manifest) encode() ([]byte, error) {
	data, err := json.MarshalIndent(m, "", "  ")
	return append(data, '\n'), err
}
