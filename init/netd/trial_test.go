package netd

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// from is a lease of ttl by the n-th server of a network.
func from(n byte, ttl time.Duration) *lease {
	l := testLease(ttl)
	l.server = netip.AddrFrom4([4]byte{10, 0, n, 1})
	l.addr = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, n, 9}), 24)
	return l
}

// servers answer as many servers as there are leases: the first one is found first, another one
// if it is not passed over, and each renews its own.
func servers(leases ...*lease) *script {
	s := &script{}
	s.answer = func(kind string, old *lease) (*lease, error) {
		if kind == "discover" {
			return leases[0], nil
		}
		return old, nil
	}
	s.other = func(_ context.Context, not []netip.Addr) (*lease, error) {
		for _, l := range leases {
			if !slices.Contains(not, l.server) {
				return l, nil
			}
		}
		return nil, errSilence
	}
	return s
}

// Another server's address that cannot be bound costs nothing: the one that was there is put back
// at once, and that server is not asked again. The next doubt counts from the end of the last.
func TestOtherThatCannotBeBound(t *testing.T) {
	first, second := from(1, 24*time.Hour), from(2, 24*time.Hour)
	for _, tt := range []struct {
		name         string
		putBack      error
		asked, bound []string
	}{
		{
			"it is put back", nil,
			[]string{"discover@0s", "other@5s", "other@30s", "other@1m5s", "other@2m0s"},
			[]string{"10.0.1.9@0s", "10.0.1.9@20s"},
		},
		{
			"nor can that", errors.New("the card is broken"),
			[]string{"discover@0s", "other@5s", "discover@20s", "other@30s", "other@1m5s", "other@2m0s"},
			[]string{"10.0.1.9@0s", "none@20s", "10.0.1.9@20s"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := servers(first, second)
			at := s.other
			s.other = func(ctx context.Context, not []netip.Addr) (*lease, error) {
				time.Sleep(15 * time.Second)
				return at(ctx, not)
			}
			refused, putBack := 0, tt.putBack
			bound := onTrial(t, 2*time.Minute+10*time.Second, s, newFlag(false), nil, func(c *client) {
				bind := c.bind
				c.bind = func(l *lease) error {
					switch {
					case l != nil && l.server == second.server:
						refused++
						return errors.New("the kernel takes no such route")
					case l != nil && refused == 1 && putBack != nil:
						err := putBack
						putBack = nil
						return err
					}
					return bind(l)
				}
			})
			if refused != 1 {
				t.Errorf("the lease that cannot be bound was taken %d times", refused)
			}
			if !slices.Equal(s.asked, tt.asked) {
				t.Errorf("asked %v\nwant  %v", s.asked, tt.asked)
			}
			if !slices.Equal(bound, tt.bound) {
				t.Errorf("bound %v\nwant  %v", bound, tt.bound)
			}
		})
	}
}

// While the control plane is off, a node between two honest servers changes its address once,
// and after that more and more seldom; one that comes back ends it.
func TestTwoHonestServers(t *testing.T) {
	s := servers(from(1, 24*time.Hour), from(2, 24*time.Hour))
	reach := newFlag(false)
	bound := onTrial(t, 12*time.Hour, s, reach, func(*flag) {
		time.Sleep(6 * time.Hour)
		reach.set(true)
	}, nil)
	want := []string{
		"10.0.1.9@0s", "10.0.2.9@5s", "10.0.1.9@5m15s", "10.0.2.9@15m15s", "10.0.1.9@35m15s", "10.0.2.9@1h15m15s",
		"10.0.1.9@2h15m15s", "10.0.2.9@3h15m15s", "10.0.1.9@4h15m15s", "10.0.2.9@5h15m15s",
	}
	if !slices.Equal(bound, want) {
		t.Errorf("bound %v\nwant  %v", bound, want)
	}
}

// A server that was not tried is asked at every doubt, also while two others wait for their turn.
func TestServerThatComesLate(t *testing.T) {
	three := []*lease{from(1, 24*time.Hour), from(2, 24*time.Hour), from(3, 24*time.Hour)}
	s := servers(three...)
	all := s.other
	reach, start := newFlag(false), time.Time{}
	s.other = func(ctx context.Context, not []netip.Addr) (*lease, error) {
		if start.IsZero() {
			start = time.Now()
		}
		if time.Since(start) < 2*time.Minute {
			not = append(not, three[2].server)
		}
		l, err := all(ctx, not)
		if l == three[2] {
			time.AfterFunc(time.Second, func() { reach.set(true) }) // once it is bound
		}
		return l, err
	}
	bound := onTrial(t, 12*time.Hour, s, reach, nil, nil)
	if want := []string{"10.0.1.9@0s", "10.0.2.9@5s", "10.0.3.9@2m35s"}; !slices.Equal(bound, want) {
		t.Errorf("bound %v\nwant  %v", bound, want)
	}
}

// Doubts take nothing from the renewal of a lease, however short it is and slow the machine.
func TestDoubtsLetRenew(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ttl   time.Duration
		scale time.Duration
	}{
		{"10 s", 10 * time.Second, 1},
		{"20 s", 20 * time.Second, 1},
		{"10 s on a slow machine", 10 * time.Second, 20},
		{"20 s on a slow machine", 20 * time.Second, 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := servers(from(1, tt.ttl))
			s.other = func(ctx context.Context, _ []netip.Addr) (*lease, error) {
				wait(ctx, tt.scale*15*time.Second, nil)
				return nil, errors.Join(errSilence, ctx.Err())
			}
			const life = time.Hour + time.Second
			bound := onTrial(t, life, s, newFlag(false), nil, func(c *client) { c.first = tt.scale * firstDoubt })
			if slices.ContainsFunc(bound, func(b string) bool { return strings.HasPrefix(b, "none") }) {
				t.Errorf("the address was given up: %v", bound)
			}
			if want := 1 + int(life/(tt.ttl/2)); len(bound) != want {
				t.Errorf("bound %d times in %s, want at each half of the lease: %d", len(bound), life, want)
			}
			doubts := 0
			for _, a := range s.asked {
				if strings.HasPrefix(a, "other") {
					doubts++
				}
			}
			if doubts < 3 {
				t.Errorf("%d doubts: %v", doubts, s.asked)
			}
		})
	}
}

// A server that is silent about its own lease does not keep the doubts waiting.
func TestDoubtsBetweenRenewals(t *testing.T) {
	s := servers(from(1, 2*time.Hour))
	s.answer = func(kind string, _ *lease) (*lease, error) {
		if kind == "discover" {
			return from(1, 2*time.Hour), nil
		}
		return nil, errSilence
	}
	onTrial(t, 84*time.Minute, s, newFlag(false), nil, nil)
	first := slices.Index(s.asked, "renew@1h0m0s")
	second := slices.Index(s.asked, "renew@1h22m30s")
	if first < 0 || second < 0 || second-first < 4 {
		t.Errorf("asked %v, want doubts between the renewals at 1 h and 1 h 22.5 min", s.asked)
	}
}

// A control node that is reached while another server is asked proves the lease that there is.
func TestReachedDuringDoubt(t *testing.T) {
	s := servers(from(1, 24*time.Hour), from(2, 24*time.Hour))
	at := s.other
	s.other = func(ctx context.Context, not []netip.Addr) (*lease, error) {
		time.Sleep(10 * time.Second)
		return at(ctx, not)
	}
	reach := newFlag(false)
	bound := onTrial(t, time.Hour, s, reach, func(*flag) {
		time.Sleep(7 * time.Second)
		reach.set(true)
	}, nil)
	if want := []string{"10.0.1.9@0s"}; !slices.Equal(bound, want) {
		t.Errorf("bound %v, want %v", bound, want)
	}
	if want := []string{"discover@0s", "other@5s"}; !slices.Equal(s.asked, want) {
		t.Errorf("asked %v, want %v", s.asked, want)
	}
}

// Who names a new server each time fills no memory.
func TestTriedIsBounded(t *testing.T) {
	var tr trial
	for i := range 10 * maxTried {
		tr.passOver(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), time.Time{})
		if n := len(tr.passedOver()); n == 0 || n > maxTried {
			t.Fatalf("%d servers are remembered after %d", n, i+1)
		}
	}
}
