package netd

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

// Clock is the machine's clock, as far as netd moves it.
type Clock interface {
	Now() time.Time
	Step(t time.Time) error          // sets it
	Slew(offset time.Duration) error // corrects it slowly; it never runs backwards
}

type machineClock struct{}

func (machineClock) Now() time.Time { return time.Now() }

func (machineClock) Step(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Settimeofday(&tv)
}

func (machineClock) Slew(offset time.Duration) error {
	_, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT, Offset: offset.Microseconds()})
	return err
}

const (
	ntpPort     = 123
	ntpAnswer   = 2 * time.Second
	ntpEvery    = 17 * time.Minute
	ntpRetry    = 30 * time.Second
	slewAtMost  = 400 * time.Millisecond // adjtime(3) corrects 0.5 ms a second
	maxDistance = time.Second            // half of the round trip: worse answers are useless
)

// keepTime sets the clock from the NTP servers that DHCP named, while there are any.
func (d *daemon) keepTime(ctx context.Context) {
	for ctx.Err() == nil {
		servers, changed := d.book.ntp()
		next := time.Duration(0)
		if len(servers) > 0 {
			next = ntpEvery
			if !d.syncOnce(ctx, servers) {
				next = ntpRetry
			}
		}
		if next == 0 {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		t := time.NewTimer(next)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// syncOnce asks the servers in order until one gives a usable answer.
func (d *daemon) syncOnce(ctx context.Context, servers []netip.Addr) bool {
	for _, s := range servers {
		offset, err := askNTP(ctx, netip.AddrPortFrom(s, ntpPort), d.Clock)
		if err != nil {
			d.Log.Warn("no time", "server", s, "err", err)
			continue
		}
		if err := d.correct(offset); err != nil {
			d.Log.Error("clock not corrected", "server", s, "offset", offset, "err", err)
		}
		return true
	}
	return false
}

// correct moves the clock by offset: slowly when it is near; at once forward; at once
// backward only while the node has no certificate, whose validity would be undone.
func (d *daemon) correct(offset time.Duration) error {
	if offset.Abs() <= slewAtMost {
		return d.Clock.Slew(offset)
	}
	if offset < 0 {
		_, err := os.Stat(d.CertFile)
		if err == nil {
			d.Log.Warn("the clock is ahead and stays there: certificates were issued", "offset", offset)
			return nil
		}
		if !os.IsNotExist(err) {
			return err
		}
	}
	d.Log.Info("clock set", "offset", offset)
	return d.Clock.Step(d.Clock.Now().Add(offset))
}

// askNTP asks one server once (SNTP, RFC 4330) and returns how far our clock is behind.
func askNTP(ctx context.Context, server netip.AddrPort, clock Clock) (time.Duration, error) {
	const op = "ask NTP server"
	ctx, cancel := context.WithTimeout(ctx, ntpAnswer)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", server.String())
	if err != nil {
		return 0, errs.E(errs.Unavailable, op, "%w", err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return 0, errs.E(errs.Internal, op, "%w", err)
	}
	// The transmit timestamp is a random number: the server returns it, which tells its
	// answer from a stranger's, and it need not tell the network what we think the time is.
	req := make([]byte, ntpSize)
	req[0] = 4<<3 | 3 // version 4, client
	if _, err := rand.Read(req[40:48]); err != nil {
		return 0, errs.E(errs.Internal, op, "%w", err)
	}
	sent := clock.Now()
	if _, err := conn.Write(req); err != nil {
		return 0, errs.E(errs.Unavailable, op, "%w", err)
	}
	buf := make([]byte, 512)
	n, err := conn.Read(buf)
	if err != nil {
		return 0, errs.E(errs.Unavailable, op, "%w", err)
	}
	return readNTP(buf[:n], req[40:48], sent, clock.Now())
}

const ntpSize = 48

// readNTP checks an answer to a request with the given nonce, and returns how far the
// clock that said sent and received is behind.
func readNTP(b, nonce []byte, sent, received time.Time) (time.Duration, error) {
	const op = "read NTP answer"
	switch {
	case len(b) < ntpSize:
		return 0, errs.E(errs.Invalid, op, "%d bytes are too few", len(b))
	case b[0]&7 != 4:
		return 0, errs.E(errs.Invalid, op, "mode %d is no server's", b[0]&7)
	case string(b[24:32]) != string(nonce):
		return 0, errs.E(errs.Invalid, op, "it answers another request")
	case b[0]>>6 == 3 || b[1] == 0 || b[1] > 15:
		return 0, errs.E(errs.Unavailable, op, "the server itself has no time (stratum %d)", b[1])
	}
	t2, ok2 := ntpTime(b[32:40])
	t3, ok3 := ntpTime(b[40:48])
	trip := received.Sub(sent) - t3.Sub(t2)
	if !ok2 || !ok3 || t3.Before(t2) || trip < 0 || trip/2 > maxDistance {
		return 0, errs.E(errs.Invalid, op, "its times make no sense")
	}
	// RFC 4330, 5: the mean of both directions.
	return t2.Sub(sent)/2 + t3.Sub(received)/2, nil
}

// ntpTime reads a 64-bit NTP timestamp: seconds since 1900 in an era of 136 years, and a
// fraction. Era 0 ends in 2036; a number below its half belongs to era 1.
func ntpTime(b []byte) (time.Time, bool) {
	secs, frac := int64(binary.BigEndian.Uint32(b)), uint64(binary.BigEndian.Uint32(b[4:]))
	if secs == 0 && frac == 0 {
		return time.Time{}, false
	}
	if secs < 1<<31 {
		secs += 1 << 32
	}
	const from1900to1970 = 2208988800
	return time.Unix(secs-from1900to1970, int64(frac*1e9>>32)), true
}
