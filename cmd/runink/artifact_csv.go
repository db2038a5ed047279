package main

import (
	"bytes"
	"io"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/pipeline/format/csv"
)

// maxHeader bounds the header of a CSV part, in bytes. Ours has the names of a struct's
// fields; what is longer is none.
const maxHeader = 1 << 20

// oneHeader writes CSV parts as one file: the header of the first, which every other part
// must have too, and then the rows of all. A part without a byte adds nothing.
//
// Errors: Corrupt if a part's header is another, or has no end. One goroutine uses it.
type oneHeader struct {
	w      io.Writer
	output string // name, for errors

	header []byte // of the first part that had one
	head   []byte // what came of the present part, as long as its header has not ended
	past   bool   // the present part's header has ended
	part   int    // number of the present part, from 0
}

func (o *oneHeader) Write(p []byte) (int, error) {
	if o.past {
		return o.w.Write(p)
	}
	o.head = append(o.head, p...)
	end := csv.Next(o.head, 0) // not the first line's end: names may be quoted, with line breaks
	if end < 0 {
		if len(o.head) > maxHeader {
			return 0, o.corrupt("has no end of its header in the first %d bytes", maxHeader)
		}
		return len(p), nil
	}
	header, rows := o.head[:end], o.head[end:]
	switch {
	case o.header == nil:
		o.header = bytes.Clone(header)
		rows = o.head
	case !bytes.Equal(header, o.header):
		return 0, o.corrupt("has the header %.200q, and the parts before it have %.200q", header, o.header)
	}
	o.past, o.head = true, nil
	if _, err := o.w.Write(rows); err != nil {
		return 0, err
	}
	return len(p), nil
}

// endPart says that the next byte is the first of another part.
func (o *oneHeader) endPart() error {
	if !o.past && len(o.head) > 0 {
		return o.corrupt("ends within its header")
	}
	o.past, o.head = false, nil
	o.part++
	return nil
}

func (o *oneHeader) corrupt(format string, args ...any) error {
	return errs.E(errs.Corrupt, "get artifact", "part %d "+format, append([]any{o.part + 1}, args...)...).WithField(o.output).
		WithHint("the parts do not belong together; run the pipeline again, and report it if it happens twice")
}
