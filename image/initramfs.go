package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
)

// windowSize bounds the memory the kernel needs to unpack; it refuses windows over 128 MiB.
const windowSize = 8 << 20

// Compress writes data as one zstd frame. level is on zstd's scale, 1 to 22; klauspost's
// encoder knows four speeds and takes the nearest.
func Compress(w io.Writer, data []byte, level int) error {
	// One goroutine: the bytes must not depend on how many cores the build had.
	enc, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(windowSize))
	if err != nil {
		return err
	}
	if _, err := enc.Write(data); err != nil {
		return errors.Join(err, enc.Close())
	}
	return enc.Close()
}

// Append writes a boot archive to w that unpacks base and then each overlay over it. base
// is a compressed or plain archive as this package writes them.
func Append(w io.Writer, base []byte, overlays ...*Tree) error {
	if _, err := w.Write(base); err != nil {
		return err
	}
	// The kernel looks for the next archive at a multiple of four and skips zeros.
	if _, err := w.Write(make([]byte, -len(base)&3)); err != nil {
		return err
	}
	for _, t := range overlays {
		if _, err := t.WriteTo(w); err != nil {
			return err
		}
	}
	return nil
}

// baseTree is what every archive of ours starts with: mount points, /dev/console (which
// the kernel opens before devtmpfs is there) and a minimal /etc, with no name server in it.
func baseTree(version string, built time.Time) (*Tree, error) {
	t := &Tree{}
	var err error
	for _, d := range []struct {
		name string
		perm uint32
	}{
		{"dev", 0o755},
		{"proc", 0o555},
		{"sys", 0o555},
		{"run", 0o755},
		{"root", 0o700},
		{"tmp", 0o1777},
		{"var/lib/runink", 0o700},
		{"etc", 0o755},
	} {
		err = errors.Join(err, t.Dir(d.name, d.perm))
	}
	release := fmt.Sprintf("NAME=Runink\nID=runink\nPRETTY_NAME=Runink\nIMAGE_ID=runink\nIMAGE_VERSION=%s\n", version)
	if !built.IsZero() {
		release += fmt.Sprintf("RUNINK_BUILD_TIME=%d\n", built.Unix())
	}
	return t, errors.Join(err,
		t.CharDevice("dev/console", 0o600, 5, 1),
		t.CharDevice("dev/null", 0o666, 1, 3),
		t.File("etc/os-release", 0o644, []byte(release)),
		t.File("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n")),
		t.File("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/\nnobody:x:65534:65534:nobody:/:/\n")),
		t.File("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n")),
	)
}

// BaseInitramfs packs everything but /init: mount points, /etc and the kernel's modules.
// It is what tests put their own first process on (see Append), and does not change with
// our code.
func BaseInitramfs(k *Kernel, level int) ([]byte, error) {
	mods, load, err := k.Modules()
	if err != nil {
		return nil, err
	}
	t, err := baseTree("none", time.Time{})
	if err != nil {
		return nil, err
	}
	if err := t.addModules(k, mods, load); err != nil {
		return nil, err
	}
	return t.pack(level)
}

func (t *Tree) pack(level int) ([]byte, error) {
	var plain, packed bytes.Buffer
	if _, err := t.WriteTo(&plain); err != nil {
		return nil, err
	}
	if err := Compress(&packed, plain.Bytes(), level); err != nil {
		return nil, err
	}
	return packed.Bytes(), nil
}
