package compile

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// The example's plan is what the others of the project build on: a change of it must be
// looked at.
func TestFlightsPlan(t *testing.T) {
	dir := filepath.Join("..", "..", "examples", "flights")
	r, err := Compile(t.Context(), filepath.Join(dir, "flights.dsl"))
	if err != nil {
		t.Fatal(err)
	}
	if r.Diags.HasErrors() {
		t.Fatalf("the example does not compile:\n%s", r.Diags.Render())
	}
	if len(r.Plans) != 1 {
		t.Fatalf("%d plans", len(r.Plans))
	}
	got, err := json.MarshalIndent(r.Plans[0], "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	golden(t, filepath.Join(dir, "testdata", "plan.json"), got)
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s differs (-want +got), go test -update accepts it:\n%s", path, d)
	}
}
