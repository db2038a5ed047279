package barn

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestHCLogToSlog(t *testing.T) {
	var buf bytes.Buffer
	l := newHCLogger(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug})))
	l.Named("wal").With("peer", "n2").Warn("slow", "took", 3, "servers", hclog.Fmt("%d of %d", 1, 2))
	l.Info("step")
	l.Trace("never")
	l.StandardLogger(nil).Print("plain")
	out := buf.String()
	for _, want := range []string{"level=WARN msg=slow part=wal peer=n2 took=3 servers=\"1 of 2\"", "level=DEBUG msg=step", "msg=plain"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "never") || l.IsTrace() || !l.IsDebug() || l.GetLevel() != hclog.Debug {
		t.Errorf("levels are wrong:\n%s", out)
	}
}
