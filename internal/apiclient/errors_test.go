package apiclient

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/runink/runink/internal/errs"
)

// Why there is no connection is said without gRPC's own words and quotes around it.
func TestNoConnection(t *testing.T) {
	for name, tt := range map[string]struct {
		says, want string
		kind       errs.Kind
	}{
		"nobody there": {
			`connection error: desc = "transport: Error while dialing: dial tcp 10.0.0.12:7460: connect: no route to host"`,
			"Offer: dial tcp 10.0.0.12:7460: connect: no route to host", errs.Unavailable,
		},
		"another key": {
			`connection error: desc = "transport: authentication handshake failed: verify server: its key is sha256:aa, not sha256:bb"`,
			"Offer: verify server: its key is sha256:aa, not sha256:bb", errs.Unauthenticated,
		},
		"quotes in it, and words around": {
			`last connection error: connection error: desc = "transport: authentication handshake failed: verify server: it is node \"n2\"" (twice)`,
			`Offer: verify server: it is node "n2" (twice)`, errs.Unauthenticated,
		},
		"our certificate is turned away": {
			`connection error: desc = "error reading server preface: remote error: tls: bad certificate"`,
			"Offer: the other side does not accept our certificate: error reading server preface: remote error: tls: bad certificate", errs.Unauthenticated,
		},
		"not quoted":  {"connection error: desc = none", "Offer: connection error: desc = none", errs.Unavailable},
		"other words": {"the connection is draining", "Offer: the connection is draining", errs.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			err := FromStatus("/runink.v1.BootstrapService/Offer", status.Error(codes.Unavailable, tt.says))
			if err.Error() != tt.want || !errors.Is(err, tt.kind) || errs.HintOf(err) == "" {
				t.Errorf("%q, hint %q; want kind %s, %q", err, errs.HintOf(err), tt.kind, tt.want)
			}
			if st, ok := status.FromError(err); !ok || st.Code() != codes.Unavailable {
				t.Errorf("it is no status any more: %v", st)
			}
		})
	}
}
