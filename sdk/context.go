package sdk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
)

// Context is what a step may use beside its rows. All methods may be called from several
// goroutines.
type Context struct {
	context.Context

	log     *slog.Logger
	params  map[string]string
	secrets map[string]string
	files   map[string]string // of secrets, by path

	mu       sync.Mutex
	counters map[string]*Counter
}

// NewContext makes a context. The engine calls it; tests of steps may.
func NewContext(ctx context.Context, log *slog.Logger, params, secrets map[string]string) *Context {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Context{Context: ctx, log: log, params: params, secrets: secrets, counters: map[string]*Counter{}}
}

// Log returns the logger of the slice.
func (c *Context) Log() *slog.Logger { return c.log }

// Param returns a run parameter as text, after defaults were applied.
func (c *Context) Param(name string) (string, bool) {
	v, ok := c.params[name]
	return v, ok
}

// ErrNoSecret is the error of a secret that the step's block does not name.
var ErrNoSecret = errors.New("the block does not name this secret")

// Secret returns the value of a secret, byte for byte as it was stored, however @secret
// delivers it. name is its path. Never log it.
//
// Errors: ErrNoSecret if the block has no @secret of that path.
func (c *Context) Secret(name string) (string, error) {
	if v, ok := c.secrets[name]; ok {
		return v, nil
	}
	file, err := c.SecretFile(name)
	if err != nil {
		return "", fmt.Errorf("secret %q: %w; add @secret(%q)", name, ErrNoSecret, name)
	}
	v, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("secret %q: %w", name, err)
	}
	return string(v), nil
}

// SecretFile returns the path of the file that holds a secret delivered with as="file". It is
// readable by this process only, read-only, and gone when the slice ends.
//
// Errors: ErrNoSecret if the block has no @secret of that path with as="file".
func (c *Context) SecretFile(name string) (string, error) {
	if f, ok := c.files[name]; ok {
		return f, nil
	}
	return "", fmt.Errorf("file of secret %q: %w; add @secret(%q, as=\"file\")", name, ErrNoSecret, name)
}

// WithSecretFiles returns c after noting the files of its secrets, by path. The engine calls
// it before any step runs; tests of steps may.
func (c *Context) WithSecretFiles(files map[string]string) *Context {
	c.files = files
	return c
}

// Counter returns the counter of that name, made at its first use.
func (c *Context) Counter(name string) *Counter {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.counters[name]
	if !ok {
		n = &Counter{}
		c.counters[name] = n
	}
	return n
}

// Counters returns the value of every counter by name.
func (c *Context) Counters() map[string]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := make(map[string]int64, len(c.counters))
	for k, n := range c.counters {
		m[k] = n.Value()
	}
	return m
}

// Counter is a metric that grows.
type Counter struct{ n atomic.Int64 }

// Add adds d.
func (n *Counter) Add(d int64) { n.n.Add(d) }

// Value returns the sum so far.
func (n *Counter) Value() int64 { return n.n.Load() }
