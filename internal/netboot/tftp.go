package netboot

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pin/tftp/v3"

	"github.com/runink/runink/internal/errs"
)

// Bounds on TFTP. A client that stops is asked tftpTries times.
const (
	tftpTransfers = 64 // at once
	tftpTimeout   = time.Second
	tftpTries     = 5
	// tftpBlock leaves room for the headers in a frame: the library forgets its own four bytes
	// where it looks at the MTU, and boot ROMs put no fragments together.
	tftpBlock = 1428
)

// tftpFiles is the first hop: iPXE for each firmware, in memory.
type tftpFiles struct {
	files map[string][]byte
	slots chan struct{}
	log   *slog.Logger
}

// readIPXE reads iPXE's files from a folder.
func readIPXE(dir string, log *slog.Logger) (*tftpFiles, error) {
	t := &tftpFiles{files: map[string][]byte{}, slots: make(chan struct{}, tftpTransfers), log: log}
	for _, f := range ipxeFiles {
		data, err := os.ReadFile(filepath.Join(dir, f.name))
		if err != nil {
			return nil, errs.E(errs.NotFound, "read iPXE", "%w", err).WithField("--ipxe").
				WithHint("install Debian's package ipxe (apt-get install ipxe), or name the folder that has it")
		}
		t.files[f.name] = data
	}
	return t, nil
}

// What a client is told; the library puts it into a TFTP error.
var (
	errNoFile = errors.New("there is no such file here")
	errBusy   = errors.New("too many transfers; try again")
)

// read serves one request. Names are looked up, never opened.
func (t *tftpFiles) read(name string, to io.ReaderFrom) error {
	data, ok := t.files[strings.TrimPrefix(name, "/")]
	if !ok {
		return errNoFile
	}
	select {
	case t.slots <- struct{}{}:
		defer func() { <-t.slots }()
	default:
		return errBusy
	}
	if o, ok := to.(tftp.OutgoingTransfer); ok {
		o.SetSize(int64(len(data))) // for clients that ask (RFC 2349); boot ROMs do
	}
	_, err := to.ReadFrom(bytes.NewReader(data))
	return err
}

// OnSuccess implements tftp.Hook.
func (t *tftpFiles) OnSuccess(s tftp.TransferStats) {
	t.log.Info("iPXE sent", "to", s.RemoteAddr, "file", s.Filename)
}

// OnFailure implements tftp.Hook. Many clients ask for a file's size and stop there.
func (t *tftpFiles) OnFailure(s tftp.TransferStats, err error) {
	t.log.Debug("TFTP transfer ended", "to", s.RemoteAddr, "file", s.Filename, "err", err)
}

// server makes the server of the files; it reads only.
func (t *tftpFiles) server() *tftp.Server {
	s := tftp.NewServer(t.read, nil)
	s.SetTimeout(tftpTimeout)
	s.SetRetries(tftpTries)
	s.SetBackoff(func(int) time.Duration { return 0 }) // the timeout is the pause
	s.SetBlockSize(tftpBlock)
	s.SetHook(t)
	return s
}

// serve answers on conn until stop is closed, and returns when the last transfer has ended.
func (t *tftpFiles) serve(stop <-chan struct{}, conn net.PacketConn) error {
	s := t.server()
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(conn) }()
	select {
	case err := <-ended:
		return errs.E(errs.Internal, "serve TFTP", "%w", err)
	case <-stop:
		s.Shutdown()
		<-ended
		return nil
	}
}
