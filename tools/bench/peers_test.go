package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

func TestPrinted(t *testing.T) {
	for name, c := range map[string]struct {
		out  string
		want time.Duration
		bad  bool
	}{
		"a time":     {"2751073700191\n", 2751073700191, false},
		"nothing":    {"", 0, true},
		"two lines":  {"1\n2\n", 0, true},
		"an error":   {"exec format error\n", 0, true},
		"not a time": {"0\n", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := printed(c.out)
			if got != c.want || (err != nil) != c.bad {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

func TestForProgram(t *testing.T) {
	out, err := forProgram([]byte(`{"process":{"terminal":true,"args":["sh"],"cwd":"/"},"linux":{"resources":{"devices":[]},"namespaces":[{"type":"pid"}]}}`), false)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Process struct {
			Terminal bool
			Args     []string
			Cwd      string
		}
		Linux map[string]any
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if got.Process.Terminal || len(got.Process.Args) != 1 || got.Process.Args[0] != "/first" || got.Process.Cwd != "/" {
		t.Errorf("process: %+v", got.Process)
	}
	if got.Linux["resources"] != nil || got.Linux["namespaces"] == nil {
		t.Errorf("linux: %+v", got.Linux)
	}
	for name, bad := range map[string]string{"no JSON": "{", "no process": `{"linux":{}}`, "no linux": `{"process":{}}`} {
		if _, err := forProgram([]byte(bad), false); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestStatusAndRangeMessages(t *testing.T) {
	for name, c := range map[string]struct {
		msg  []byte
		want bool
	}{
		"the leader":   {status(7, 7), true},
		"a follower":   {status(7, 8), false},
		"no leader":    {status(7, 0), false},
		"empty":        {nil, false},
		"more fields":  {protowire.AppendString(protowire.AppendTag(status(7, 7), 2, protowire.BytesType), "3.4"), true},
		"other fields": {protowire.AppendFixed64(protowire.AppendTag(status(7, 7), 9, protowire.Fixed64Type), 1), true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := leads(c.msg)
			if err != nil || got != c.want {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
	v, err := value(found([]byte("x"), true))
	if err != nil || string(v) != "x" {
		t.Errorf("a key that is there: %q, %v", v, err)
	}
	if v, err = value(found(nil, false)); err != nil || v != nil {
		t.Errorf("a key that is not: %q, %v", v, err)
	}
	_, f, err := kvFields(putRequest([]byte("k"), []byte("v")))
	if err != nil || !bytes.Equal(f[1], []byte("k")) || !bytes.Equal(f[2], []byte("v")) {
		t.Errorf("put: %v, %v", f, err)
	}
	if _, err := leads([]byte{0xff}); err == nil {
		t.Error("a cut message is taken")
	}
}

// Whatever a peer sends, it is read or refused.
func FuzzKVFields(f *testing.F) {
	f.Add(status(1, 1))
	f.Add(found([]byte("x"), true))
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = kvFields(b)
		_, _ = leads(b)
		_, _ = value(b)
	})
}

func TestPlotIsXML(t *testing.T) {
	for name, p := range map[string]plot{
		"nothing":  {title: "a < b", x: "x", y: "y"},
		"one":      {title: "t", series: []series{{name: "s&t", points: []point{{1, 2}}}}},
		"log":      {logX: true, logY: true, series: []series{{name: "s", points: []point{{10, 1}, {1000, 250}}}, {name: "u", points: []point{{10, 0}, {1000, 3}}}}},
		"constant": {logX: true, logY: true, series: []series{{name: "s", points: []point{{10, 100}, {10, 100}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			out := p.svg()
			if err := wellFormed(out); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			if bytes.Contains(out, []byte("NaN")) || bytes.Contains(out, []byte("Inf")) {
				t.Errorf("a place that is no number:\n%s", out)
			}
		})
	}
}

func wellFormed(b []byte) error {
	d := xml.NewDecoder(bytes.NewReader(b))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// The queue is drained and the full cluster takes nothing: small, to hold the harness.
func TestScheduleSmall(t *testing.T) {
	if rate, p99, err := drainQueue(3, 2000); err != nil || rate <= 0 || p99 <= 0 {
		t.Errorf("%v a second, p99 %v, %v", rate, p99, err)
	}
	if rate, err := fullPass(3, 500); err != nil || rate <= 0 {
		t.Errorf("%v a second, %v", rate, err)
	}
}

// One replica, its server and the clients that load it, in this process.
func TestBarnAnswersAsEtcdDoes(t *testing.T) {
	cert, key, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := freeAddresses(2)
	if err != nil {
		t.Fatal(err)
	}
	arg, err := json.Marshal(replicaConfig{ID: "n0", Dir: t.TempDir(), Listen: addrs[0], Raft: addrs[1], Cert: cert, Key: key, Members: map[string]string{"n0": addrs[1]}})
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- replica(t.Context(), string(arg), r) }()
	s := &store{name: "barn"}
	if err := s.await(t.Context(), addrs[:1]); err != nil {
		t.Fatal(err)
	}
	for _, op := range []string{"write", "read"} {
		if l, err := load(t.Context(), s.leader, op, 4, 100*time.Millisecond); err != nil || l.rate <= 0 {
			t.Errorf("%s: %+v, %v", op, l, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
