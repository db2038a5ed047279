package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

// badFiles are a user's folder. Beside a pipeline that is well there is each way of being
// wrong, made from it by one replacement.
func badFiles(t *testing.T, dir string) {
	t.Helper()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example.com/count\n\ngo 1.26\n")
	write("steps.go", `package count

type Wide struct {
	A int
	B int
}

type Out struct{ A int }

func Narrow(w Wide) (Out, error) { return Out{w.A + w.B}, nil }
`)
	write("contracts/row.go", "package contracts\n\ntype Row struct {\n\tA int `json:\"a\"`\n}\n")
	write("in.jsonl", "{\"a\":1}\n{\"a\":2}\n")
	write("count.dsl", countDSL)
	for name, change := range map[string][2]string{
		"broken":    {`name="in")`, `name="in"`},
		"nostep":    {`@step("filter", where="a > 1", name="big")`, `@step("Sieve", name="big")`},
		"nobuiltin": {`@step("filter", where="a > 1", name="big")`, `@step("filtr", where="a > 1", name="big")`},
		"edge":      {`@step("filter", where="a > 1", name="big")`, `@step("Narrow", name="big")`},
		"contract":  {"contracts.Row", "contracts.Rwo"},
		"none":      {` @contract("contracts.Row")`, ``},
		"exit":      {`@dlq("file://bad.jsonl")`, ``},
		"herdless":  {`@herd("analytics")`, ``},
		"large":     {`where="a > 1", name="big")`, `where="a > 1", name="big") @requires(memory="2Gi")`},
		"missing":   {"file://in.jsonl", "file://nowhere.jsonl"},
		"absent":    {`@herd("analytics")`, `@herd("analytcis")`},
		"key":       {`name="out")`, `nmae="out")`},
	} {
		text := strings.Replace(countDSL, change[0], change[1], 1)
		if text == countDSL {
			t.Fatalf("%s.dsl is no change", name)
		}
		write(name+".dsl", text)
	}
}

// TestBadInputChangesNothing types every kind of wrong input at the program, against a
// running control node: each is refused with its place and the next step, and afterwards
// nothing is different, neither in the cluster nor in the user's folder.
func TestBadInputChangesNothing(t *testing.T) {
	c := startRealCluster(t, "600m")
	badFiles(t, c.work)
	c.ok("herd", "put", "analytics", "--cpu", "2", "--memory", "1Gi")
	c.ok("build", "count.dsl", "--out", "good.bundle")
	whole, err := os.ReadFile(filepath.Join(c.work, "good.bundle"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"short.bundle": whole[:len(whole)/2],
		"bits.bundle":  append([]byte{whole[0] ^ 1}, whole[1:]...),
		"text.bundle":  []byte("hello"),
	} {
		if err := os.WriteFile(filepath.Join(c.work, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// What is known by then stays: the run a good submission made, and the blobs of it.
	c.ok("run", "good.bundle")

	const hint = "hint:"
	before := c.everything()
	for _, tc := range []struct {
		name   string
		args   string
		status int
		want   []string // of standard error: the place, then what is wrong, and the next step
	}{
		{"broken .dsl, check", "check broken.dsl", exitUsage, []string{"broken.dsl:6:42: error[E104]", hint}},
		{"broken .dsl, run", "run broken.dsl", exitUsage, []string{"broken.dsl:6:42: error[E104]", hint}},
		{"broken .dsl, fmt", "fmt broken.dsl", exitUsage, []string{"broken.dsl:6:42: error[E104]", hint}},
		{"broken .dsl, plan", "plan broken.dsl", exitUsage, []string{"broken.dsl:6:42: error[E104]", hint}},
		{"broken .dsl, test", "test broken.dsl", exitUsage, []string{"broken.dsl:6:42: error[E104]", hint}},
		{"broken .dsl, build", "build broken.dsl", exitUsage, []string{"broken.dsl:6:42: error[E104]", hint}},
		{"broken .dsl, run here", "run --local broken.dsl", exitUsage, []string{"broken.dsl:6:42: error[E104]", hint}},
		{"unknown step in Go", "run nostep.dsl", exitUsage, []string{"nostep.dsl:9:12: error[", "Sieve", hint}},
		{"unknown built-in step", "run nobuiltin.dsl", exitUsage, []string{"nobuiltin.dsl:9:12: error[", `"filter"`, hint}},
		{"mismatched edge", "run edge.dsl", exitUsage, []string{"edge.dsl:9:12: error[E204]", `"b"`, hint}},
		{"missing contract", "run contract.dsl", exitUsage, []string{"contract.dsl:6:64: error[E212]", "Rwo", "Row", hint}},
		{"no contract", "run none.dsl", exitUsage, []string{"none.dsl:6:5: error[", "contract", hint}},
		{"uncovered failure path", "run exit.dsl", exitUsage, []string{"exit.dsl:6:5: error[", "@dlq", hint}},
		{"unknown key", "run key.dsl", exitUsage, []string{"key.dsl:12:31: error[E111]", "name", hint}},

		{"unknown flag", "run --hurd analytics count.dsl", exitUsage, []string{"--hurd", hint}},
		{"unknown command", "rnu count.dsl", exitUsage, []string{"rnu", hint}},
		{"unknown verb", "herd pit analytics", exitUsage, []string{"pit", hint}},
		{"missing argument", "run", exitUsage, []string{"one FILE.dsl or FILE.bundle", hint}},
		{"size with a wrong unit", "herd put other --memory 1GB", exitUsage, []string{"--memory", "1GB", hint}},
		{"negative number", "herd put other --cpu -1", exitUsage, []string{"cpu", hint}},
		{"bad name", "herd put Other_1", exitUsage, []string{"herd.name", hint}},
		{"form of output", "ps -o xml", exitUsage, []string{"--output", "xml", hint}},
		{"form of output of what changes", "herd put other -o xml", exitUsage, []string{"--output", "xml", hint}},
		{"parameter without a value", "run count.dsl --param x", exitUsage, []string{"--param", `"x"`, hint}},
		{"unknown parameter", "run count.dsl --param x=1", exitUsage, []string{"--param", "x", hint}},
		{"unknown source", "run count.dsl --input other=in.jsonl", exitUsage, []string{"--input", "other", hint}},
		{"missing input", "run missing.dsl", exitNotFound, []string{"nowhere.jsonl", "--input", hint}},
		{"missing pipeline", "run nowhere.dsl", exitNotFound, []string{"nowhere.dsl", hint}},
		{"unknown scenario", "run count.dsl --scenario x", exitNotFound, []string{"--scenario", hint}},
		{"request id too short", "run count.dsl --request-id x", exitUsage, []string{"request", hint}},
		{"bad address", "herd list --address nowhere.invalid:1", exitUnavailable, []string{"nowhere.invalid", hint}},
		{"unknown context", "herd list --context other", exitNotFound, []string{"--context", hint}},

		{"truncated bundle", "run short.bundle", exitFailed, []string{"short.bundle", hint}},
		{"damaged bundle", "run bits.bundle", exitFailed, []string{"bits.bundle", hint}},
		{"no bundle", "run text.bundle", exitFailed, []string{"text.bundle", hint}},

		{"unknown herd", "run herdless.dsl --herd nope", exitNotFound, []string{"herd", `"nope"`, hint}},
		{"unknown @herd", "run absent.dsl", exitNotFound, []string{"herd", `"analytcis"`, hint}},
		{"no herd", "run herdless.dsl", exitUsage, []string{"--herd", hint}},
		{"another herd than the bundle's", "run good.bundle --herd nope", exitUsage, []string{"herd", hint}},
		{"unknown herd of a secret", "secret list --herd nope", exitNotFound, []string{"herd", `"nope"`, hint}},
		{"unknown herd of a key", "apikey create --herd nope", exitNotFound, []string{"herd", `"nope"`, hint}},
		{"exceeded quota", "run large.dsl", exitExhausted, []string{"herd", "memory 2.1Gi", "1Gi", "@requires", hint}},

		{"unknown run", "stop nope", exitNotFound, []string{"nope", hint}},
		{"state of runs", "ps --state done", exitUsage, []string{"--state", "done", "succeeded", hint}},
		{"time a token may not live", "token create --node n2 --ttl 2h", exitUsage, []string{"--ttl", "15m", hint}},
		{"herd that is not there", "herd delete nope", exitNotFound, []string{`delete herd: herd: there is no herd "nope"`, hint}},
		{"unknown node", "node drain n9 --reason x", exitNotFound, []string{"n9", hint}},
		{"install on no disk", "install n2", exitUsage, []string{"--disk", hint}},
		{"install on a partition's name", "install n2 --disk part:x", exitUsage, []string{"--disk", "path:/dev/sda", hint}},
		{"install on what is no disk", "install n2 --disk /etc/passwd", exitUsage, []string{"--disk", hint}},
		{"install for longer than a token lives", "install n2 --disk /dev/sda --ttl 2h", exitUsage, []string{"--ttl", hint}},
		{"install as nobody", "install n2 --disk /dev/sda --role boss", exitUsage, []string{"role", hint}},
		{"unknown role", "token create --node n2 --role boss", exitUsage, []string{"role", hint}},
		{"unknown output", "artifact get nope/out", exitNotFound, []string{"nope", hint}},
		{"bundle of an unknown run", "artifact get nope --bundle -o got.bundle", exitNotFound, []string{"nope", hint}},
		{"bundle of a sink", "artifact get nope/out --bundle", exitUsage, []string{"nope/out", "--bundle", hint}},
		{"sealed rows of a bundle", "artifact get nope --bundle --open", exitUsage, []string{"--open", hint}},
		{"no backup", "cluster restore text.bundle --yes", exitFailed, []string{"text.bundle", hint}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := *c
			c.t = t
			out, stderr, status := c.typed(strings.Fields(tc.args)...)
			t.Logf("runink %s\n%s%s", tc.args, out, stderr)
			if status != tc.status {
				t.Errorf("exit status %d, want %d", status, tc.status)
			}
			for _, w := range tc.want {
				if !strings.Contains(stderr, w) {
					t.Errorf("standard error does not say %q", w)
				}
			}
			before = c.unchanged(before)
		})
	}

	// What this program never does, but another client of the API may.
	api := c.client()
	content := []byte("some bytes, more than were sent")
	sum := sha256.Sum256(content)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	t.Run("wrong digest", func(t *testing.T) {
		c := *c
		c.t = t
		other := sha256.Sum256([]byte("other bytes"))
		err := upload(t, api, &v1.UploadBlobRequest{Herd: "analytics", Digest: "sha256:" + hex.EncodeToString(other[:]), Size: int64(len(content)), Data: content})
		refused(t, err, errs.Corrupt, "digest", digest)
		before = c.unchanged(before)
	})
	t.Run("no digest", func(t *testing.T) {
		c := *c
		c.t = t
		err := upload(t, api, &v1.UploadBlobRequest{Herd: "analytics", Digest: "sha256:../../x", Size: 1, Data: []byte("x")})
		refused(t, err, errs.Invalid, "digest", "sha256:")
		before = c.unchanged(before)
	})
	t.Run("more than announced", func(t *testing.T) {
		c := *c
		c.t = t
		err := upload(t, api, &v1.UploadBlobRequest{Herd: "analytics", Digest: digest, Size: 4, Data: content})
		refused(t, err, errs.Invalid, "size", "4 bytes")
		before = c.unchanged(before)
	})
	t.Run("truncated upload", func(t *testing.T) {
		c := *c
		c.t = t
		err := upload(t, api, &v1.UploadBlobRequest{Herd: "analytics", Digest: digest, Size: int64(len(content)), Data: content[:10]})
		refused(t, err, errs.Invalid, "size", "10 of 31 bytes")
		// What came is kept for whoever goes on with it, and is nothing until then.
		kept := filepath.Join(c.files("blobs"), "partial", digest[len("sha256:"):])
		if b, err := os.ReadFile(kept); err != nil || string(b) != string(content[:10]) {
			t.Errorf("kept %q, %v", b, err)
		}
		submit := &v1.SubmitRunRequest{RequestId: "a truncated bundle", Herd: "analytics", BundleDigest: digest}
		_, err = v1.NewRunServiceClient(api).Submit(t.Context(), submit)
		refused(t, err, errs.NotFound, "bundle_digest", digest)
		if err := os.Remove(kept); err != nil {
			t.Fatal(err)
		}
		before = c.unchanged(before)
	})
}

// upload sends one message and ends the stream.
func upload(t *testing.T, api *apiclient.Client, msg *v1.UploadBlobRequest) error {
	t.Helper()
	s, err := v1.NewArtifactServiceClient(api).Upload(t.Context())
	if err != nil {
		return err
	}
	if err := s.Send(msg); err != nil && !errors.Is(err, io.EOF) { // EOF: the answer has the reason
		return err
	}
	_, err = s.CloseAndRecv()
	return apiclient.FromStatus("Upload", err)
}

// refused checks an error's kind, its field, a word of it, and that it says how to go on.
func refused(t *testing.T, err error, kind errs.Kind, field, word string) {
	t.Helper()
	t.Logf("%v\n%s", err, errs.HintOf(err))
	e, ok := errors.AsType[*errs.Error](err)
	if !ok || e.Kind != kind || e.Field != field || !strings.Contains(err.Error(), word) || errs.HintOf(err) == "" {
		t.Errorf("%v, hint %q; want %s of %s, %q and a hint", err, errs.HintOf(err), kind, field, word)
	}
}

// TestFullDiskOfAControlNode fills the disk a control node keeps its state on: what would
// need room is refused early and changes nothing, what is there can be read, and with room
// again the cluster takes up where it was.
func TestFullDiskOfAControlNode(t *testing.T) {
	c := startRealCluster(t, "600m")
	badFiles(t, c.work)
	c.ok("herd", "put", "analytics", "--cpu", "2", "--memory", "1Gi")
	first := strings.TrimSpace(c.ok("run", "count.dsl"))

	// An input that fits on the disk, but not into what blobs may take of it.
	if err := os.WriteFile(filepath.Join(c.work, "in.jsonl"), bytes.Repeat([]byte("{\"a\":3}\n"), 40<<17), 0o644); err != nil {
		t.Fatal(err)
	}
	filler := c.files("filler")
	fill := func(left int64) {
		t.Helper()
		var st unix.Statfs_t
		if err := unix.Statfs(c.files(""), &st); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Fallocate(int(f.Fd()), 0, info.Size(), int64(st.Bavail)*st.Bsize-left); err != nil {
			t.Fatal(err)
		}
	}

	fill(160 << 20) // blobs keep 128 MiB back, tables 64
	before := c.everything()
	_, stderr, status := c.typed("run", "count.dsl")
	t.Log(stderr)
	if status != exitExhausted || !strings.Contains(stderr, "disk of this control node") || !strings.Contains(stderr, "hint:") {
		t.Errorf("an upload to a disk that is nearly full: %d %s", status, stderr)
	}
	c.unchanged(before)
	c.ok("herd", "put", "other") // tables are small, and have room yet

	fill(40 << 20)
	before = c.everything()
	deadline, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The control node looks at its disk every second.
	for _, stderr, status = c.typed("herd", "put", "more"); status == 0 && deadline.Err() == nil; _, stderr, status = c.typed("herd", "put", "more") {
		before = c.everything()
	}
	t.Log(stderr)
	if status != exitExhausted || !strings.Contains(stderr, "disk") || !strings.Contains(stderr, "hint:") {
		t.Errorf("a change on a full disk: %d %s", status, stderr)
	}
	for _, args := range [][]string{{"ps", first}, {"herd", "list"}, {"cluster", "status"}, {"audit"}} {
		c.ok(args...)
	}
	c.unchanged(before)

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for _, stderr, status = c.typed("herd", "put", "again"); status == exitExhausted && deadline.Err() == nil; _, stderr, status = c.typed("herd", "put", "again") {
	}
	if status != 0 {
		t.Fatalf("with room again: %d %s", status, stderr)
	}
	if second := strings.TrimSpace(c.ok("run", "count.dsl")); second == first || second == "" {
		t.Errorf("the run after it is %q", second)
	}
}
