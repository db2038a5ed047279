package pid1

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/internal/nodecfg"
)

const (
	savedTime = nodecfg.StateDir + "/clock" // the newest time this node has seen, RFC 3339
	saveEvery = 10 * time.Minute
)

// A floor is a time that has certainly passed, and how it is known.
type floor struct {
	at   time.Time
	from string
}

// setClock moves the clock up to the newest time that has certainly passed: the image was
// built, this node ran, its certificate was issued. It never moves it back; a clock above
// the floor is trusted until netd knows better.
func (m *machine) setClock(context.Context) error {
	f := newest(m.floors())
	now := time.Now()
	if !now.Before(f.at) {
		m.log.Info("clock", "now", now.UTC().Format(time.RFC3339), "floor", f.from)
		return nil
	}
	tv := unix.NsecToTimeval(f.at.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return errs.E(errs.Internal, "set the clock", "%w", err)
	}
	m.log.Warn("the clock was behind and has been set", "was", now.UTC().Format(time.RFC3339), "now", f.at.UTC().Format(time.RFC3339), "floor", f.from)
	return nil
}

// floors reads what can be read; what is damaged is said and gives no floor.
func (m *machine) floors() []floor {
	list := []floor{{m.image.Time, "image"}}
	for _, src := range []struct {
		from string
		read func() (time.Time, error)
	}{
		{"saved time", func() (time.Time, error) { return readSavedTime(savedTime) }},
		{"certificate", func() (time.Time, error) { return readNotBefore(nodecfg.CertFile) }},
	} {
		t, err := src.read()
		switch {
		case err == nil:
			list = append(list, floor{t, src.from})
		case !errors.Is(err, fs.ErrNotExist):
			m.log.Warn("no floor for the clock", "from", src.from, "err", err)
		}
	}
	return list
}

func newest(fs []floor) floor {
	var best floor
	for _, f := range fs {
		if best.from == "" || f.at.After(best.at) {
			best = f
		}
	}
	return best
}

func readSavedTime(file string) (time.Time, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339, string(data))
}

// readNotBefore reads the first certificate of a PEM file.
func readNotBefore(file string) (time.Time, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return time.Time{}, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return time.Time{}, errs.E(errs.Corrupt, "read certificate", "%s holds no PEM block", filepath.Base(file))
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, err
	}
	return cert.NotBefore, nil
}

// keepTime saves the time now and then, for machines whose clock does not survive a cut.
func (m *machine) keepTime(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		if err := m.saveTime(); err != nil {
			m.log.Warn("time not saved", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (m *machine) saveTime() error {
	return fsx.WriteFileAtomic(savedTime, []byte(time.Now().UTC().Format(time.RFC3339)), 0o600)
}
