package netd

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// fakeClock is a clock that stands still until it is moved.
type fakeClock struct {
	mu      sync.Mutex
	now     time.Time
	steps   []time.Time
	slewed  time.Duration
	onNow   time.Duration // added at each reading
	failSet error
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(c.onNow)
	return c.now
}

func (c *fakeClock) Step(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
	c.steps = append(c.steps, t)
	return c.failSet
}

func (c *fakeClock) Slew(d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slewed += d
	return nil
}

func putNTP(b []byte, t time.Time) {
	binary.BigEndian.PutUint32(b, uint32(t.Unix()+2208988800))
	binary.BigEndian.PutUint32(b[4:], uint32(uint64(t.Nanosecond())<<32/1e9))
}

// ntpServer answers on a loopback port as told by answer, which may change the packet.
func ntpServer(t *testing.T, at time.Time, answer func(p []byte)) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { conn.Close(); wg.Wait() })
	wg.Go(func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if n != ntpSize || buf[0]&7 != 3 {
				continue
			}
			p := make([]byte, ntpSize)
			p[0], p[1] = 4<<3|4, 2
			copy(p[24:32], buf[40:48])
			putNTP(p[32:], at)
			putNTP(p[40:], at)
			if answer != nil {
				answer(p)
			}
			if _, err := conn.WriteTo(p, from); err != nil {
				return
			}
		}
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestAskNTP(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		server time.Time
		answer func([]byte)
		offset time.Duration
		fails  bool
	}{
		{"ahead", now.Add(time.Hour), nil, time.Hour, false},
		{"behind", now.Add(-90 * time.Second), nil, -90 * time.Second, false},
		{"after 2036", time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC), nil, time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC).Sub(now), false},
		{"stranger", now, func(p []byte) { p[24] ^= 1 }, 0, true},
		{"kiss of death", now, func(p []byte) { p[1] = 0 }, 0, true},
		{"unsynchronized", now, func(p []byte) { p[0] |= 3 << 6 }, 0, true},
		{"a client's packet", now, func(p []byte) { p[0] = 4<<3 | 3 }, 0, true},
		{"no time", now, func(p []byte) { clear(p[32:48]) }, 0, true},
		{"sent before it was received", now, func(p []byte) { putNTP(p[40:], now.Add(-time.Second)) }, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr := ntpServer(t, c.server, c.answer)
			got, err := askNTP(t.Context(), addr, &fakeClock{now: now})
			if (err != nil) != c.fails {
				t.Fatalf("error %v", err)
			}
			if (got - c.offset).Abs() > time.Microsecond {
				t.Errorf("offset %v, want %v", got, c.offset)
			}
		})
	}
	t.Run("far away", func(t *testing.T) {
		addr := ntpServer(t, now, nil)
		if _, err := askNTP(t.Context(), addr, &fakeClock{now: now, onNow: 3 * time.Second}); err == nil {
			t.Error("an answer that took three seconds was believed")
		}
	})
	t.Run("silence", func(t *testing.T) {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := askNTP(ctx, conn.LocalAddr().(*net.UDPAddr).AddrPort(), &fakeClock{now: now}); err == nil {
			t.Error("no error")
		}
	})
}

func TestCorrect(t *testing.T) {
	for _, c := range []struct {
		name    string
		offset  time.Duration
		cert    bool
		stepped bool
		slewed  time.Duration
	}{
		{name: "near", offset: 100 * time.Millisecond, slewed: 100 * time.Millisecond},
		{name: "near and ahead, with a certificate", offset: -100 * time.Millisecond, cert: true, slewed: -100 * time.Millisecond},
		{name: "forward", offset: time.Hour, stepped: true},
		{name: "forward, with a certificate", offset: time.Hour, cert: true, stepped: true},
		{name: "back", offset: -time.Hour, stepped: true},
		{name: "back, with a certificate", offset: -time.Hour, cert: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := &fakeClock{now: time.Unix(1e9, 0)}
			cert := filepath.Join(t.TempDir(), "cert.pem")
			if c.cert {
				if err := os.WriteFile(cert, []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			d := &daemon{Options: Options{Clock: clock, CertFile: cert, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}}
			if err := d.correct(c.offset); err != nil {
				t.Fatal(err)
			}
			if (len(clock.steps) == 1) != c.stepped || clock.slewed != c.slewed {
				t.Errorf("steps %v, slewed %v", clock.steps, clock.slewed)
			}
			if c.stepped && !clock.now.Equal(time.Unix(1e9, 0).Add(c.offset)) {
				t.Errorf("clock at %v", clock.now)
			}
		})
	}
	t.Run("cannot tell whether there is a certificate", func(t *testing.T) {
		clock := &fakeClock{now: time.Unix(1e9, 0)}
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		d := &daemon{Options: Options{Clock: clock, CertFile: file + "/cert.pem", Log: slog.New(slog.NewTextHandler(io.Discard, nil))}}
		if err := d.correct(-time.Hour); err == nil || len(clock.steps) != 0 || errors.Is(err, os.ErrNotExist) {
			t.Errorf("err %v, steps %v", err, clock.steps)
		}
	})
}

func FuzzNTP(f *testing.F) {
	nonce := []byte("12345678")
	p := make([]byte, ntpSize)
	p[0], p[1] = 4<<3|4, 2
	copy(p[24:], nonce)
	putNTP(p[32:], time.Unix(1e9, 0))
	putNTP(p[40:], time.Unix(1e9, 0))
	f.Add(p)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		now := time.Unix(1e9, 0)
		if _, err := readNTP(b, nonce, now, now.Add(time.Millisecond)); err == nil && (len(b) < ntpSize || string(b[24:32]) != string(nonce)) {
			t.Fatal("believed a stranger")
		}
	})
}
