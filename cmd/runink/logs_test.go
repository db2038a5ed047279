package main

import (
	"bytes"
	"context"
	"io"
	"maps"
	"testing"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
)

// leaders are one leader after the other: each answers a call for logs, and all but the last
// break off.
type leaders struct {
	v1.RunServiceClient
	answers [][]*v1.RunLogChunk
	asked   []map[string]uint64
}

func (l *leaders) Logs(_ context.Context, req *v1.RunLogsRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[v1.RunLogChunk], error) {
	s := &logChunks{left: l.answers[len(l.asked)], end: errs.E(errs.Unavailable, "read logs", "this control node does not lead any more")}
	if l.asked = append(l.asked, maps.Clone(req.From)); len(l.asked) == len(l.answers) {
		s.end = io.EOF
	}
	return s, nil
}

type logChunks struct {
	grpc.ServerStreamingClient[v1.RunLogChunk]
	left []*v1.RunLogChunk
	end  error
}

func (c *logChunks) Recv() (*v1.RunLogChunk, error) {
	if len(c.left) == 0 {
		return nil, c.end
	}
	m := c.left[0]
	c.left = c.left[1:]
	return m, nil
}

func logsOf(t *testing.T, l *leaders, req *v1.RunLogsRequest, person bool) (stdout, stderr string) {
	t.Helper()
	var out, said bytes.Buffer
	c := &cobra.Command{}
	c.SetContext(t.Context())
	c.SetOut(&out)
	c.SetErr(&said)
	if err := copyLogs(c, l, req, person); err != nil {
		t.Fatal(err)
	}
	return out.String(), said.String()
}

// Who follows logs when the leader changes goes on with the attempts it was at, not with the
// newest: what those wrote meanwhile is printed, and nothing twice.
func TestLogsStayWithTheirAttempts(t *testing.T) {
	chunk := func(slice string, epoch uint64, stream, data string) *v1.RunLogChunk {
		return &v1.RunLogChunk{Slice: slice, Epoch: epoch, Stream: stream, Data: []byte(data)}
	}
	l := &leaders{answers: [][]*v1.RunLogChunk{
		{chunk("a", 1, "stdout", "one\n"), chunk("b", 4, "stdout", "four\n")},
		// Of a the first attempt's standard error may not be over.
		{chunk("a", 1, "stdout", "one\n1\n"), chunk("a", 1, "stderr", "oh\n"), chunk("a", 2, "stdout", "two\n")},
		{chunk("a", 1, "stdout", "one\n1\n"), chunk("a", 1, "stderr", "oh\nno\n"), chunk("a", 2, "stdout", "two\n2\n"), chunk("b", 4, "stdout", "four\n"), chunk("b", 5, "stdout", "five\n")},
	}}
	got, _ := logsOf(t, l, &v1.RunLogsRequest{Id: "r", Follow: true}, true)
	if want := "a | one\nb | four\na | 1\na | oh\na | two\na | no\na | 2\nb | five\n"; got != want {
		t.Errorf("printed\n%swant\n%s", got, want)
	}
	for i, want := range []map[string]uint64{{}, {"a": 1, "b": 4}, {"a": 1, "b": 4}} {
		if !maps.Equal(l.asked[i], want) {
			t.Errorf("leader %d was asked for %v, want %v", i, l.asked[i], want)
		}
	}
}

// A person who is shown nothing is told that there is nothing; a program never.
func TestSilentLogs(t *testing.T) {
	line := []*v1.RunLogChunk{{Slice: "a", Epoch: 1, Stream: "stdout", Data: []byte("x\n")}}
	for _, tt := range []struct {
		name   string
		req    *v1.RunLogsRequest
		wrote  []*v1.RunLogChunk
		person bool
		out    string
		said   string
	}{
		{"a run", &v1.RunLogsRequest{Id: "r"}, nil, true, "", "no slice of run r has written anything\n"},
		{"a slice", &v1.RunLogsRequest{Id: "r", Slice: "a"}, nil, true, "", "slice a of run r has written nothing\n"},
		{"an attempt", &v1.RunLogsRequest{Id: "r", Slice: "a", Epoch: 2}, nil, true, "", "slice a of run r has written nothing in attempt 2\n"},
		{"something", &v1.RunLogsRequest{Id: "r", Slice: "a"}, line, true, "x\n", ""},
		{"a program", &v1.RunLogsRequest{Id: "r", Slice: "a"}, nil, false, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, said := logsOf(t, &leaders{answers: [][]*v1.RunLogChunk{tt.wrote}}, tt.req, tt.person)
			if out != tt.out || said != tt.said {
				t.Errorf("printed %q and said %q", out, said)
			}
		})
	}
}

func TestReached(t *testing.T) {
	for name, tt := range map[string]struct {
		seen []logKey
		want map[string]uint64
	}{
		"nothing":             {nil, map[string]uint64{}},
		"both at one":         {[]logKey{{"a", "stdout", 2}, {"a", "stderr", 2}}, map[string]uint64{"a": 2}},
		"one ahead":           {[]logKey{{"a", "stdout", 1}, {"a", "stdout", 3}, {"a", "stderr", 2}}, map[string]uint64{"a": 2}},
		"the other is silent": {[]logKey{{"a", "stdout", 4}, {"a", "stdout", 2}, {"a", "stdout", 3}}, map[string]uint64{"a": 2}},
		"two slices":          {[]logKey{{"a", "stdout", 1}, {"b", "stderr", 7}}, map[string]uint64{"a": 1, "b": 7}},
	} {
		streams := map[logKey]*logStream{}
		for _, k := range tt.seen {
			streams[k] = &logStream{}
		}
		if got := reached(streams); !maps.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
