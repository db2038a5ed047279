package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"

	"github.com/runink/runink/controlplane/apiserver/rest"
	"github.com/runink/runink/internal/errs"
)

// plainHTTP tells whether what stands where a TLS record begins is the beginning of a request
// in HTTP without TLS.
func plainHTTP(header [5]byte) bool {
	method, _, _ := strings.Cut(string(header[:]), " ")
	for _, m := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		if method == m[:min(len(m), len(header))] {
			return true
		}
	}
	return false
}

// answerPlainHTTP tells a client that speaks HTTP without TLS what to do, as well as that
// client takes it: nothing is decided by whether it was read.
func answerPlainHTTP(ctx context.Context, conn net.Conn) error {
	const op = "answer HTTP without TLS"
	body, err := json.Marshal(rest.Error{
		Kind: errs.Invalid.String(), Message: "this port speaks TLS, and the request came without",
		Hint: "begin the address with https://, and give curl the cluster's root: --cacert root.crt",
	})
	if err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetWriteDeadline(deadline); err != nil {
			return errs.E(errs.Unavailable, op, "%w", err)
		}
	}
	_, err = fmt.Fprintf(conn, "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n", len(body)+1, body)
	return err
}
