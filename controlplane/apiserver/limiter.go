package apiserver

import (
	"sync"
	"time"
)

// limiter is a token bucket for what anybody may cause and everybody has to store.
type limiter struct {
	rate  float64 // tokens a second
	burst float64

	mu   sync.Mutex
	have float64
	last time.Time
}

func newLimiter(rate, burst float64) *limiter {
	return &limiter{rate: rate, burst: burst, have: burst}
}

// allow takes a token, if there is one.
func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.last.IsZero() && now.After(l.last) {
		l.have = min(l.burst, l.have+now.Sub(l.last).Seconds()*l.rate)
	}
	l.last = now
	if l.have < 1 {
		return false
	}
	l.have--
	return true
}
