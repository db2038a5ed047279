package agent

import (
	"errors"
	"slices"
	"strings"
	"testing"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/slice/keeper"
)

func TestDeliverSecrets(t *testing.T) {
	values := map[string][]byte{"a/env": []byte("E=1"), "a/file": {0, 0xff}, "a/ctx": []byte("C")}
	uses := []*apiv1.SecretUse{{Path: "a/ctx"}, {Path: "a/env", Env: "A_ENV"}, {Path: "a/file", File: "a.file"}}
	spec, ls := &slicechan.Spec{}, &keeper.LaunchSpec{Env: []string{"HOME=/tmp"}, Args: []string{"/bundle/bin/main", "slice"}}
	if err := deliver(uses, values, spec, ls); err != nil {
		t.Fatal(err)
	}
	if got := ls.Env; !slices.Equal(got, []string{"HOME=/tmp", "A_ENV=E=1", "RUNINK_SECRETS=/secrets"}) {
		t.Errorf("environment %q", got)
	}
	if len(ls.Secrets) != 1 || string(ls.Secrets["a.file"]) != "\x00\xff" || spec.SecretFiles["a/file"] != "/secrets/a.file" {
		t.Errorf("files %v, told as %v", ls.Secrets, spec.SecretFiles)
	}
	if len(spec.Secrets) != 2 || string(spec.Secrets["a/ctx"]) != "C" || string(spec.Secrets["a/env"]) != "E=1" {
		t.Errorf("for the context: %v", spec.Secrets)
	}
	if strings.Contains(strings.Join(ls.Args, " "), "E=1") {
		t.Error("a value is in the command line")
	}
}

func TestDeliverRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		use    *apiv1.SecretUse
		values map[string][]byte
		kind   errs.Kind
	}{
		{"a zero byte in a variable", &apiv1.SecretUse{Path: "p", Env: "P"}, map[string][]byte{"p": []byte("a\x00hush")}, errs.Invalid},
		{"a value that did not come", &apiv1.SecretUse{Path: "p"}, nil, errs.Internal},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := deliver([]*apiv1.SecretUse{c.use}, c.values, &slicechan.Spec{}, &keeper.LaunchSpec{})
			if !errors.Is(err, c.kind) {
				t.Errorf("%v", err)
			}
			if strings.Contains(err.Error(), "hush") {
				t.Errorf("the value is in the error: %v", err)
			}
		})
	}
}
