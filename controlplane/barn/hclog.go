package barn

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// hcLogger gives what Raft and its log write through hclog to slog. Raft's "info" is
// debug here: it reports each of its steps, and we report what they come to.
type hcLogger struct {
	l    *slog.Logger
	name string
	args []any
}

var _ hclog.Logger = hcLogger{}

func newHCLogger(l *slog.Logger) hclog.Logger { return hcLogger{l: l} }

func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelError
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Info, hclog.Debug, hclog.NoLevel:
		return slog.LevelDebug
	default:
		return slog.LevelDebug - 4
	}
}

func (h hcLogger) Log(level hclog.Level, msg string, args ...any) {
	l := slogLevel(level)
	if !h.l.Enabled(context.Background(), l) {
		return
	}
	out := make([]any, len(args)) // the caller's array may be shared
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			if format, ok := f[0].(string); ok {
				a = fmt.Sprintf(format, f[1:]...)
			}
		}
		out[i] = a
	}
	h.l.Log(context.Background(), l, msg, out...)
}

func (h hcLogger) Trace(msg string, args ...any) { h.Log(hclog.Trace, msg, args...) }
func (h hcLogger) Debug(msg string, args ...any) { h.Log(hclog.Debug, msg, args...) }
func (h hcLogger) Info(msg string, args ...any)  { h.Log(hclog.Info, msg, args...) }
func (h hcLogger) Warn(msg string, args ...any)  { h.Log(hclog.Warn, msg, args...) }
func (h hcLogger) Error(msg string, args ...any) { h.Log(hclog.Error, msg, args...) }

func (h hcLogger) enabled(l hclog.Level) bool {
	return h.l.Enabled(context.Background(), slogLevel(l))
}

func (h hcLogger) IsTrace() bool { return h.enabled(hclog.Trace) }
func (h hcLogger) IsDebug() bool { return h.enabled(hclog.Debug) }
func (h hcLogger) IsInfo() bool  { return h.enabled(hclog.Info) }
func (h hcLogger) IsWarn() bool  { return h.enabled(hclog.Warn) }
func (h hcLogger) IsError() bool { return h.enabled(hclog.Error) }

func (h hcLogger) ImpliedArgs() []any { return h.args }
func (h hcLogger) Name() string       { return h.name }

func (h hcLogger) With(args ...any) hclog.Logger {
	h.args = append(h.args[:len(h.args):len(h.args)], args...)
	h.l = h.l.With(args...)
	return h
}

func (h hcLogger) Named(name string) hclog.Logger {
	if h.name != "" {
		name = h.name + "." + name
	}
	return h.ResetNamed(name)
}

func (h hcLogger) ResetNamed(name string) hclog.Logger {
	h.name = name
	h.l = h.l.With("part", name)
	return h
}

// SetLevel does nothing: slog's handler decides.
func (h hcLogger) SetLevel(hclog.Level) {}

func (h hcLogger) GetLevel() hclog.Level {
	for _, l := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Warn} {
		if h.enabled(l) {
			return l
		}
	}
	return hclog.Error
}

func (h hcLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(h.l.Handler(), slog.LevelDebug)
}

func (h hcLogger) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	return h.StandardLogger(o).Writer()
}
