package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/runink/runink/internal/errs"
)

// What PID 1 starts says what to do where PID 1 has written nothing for it.
func TestNodeProcessesWithoutAConfiguration(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "config.json")
	for _, name := range []string{"agent", "netd", "server", "join"} {
		_, err := command(t, name, "--config", nowhere)
		if errs.KindOf(err) != errs.NotFound || !strings.Contains(err.Error(), "--config: ") || !strings.Contains(err.Error(), nowhere) {
			t.Errorf("%s: %v", name, err)
		}
		if hint := errs.HintOf(err); !strings.HasPrefix(hint, "PID 1 of an appliance writes that file; elsewhere ") {
			t.Errorf("%s: hint %q", name, hint)
		}
	}
}
