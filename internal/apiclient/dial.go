package apiclient

import (
	"strings"
	"time"

	"google.golang.org/grpc/backoff"
)

// backoffConfig is for one connection that could not be made. The client as a whole goes
// on to another address long before.
func backoffConfig() backoff.Config {
	return backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second}
}

// badPeer reports whether a connection failed because the other side is not who it should
// be. gRPC has only text for it. Trying again would meet the same peer.
func badPeer(msg string) bool {
	if strings.Contains(msg, "remote error: tls: ") {
		return true // it turned our certificate away
	}
	return strings.Contains(msg, "authentication handshake failed") &&
		(strings.Contains(msg, "check pin") || strings.Contains(msg, "verify "))
}
