package netd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errSilence = errors.New("nobody answers")

// script is an asker whose answers a test writes down; it records what it was asked and
// when, since the test began.
type script struct {
	mu     sync.Mutex
	start  time.Time
	asked  []string
	answer func(kind string, old *lease) (*lease, error)
	other  func(ctx context.Context, not []netip.Addr) (*lease, error) // nil: answer
}

func (s *script) ask(kind string, old *lease) (*lease, error) {
	return s.hear(kind, func() (*lease, error) { return s.answer(kind, old) })
}

func (s *script) hear(kind string, answer func() (*lease, error)) (*lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, fmt.Sprintf("%s@%s", kind, time.Since(s.start)))
	l, err := answer()
	if l != nil {
		c := *l
		c.got = time.Now()
		l = &c
	}
	return l, err
}

func (s *script) Discover(context.Context) (*lease, error) { return s.ask("discover", nil) }

func (s *script) Other(ctx context.Context, not []netip.Addr) (*lease, error) {
	if s.other == nil {
		return s.ask("other", nil)
	}
	return s.hear("other", func() (*lease, error) { return s.other(ctx, not) })
}
func (s *script) Confirm(_ context.Context, l *lease) (*lease, error) { return s.ask("confirm", l) }
func (s *script) Renew(_ context.Context, l *lease) (*lease, error)   { return s.ask("renew", l) }
func (s *script) Rebind(_ context.Context, l *lease) (*lease, error)  { return s.ask("rebind", l) }

func testLease(ttl time.Duration) *lease {
	return &lease{
		addr: netip.MustParsePrefix("10.0.0.9/24"), server: netip.MustParseAddr("10.0.0.1"),
		ttl: ttl, t1: ttl / 2, t2: ttl / 8 * 7,
	}
}

// life runs a client for d of synthetic time; bound lists what was put on the interface.
func life(t *testing.T, d time.Duration, s *script, drive func(carrier *flag)) (bound []string) {
	t.Helper()
	return onTrial(t, d, s, nil, drive, nil)
}

// onTrial is life with control nodes that may be out of reach; adjust, if there is one, gets the
// client before it runs.
func onTrial(t *testing.T, d time.Duration, s *script, reach *flag, drive func(carrier *flag), adjust func(*client)) (bound []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s.start = time.Now()
		carrier := newFlag(true)
		c := &client{
			ask: s, log: slog.New(slog.NewTextHandler(io.Discard, nil)), carrier: carrier,
			bind: func(l *lease) error {
				what := "none"
				if l != nil {
					what = l.addr.Addr().String()
				}
				bound = append(bound, fmt.Sprintf("%s@%s", what, time.Since(s.start)))
				return nil
			},
			trial: trial{reach: reach, first: firstDoubt},
		}
		if adjust != nil {
			adjust(c)
		}
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { c.run(ctx) })
		if drive != nil {
			drive(carrier)
		}
		wg.Wait()
	})
	return bound
}

func TestClientRenews(t *testing.T) {
	s := &script{answer: func(string, *lease) (*lease, error) { return testLease(80 * time.Second), nil }}
	bound := life(t, 130*time.Second, s, nil)
	if want := []string{"discover@0s", "renew@40s", "renew@1m20s", "renew@2m0s"}; !slices.Equal(s.asked, want) {
		t.Errorf("asked %v, want %v", s.asked, want)
	}
	if len(bound) != 4 {
		t.Errorf("bound %v, want one for each lease", bound)
	}
}

func TestClientRebindsThenExpires(t *testing.T) {
	s := &script{answer: func(kind string, _ *lease) (*lease, error) {
		if kind == "discover" {
			return testLease(80 * time.Second), nil
		}
		return nil, errSilence
	}}
	bound := life(t, 81*time.Second, s, nil)
	// T1 40 s; then half of what is left until T2 (70 s), never under 5 s; then the same
	// until the end of the lease.
	want := []string{"discover@0s", "renew@40s", "renew@55s", "renew@1m2.5s", "renew@1m7.5s", "rebind@1m10s", "rebind@1m15s", "discover@1m20s"}
	if !slices.Equal(s.asked, want) {
		t.Errorf("asked %v\nwant  %v", s.asked, want)
	}
	if want := []string{"10.0.0.9@0s", "none@1m20s", "10.0.0.9@1m20s"}; !slices.Equal(bound, want) {
		t.Errorf("bound %v, want %v", bound, want)
	}
}

func TestClientGivesUpOnNak(t *testing.T) {
	s := &script{answer: func(kind string, _ *lease) (*lease, error) {
		if kind == "renew" {
			return nil, errNak
		}
		return testLease(80 * time.Second), nil
	}}
	bound := life(t, 41*time.Second, s, nil)
	if want := []string{"10.0.0.9@0s", "none@40s", "10.0.0.9@40s"}; !slices.Equal(bound, want) {
		t.Errorf("bound %v, want %v", bound, want)
	}
}

func TestClientBacksOff(t *testing.T) {
	s := &script{answer: func(string, *lease) (*lease, error) { return nil, errSilence }}
	life(t, 95*time.Second, s, nil)
	want := []string{"discover@0s", "discover@1s", "discover@3s", "discover@7s", "discover@15s", "discover@31s", "discover@1m1s", "discover@1m31s"}
	if !slices.Equal(s.asked, want) {
		t.Errorf("asked %v\nwant  %v", s.asked, want)
	}
}

func TestClientLinkFlap(t *testing.T) {
	for _, c := range []struct {
		name         string
		confirm      func() (*lease, error)
		down         time.Duration
		asked, bound []string
	}{
		{
			"same network", func() (*lease, error) { return testLease(80 * time.Second), nil }, 5 * time.Second,
			[]string{"discover@0s", "confirm@15s"},
			[]string{"10.0.0.9@0s", "10.0.0.9@15s"},
		},
		{
			"another network", func() (*lease, error) { return nil, errNak }, 5 * time.Second,
			[]string{"discover@0s", "confirm@15s", "discover@15s"},
			[]string{"10.0.0.9@0s", "none@15s", "10.0.0.9@15s"},
		},
		{
			"silence keeps the lease", func() (*lease, error) { return nil, errSilence }, 5 * time.Second,
			[]string{"discover@0s", "confirm@15s"},
			[]string{"10.0.0.9@0s"},
		},
		{
			"longer than the lease", func() (*lease, error) { return nil, errSilence }, 75 * time.Second,
			[]string{"discover@0s", "discover@1m25s"},
			[]string{"10.0.0.9@0s", "none@1m20s", "10.0.0.9@1m25s"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &script{answer: func(kind string, _ *lease) (*lease, error) {
				if kind == "confirm" {
					return c.confirm()
				}
				return testLease(80 * time.Second), nil
			}}
			bound := life(t, 10*time.Second+c.down+time.Second, s, func(carrier *flag) {
				time.Sleep(10 * time.Second)
				carrier.set(false)
				time.Sleep(c.down)
				carrier.set(true)
			})
			if !slices.Equal(s.asked, c.asked) {
				t.Errorf("asked %v, want %v", s.asked, c.asked)
			}
			if !slices.Equal(bound, c.bound) {
				t.Errorf("bound %v, want %v", bound, c.bound)
			}
		})
	}
}

func TestClientInfiniteLease(t *testing.T) {
	l := testLease(forever)
	l.t1, l.t2 = forever, forever
	s := &script{answer: func(string, *lease) (*lease, error) { return l, nil }}
	life(t, 10000*time.Hour, s, nil)
	if want := []string{"discover@0s"}; !slices.Equal(s.asked, want) {
		t.Errorf("asked %v, want %v", s.asked, want)
	}
}

func TestClientCannotBind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{start: time.Now(), answer: func(string, *lease) (*lease, error) { return testLease(time.Hour), nil }}
		c := &client{
			ask: s, log: slog.New(slog.NewTextHandler(io.Discard, nil)), carrier: newFlag(true),
			bind: func(*lease) error { return errors.New("no") },
		}
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		c.run(ctx)
		if want := []string{"discover@0s", "discover@1s", "discover@3s", "discover@7s"}; !slices.Equal(s.asked, want) {
			t.Errorf("asked %v, want %v", s.asked, want)
		}
	})
}

// A lease by which no control node is reached is on trial: other servers are asked, more and
// more seldom, and it stays while none of them answers.
func TestClientDoubts(t *testing.T) {
	liar := func() *lease {
		l := testLease(80 * time.Second)
		l.addr, l.server = netip.MustParsePrefix("192.168.1.50/24"), netip.MustParseAddr("192.168.1.1")
		return l
	}
	for _, tt := range []struct {
		name         string
		other        func() (*lease, error)
		reachedAt    time.Duration // 0: never
		reachedBy    string        // the address that control nodes are reached by
		asked, bound []string
	}{
		{
			"reached at once", func() (*lease, error) { return testLease(80 * time.Second), nil }, 4 * time.Second, "",
			[]string{"discover@0s", "renew@40s", "renew@1m20s"},
			[]string{"192.168.1.50@0s", "192.168.1.50@40s", "192.168.1.50@1m20s"},
		},
		{
			"nobody else answers", func() (*lease, error) { return nil, errSilence }, 0, "",
			[]string{"discover@0s", "other@5s", "other@15s", "other@35s", "renew@40s", "other@1m15s", "renew@1m20s"},
			[]string{"192.168.1.50@0s", "192.168.1.50@40s", "192.168.1.50@1m20s"},
		},
		{
			"the control nodes come back", func() (*lease, error) { return nil, errSilence }, 16 * time.Second, "",
			[]string{"discover@0s", "other@5s", "other@15s", "renew@40s", "renew@1m20s"},
			[]string{"192.168.1.50@0s", "192.168.1.50@40s", "192.168.1.50@1m20s"},
		},
		{
			"another server answers", func() (*lease, error) { return testLease(80 * time.Second), nil }, 0, "10.0.0.9",
			[]string{"discover@0s", "other@5s", "renew@45s", "renew@1m25s"},
			[]string{"192.168.1.50@0s", "10.0.0.9@5s", "10.0.0.9@45s", "10.0.0.9@1m25s"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reach := newFlag(false)
			s := &script{}
			s.answer = func(kind string, old *lease) (*lease, error) {
				switch kind {
				case "discover":
					return liar(), nil
				case "other":
					l, err := tt.other()
					if l != nil && l.addr.Addr().String() == tt.reachedBy {
						time.AfterFunc(time.Second, func() { reach.set(true) }) // once it is bound
					}
					return l, err
				}
				return old, nil
			}
			bound := onTrial(t, 90*time.Second, s, reach, func(*flag) {
				if tt.reachedAt > 0 {
					time.Sleep(tt.reachedAt)
					reach.set(true)
				}
			}, nil)
			if !slices.Equal(s.asked, tt.asked) {
				t.Errorf("asked %v\nwant  %v", s.asked, tt.asked)
			}
			if !slices.Equal(bound, tt.bound) {
				t.Errorf("bound %v\nwant  %v", bound, tt.bound)
			}
		})
	}
}
