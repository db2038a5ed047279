package compile

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
)

// exportData finds the type information in what `go list -export` names: since Go 1.28
// the file is nothing else, before it is an archive of the compiler whose first entry,
// __.PKGDEF, holds it between the lines "$$B" and "$$" (cmd/internal/archive).
func exportData(file []byte) ([]byte, error) {
	const (
		magic  = "!<arch>\n"
		header = 60 // of an entry: name 16, date 12, owner 12, mode 8, size 10, end 2 bytes
		begin  = "\n$$B\n"
		end    = "\n$$\n"
	)
	rest, archive := bytes.CutPrefix(file, []byte(magic))
	if !archive {
		return file, nil
	}
	if len(rest) < header || !bytes.HasPrefix(rest, []byte("__.PKGDEF ")) {
		return nil, errors.New("an archive without __.PKGDEF")
	}
	size, err := strconv.Atoi(strings.TrimSpace(string(rest[48:58])))
	if err != nil || size < 0 || size > len(rest)-header {
		return nil, errors.New("a damaged archive")
	}
	entry := rest[header : header+size]
	from := bytes.Index(entry, []byte(begin))
	to := bytes.LastIndex(entry, []byte(end))
	if from < 0 || to < from+len(begin) {
		return nil, errors.New("an archive without type information")
	}
	return entry[from+len(begin) : to], nil
}
