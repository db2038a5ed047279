package apiserver

import (
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
)

// What a request lacks is said in words, not in the words of a rule.
func TestRulesInWords(t *testing.T) {
	validate, err := protovalidate.New()
	if err != nil {
		t.Fatal(err)
	}
	r := &router{validate: validate}
	digest := "sha256:" + strings.Repeat("0", 64)
	for name, tc := range map[string]struct {
		msg        proto.Message
		says, hint string
	}{
		"a cursor":           {&v1.WatchEventsRequest{Since: "foo"}, `since: "foo" is no cursor of an event`, "4711.0"},
		"half a cursor":      {&v1.WatchEventsRequest{Since: "12"}, `since: "12" is no cursor of an event`, "now and oldest"},
		"a machine":          {&v1.AdmitMachineRequest{RequestId: "12345678", Id: "foo", Node: "n7", Role: "worker"}, `id: "foo" is no MAC address or UUID`, "52:54:00:12:34:56"},
		"no machine":         {&v1.AdmitMachineRequest{RequestId: "12345678", Node: "n7", Role: "worker"}, "id: it is missing", "52:54:00:12:34:56"},
		"a machine too long": {&v1.ForgetMachineRequest{RequestId: "12345678", Id: strings.Repeat("5", 37)}, "is no MAC address or UUID", "runink node machines"},
		"a name":             {&v1.CreateTokenRequest{RequestId: "12345678", Node: "N_4", Role: "worker"}, `node: "N_4" is no name`, "lower-case letters"},
		"a digest":           {&v1.StatBlobRequest{Digest: digest[:20]}, "is no digest", "64 hexadecimal digits"},
		"a secret":           {&v1.PutSecretRequest{RequestId: "12345678", Herd: "h", Path: "A b"}, `path: "A b" is no path of a secret`, "1 to 128"},
	} {
		t.Run(name, func(t *testing.T) {
			err := r.check(tc.msg)
			if err == nil {
				t.Fatal("it is taken")
			}
			if !strings.Contains(err.Error(), tc.says) || !strings.Contains(errs.HintOf(err), tc.hint) || strings.Contains(err.Error(), "regex") {
				t.Errorf("%v; %s", err, errs.HintOf(err))
			}
		})
	}
	if err := r.check(&v1.WatchEventsRequest{Since: "4711.0"}); err != nil {
		t.Errorf("a cursor: %v", err)
	}
}
