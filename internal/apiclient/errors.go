package apiclient

import (
	"context"
	"errors"
	"path"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	runinkv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
)

// code is the gRPC code of a kind. Kinds that share a code are told apart by the detail.
func code(k errs.Kind) codes.Code {
	switch k {
	case errs.Invalid:
		return codes.InvalidArgument
	case errs.NotFound:
		return codes.NotFound
	case errs.Exists:
		return codes.AlreadyExists
	case errs.Conflict:
		return codes.FailedPrecondition
	case errs.Unauthenticated:
		return codes.Unauthenticated
	case errs.Denied:
		return codes.PermissionDenied
	case errs.Exhausted:
		return codes.ResourceExhausted
	case errs.Unavailable:
		return codes.Unavailable
	case errs.Timeout:
		return codes.DeadlineExceeded
	case errs.Corrupt:
		return codes.DataLoss
	case errs.Unimplemented:
		return codes.Unimplemented
	case errs.Fenced:
		return codes.Aborted
	}
	return codes.Internal
}

// kind is the inverse of code, for statuses without our detail.
func kind(c codes.Code) errs.Kind {
	for k := errs.Internal; k <= errs.Fenced; k++ {
		if code(k) == c {
			return k
		}
	}
	if c == codes.Canceled {
		return errs.Timeout
	}
	return errs.Internal
}

// Status is the gRPC status of err: its kind, message, field, place and hint, and, if
// given, who leads. A nil err is nil; an error that is a status already stays as it is.
func Status(err error, leader *runinkv1.LeaderHint) error {
	if err == nil {
		return nil
	}
	var e *errs.Error
	if !errors.As(err, &e) {
		switch {
		case errors.Is(err, context.Canceled):
			return status.FromContextError(context.Canceled).Err()
		case errors.Is(err, context.DeadlineExceeded):
			return status.FromContextError(context.DeadlineExceeded).Err()
		}
		if _, ok := status.FromError(err); ok {
			return err
		}
	}
	k := errs.KindOf(err)
	d := &runinkv1.ErrorDetail{Kind: k.String(), Hint: errs.HintOf(err)}
	if e != nil {
		d.Field, d.Place = e.Field, e.Place
	}
	st := status.New(code(k), err.Error())
	full, derr := st.WithDetails(d)
	if leader != nil && derr == nil {
		full, derr = full.WithDetails(leader)
	}
	if derr != nil { // only a message that cannot be encoded; the code is still right
		return st.Err()
	}
	return full.Err()
}

// remote is what the other side said, without gRPC's own words around it. It remains a
// status for those who ask (status.FromError).
type remote struct {
	st  *status.Status
	why string
}

func (r remote) Error() string              { return r.why }
func (r remote) GRPCStatus() *status.Status { return r.st }

// split takes place, operation and field out of a message of Status, so that they are not
// said twice.
func split(st *status.Status, place, field string) (op string, why error) {
	msg := st.Message()
	if place != "" {
		msg = strings.TrimPrefix(msg, place+": ")
	}
	if field != "" {
		if before, after, ok := strings.Cut(msg, ": "+field+": "); ok { // "delete herd" ends with a field's name
			return before, remote{st, after}
		}
		if after, ok := strings.CutPrefix(msg, field+": "); ok {
			return "", remote{st, after}
		}
	}
	return "", remote{st, msg}
}

// FromStatus is the error that the other side meant: an errs.Error with its kind, field,
// place and hint. Op is the method that was called.
func FromStatus(method string, err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &errs.Error{Kind: kind(st.Code()), Err: remote{st, st.Message()}}
	for _, d := range st.Details() {
		if d, ok := d.(*runinkv1.ErrorDetail); ok {
			if k, ok := errs.ParseKind(d.GetKind()); ok {
				e.Kind = k
			}
			e.Field, e.Place, e.Hint = d.GetField(), d.GetPlace(), d.GetHint()
			e.Op, e.Err = split(st, e.Place, e.Field)
			return e
		}
	}
	e.Op = path.Base(method)
	said := unquoted(st.Message())
	if e.Kind == errs.Unavailable && badPeer(said) {
		// gRPC calls a handshake that failed for a certificate unavailable.
		_, why, ok := strings.Cut(said, "authentication handshake failed: ")
		if !ok {
			why = "the other side does not accept our certificate: " + said
		}
		e.Kind, e.Err = errs.Unauthenticated, remote{st, why}
		e.Hint = "nothing was sent; compare the pins with what `runink cluster init` printed and the node's console shows"
		return e
	}
	if e.Kind == errs.Unavailable {
		e.Err = remote{st, said}
		e.Hint = "is a control node up, and is this its address? `runink cluster status` asks all known ones"
	}
	return e
}

// unquoted is a message of gRPC's without the quotation it puts around why there is no
// connection. Its own words before that ("connection error: desc = ") tell a user nothing.
func unquoted(msg string) string {
	before, quoted, ok := strings.Cut(msg, "connection error: desc = ")
	if !ok {
		return msg
	}
	prefix, err := strconv.QuotedPrefix(quoted)
	if err != nil {
		return msg
	}
	why, err := strconv.Unquote(prefix)
	if err != nil {
		return msg
	}
	why = strings.TrimPrefix(strings.TrimPrefix(why, "transport: "), "Error while dialing: ")
	return before + why + quoted[len(prefix):]
}

// leaderOf returns who leads, if the error says so.
func leaderOf(err error) *runinkv1.LeaderHint {
	st, ok := status.FromError(err)
	if !ok {
		return nil
	}
	for _, d := range st.Details() {
		if d, ok := d.(*runinkv1.LeaderHint); ok {
			return d
		}
	}
	return nil
}
