package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"testing"

	"pgregory.net/rapid"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
)

func TestOneHeader(t *testing.T) {
	for _, tc := range []struct {
		name  string
		parts []string
		want  string
		bad   bool
	}{
		{"none", nil, "", false},
		{"one", []string{"a,b\n1,2\n"}, "a,b\n1,2\n", false},
		{"two", []string{"a,b\n1,2\n", "a,b\n3,4\n"}, "a,b\n1,2\n3,4\n", false},
		{"without rows", []string{"a\n", "a\n1\n", "a\n"}, "a\n1\n", false},
		{"an empty part", []string{"", "a\n1\n", "", "a\n2\n"}, "a\n1\n2\n", false},
		{"a line break in a name", []string{"\"a\nb\",c\n1,2\n", "\"a\nb\",c\n3,4\n"}, "\"a\nb\",c\n1,2\n3,4\n", false},
		{"another header", []string{"a,b\n1,2\n", "b,a\n3,4\n"}, "", true},
		{"a longer header", []string{"a\n1\n", "a,b\n3,4\n"}, "", true},
		{"no header", []string{"a\n1\n", "2\n3\n"}, "", true},
		{"cut off", []string{"a\n1\n", "a"}, "", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				var out bytes.Buffer
				o := &oneHeader{w: &out, output: "s"}
				err := func() error {
					for _, p := range tc.parts {
						for len(p) > 0 { // however it is cut
							n := rapid.IntRange(1, len(p)).Draw(rt, "n")
							if k, err := o.Write([]byte(p[:n])); err != nil || k != n {
								return errors.Join(err)
							}
							p = p[n:]
						}
						if err := o.endPart(); err != nil {
							return err
						}
					}
					return nil
				}()
				switch {
				case tc.bad && (errs.KindOf(err) != errs.Corrupt || errs.HintOf(err) == ""):
					rt.Fatalf("got %v and %q", err, out.String())
				case !tc.bad && (err != nil || out.String() != tc.want):
					rt.Fatalf("got %q, %v", out.String(), err)
				}
			})
		})
	}
}

// TestArtifactOfTwoParts fetches an output of two parts from a control node.
func TestArtifactOfTwoParts(t *testing.T) {
	c := startRealCluster(t, "600m")
	c.ok("herd", "put", "analytics")
	api := c.client()
	output := func(uri string, parts ...string) *v1.RunOutput {
		out := &v1.RunOutput{Block: "s", Uri: uri}
		for _, p := range parts {
			sum := sha256.Sum256([]byte(p))
			digest := "sha256:" + hex.EncodeToString(sum[:])
			if err := upload(t, api, &v1.UploadBlobRequest{Herd: "analytics", Digest: digest, Size: int64(len(p)), Data: []byte(p)}); err != nil {
				t.Fatal(err)
			}
			out.Parts = append(out.Parts, &v1.OutputPart{Digest: digest, Bytes: int64(len(p))})
		}
		return out
	}
	for _, tc := range []struct {
		name string
		out  *v1.RunOutput
		want string
		kind error
	}{
		{"csv", output("file://o.csv", "a,b\n1,2\n", "a,b\n3,4\n"), "a,b\n1,2\n3,4\n", nil},
		{"jsonl", output("file://o.jsonl", "{\"a\":1}\n", "{\"a\":1}\n"), "{\"a\":1}\n{\"a\":1}\n", nil},
		{"other header", output("file://o.csv", "a,b\n1,2\n", "a,c\n3,4\n"), "a,b\n1,2\n", errs.Corrupt},
	} {
		var b bytes.Buffer
		err := fetchOutput(t.Context(), api, "", tc.out, &b)
		if !errors.Is(err, tc.kind) || b.String() != tc.want {
			t.Errorf("%s: %q, %v", tc.name, b.String(), err)
		}
	}
}
