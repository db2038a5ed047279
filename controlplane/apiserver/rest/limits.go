package rest

import (
	"log/slog"
	"net/http"
	"time"
)

// Limits bound what one client, or all of them, may take. Times are before the time scale.
type Limits struct {
	Header      time.Duration // for a request's headers, from the first byte
	HeaderBytes int           // of all headers of a request
	Idle        time.Duration // of a connection between requests

	// A body has Grace, and then a second more for each Rate bytes that have arrived.
	Grace time.Duration
	Rate  int64
	JSON  int64 // bytes of a JSON body
	Piece int64 // bytes of an upload's body; a larger file is sent in pieces

	Write    time.Duration // for the client to take one write of an answer
	Call     time.Duration // for a call that is no stream
	Requests int           // at once

	// Connections at once, of which one address (with IPv6 one /64) has a quarter. The
	// listener holds it, because one more must not wait there. A connection of HTTP/1.1 asks
	// one thing at a time: no address has more than half of Requests.
	Connections int
}

// DefaultLimits are those of a control node. A JSON body is as large as what Barn takes in
// one entry; the slowest link thought of is a mobile one of 64 kbit/s.
func DefaultLimits() Limits {
	return Limits{
		Header: 10 * time.Second, HeaderBytes: 32 << 10, Idle: 2 * time.Minute,
		Grace: 20 * time.Second, Rate: 8 << 10, JSON: 1 << 20, Piece: 64 << 20,
		Write: 30 * time.Second, Call: 30 * time.Second, Requests: 512, Connections: 1024,
	}
}

// Scaled is l with every time multiplied.
func (l Limits) Scaled(scaled func(time.Duration) time.Duration) Limits {
	for _, d := range []*time.Duration{&l.Header, &l.Idle, &l.Grace, &l.Write, &l.Call} {
		*d = scaled(*d)
	}
	return l
}

// NewServer makes the HTTP server for connections whose TLS handshake is done. Its limits
// are those of headers and idle connections; a Gateway holds the others itself.
func NewServer(h http.Handler, l Limits, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: l.Header, MaxHeaderBytes: l.HeaderBytes, IdleTimeout: l.Idle,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}
