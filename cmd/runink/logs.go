package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

func newLogsCmd() *cobra.Command {
	req := &v1.RunLogsRequest{}
	c := &cobra.Command{
		Use:   "logs RUN [SLICE]",
		Short: "Print what the slices of a run wrote",
		Long: `Logs prints standard output and standard error of a run's slices. Lines of several slices
are marked with the slice's name. With -f it goes on until the run ends, over restarts of
its regions.`,
		Example: `  runink logs -f 1hkz3v0c8q2m4x7a
  runink logs 1hkz3v0c8q2m4x7a join-airport`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > 2 {
				return errs.E(errs.Invalid, c.CommandPath(), "it takes RUN and maybe SLICE, and %d arguments were given", len(args)).WithHint("see `%s --help`", c.CommandPath())
			}
			return nil
		},
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			req.Id = args[0]
			if len(args) == 2 {
				req.Slice = args[1]
			}
			return copyLogs(c, v1.NewRunServiceClient(api), req, isTerminal(c.OutOrStdout()) && isTerminal(c.ErrOrStderr()))
		}),
	}
	addClientFlags(c)
	c.Flags().BoolVarP(&req.Follow, "follow", "f", false, "go on until the run ends")
	c.Flags().Uint64Var(&req.Epoch, "epoch", 0, "of this attempt (default: the newest)")
	return c
}

// logStream is one stream of one slice's attempt: how far it was printed, and its last line
// as long as it has no end.
type logStream struct {
	offset int64
	part   []byte
}

// copyLogs prints until the server ends the stream. When the leader changes it asks again, from
// the attempts it was at, and leaves out what it has printed. A person who would see nothing
// else is told that there is nothing.
func copyLogs(c *cobra.Command, api v1.RunServiceClient, req *v1.RunLogsRequest, person bool) error {
	streams := map[logKey]*logStream{}
	out := c.OutOrStdout()
	for broken := 0; ; broken++ {
		req.From = reached(streams)
		s, err := api.Logs(c.Context(), req)
		for err == nil {
			var chunk *v1.RunLogChunk
			if chunk, err = s.Recv(); err != nil {
				break
			}
			broken = 0
			key := logKey{chunk.Slice, chunk.Stream, chunk.Epoch}
			st := streams[key]
			if st == nil {
				st = &logStream{}
				streams[key] = st
			}
			prefix := ""
			if req.Slice == "" {
				prefix = chunk.Slice + " | "
			}
			if err := st.print(out, prefix, chunk); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || c.Context().Err() != nil {
			for _, st := range streams {
				if len(st.part) > 0 {
					fmt.Fprintf(out, "%s\n", st.part)
				}
			}
			if person && len(streams) == 0 && c.Context().Err() == nil {
				fmt.Fprintln(c.ErrOrStderr(), silence(req))
			}
			return nil
		}
		limit := 3
		if req.Follow {
			limit = 20
		}
		if broken > limit || !errors.Is(err, errs.Unavailable) {
			return err
		}
		if err := pause(c.Context(), 300*time.Millisecond); err != nil {
			return nil
		}
	}
}

// logKey names a stream of an attempt of a slice.
type logKey struct {
	slice, stream string
	epoch         uint64
}

// reached is the attempt of each slice to go on with: the newest that was seen of both streams. A
// stream that has been silent may be at any attempt, so where only one was seen it is the first
// of that; to read again what is left out then costs no more than that.
func reached(streams map[logKey]*logStream) map[string]uint64 {
	type span struct{ first, last uint64 }
	seen := map[string]map[string]span{} // by slice and stream
	for k := range streams {
		of := seen[k.slice]
		if of == nil {
			of = map[string]span{}
			seen[k.slice] = of
		}
		s, ok := of[k.stream]
		if !ok {
			s = span{k.epoch, k.epoch}
		}
		of[k.stream] = span{min(s.first, k.epoch), max(s.last, k.epoch)}
	}
	from := map[string]uint64{}
	for slice, of := range seen {
		for _, s := range of {
			at := s.last
			if len(of) == 1 {
				at = s.first
			}
			if was, ok := from[slice]; !ok || at < was {
				from[slice] = at
			}
		}
	}
	return from
}

// silence says that there is nothing of what was asked for.
func silence(req *v1.RunLogsRequest) string {
	who, in := "no slice of run "+req.Id+" has written anything", ""
	if req.Slice != "" {
		who = "slice " + req.Slice + " of run " + req.Id + " has written nothing"
	}
	if req.Epoch != 0 {
		in = fmt.Sprintf(" in attempt %d", req.Epoch)
	}
	return who + in
}

func (l *logStream) print(w io.Writer, prefix string, c *v1.RunLogChunk) error {
	data, at := c.Data, c.Offset
	if skip := l.offset - at; skip > 0 {
		if skip >= int64(len(data)) {
			return nil
		}
		data, at = data[skip:], l.offset
	}
	if at > l.offset && l.offset > 0 {
		fmt.Fprintf(w, "%s… %d bytes are no longer kept …\n", prefix, at-l.offset)
	}
	l.offset = at + int64(len(data))
	for {
		line, rest, ok := bytes.Cut(data, []byte("\n"))
		if !ok {
			if len(l.part) == 0 {
				l.part = []byte(prefix)
			}
			l.part = append(l.part, line...)
			return nil
		}
		if len(l.part) > 0 {
			line = append(l.part, line...)
			l.part = nil
		} else {
			line = append([]byte(prefix), line...)
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
		if data = rest; len(data) == 0 {
			return nil
		}
	}
}
