package artifacts

import (
	"errors"
	"testing"

	"google.golang.org/grpc"

	"github.com/runink/runink/internal/errs"
)

// NotFound ends runs: it is said only when every other control node said it.
func TestPullIsSureOnlyOfWhatItWasTold(t *testing.T) {
	for name, c := range map[string]struct {
		members []string
		want    errs.Kind
	}{
		"alone":                         {[]string{"n1"}, errs.NotFound},
		"a member without an address":   {[]string{"n1", "n2"}, errs.Unavailable},
		"a replica that knows no group": {nil, errs.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := New(Config{
				Dir: t.TempDir(), Node: "n1", Members: func() []string { return c.members },
				Peer: func(node string) (grpc.ClientConnInterface, error) {
					return nil, errs.E(errs.NotFound, "test", "there is no control node %q with an address", node)
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Open(t.Context(), digestOf("x")); !errors.Is(err, c.want) {
				t.Fatalf("open: %v", err)
			}
		})
	}
}
