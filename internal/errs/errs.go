// Package errs is the one error type that crosses a process boundary of Runink.
//
// An error says what was being done (Op), to what (Field or Place), why it failed (Err),
// of which Kind it is, and what the operator can do about it (Hint). Kind survives the
// wire: the API server maps it to a gRPC status and back. The package does no I/O and
// keeps no state; values are immutable once returned and safe to share.
package errs

import (
	"errors"
	"fmt"
	"strings"
)

// Kind classifies an error by what the caller can do about it.
type Kind uint8

// The kinds. Their order is not significant on the wire; their names (String) are.
const (
	Internal        Kind = iota // a defect or an unexpected state; report it
	Invalid                     // the request is wrong; change it
	NotFound                    // what it names does not exist
	Exists                      // it exists already, with other content
	Conflict                    // a precondition (revision, epoch, state) does not hold; read again
	Unauthenticated             // who are you
	Denied                      // not allowed for you
	Exhausted                   // quota, disk or another limit is reached
	Unavailable                 // try again, elsewhere or later
	Timeout                     // not finished in time; may have happened
	Corrupt                     // data does not match its digest or checksum
	Unimplemented               // not built, see the README's table
	Fenced                      // an older epoch or boot; stop for good
)

var kindNames = [...]string{
	"internal", "invalid", "not_found", "exists", "conflict", "unauthenticated",
	"denied", "exhausted", "unavailable", "timeout", "corrupt", "unimplemented", "fenced",
}

// String returns the wire name of the kind.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// ParseKind is the inverse of String; an unknown name is Internal and false.
func ParseKind(s string) (Kind, bool) {
	for i, n := range kindNames {
		if n == s {
			return Kind(i), true
		}
	}
	return Internal, false
}

// Error makes a Kind usable as a sentinel: errors.Is(err, errs.NotFound).
func (k Kind) Error() string { return k.String() }

// Error is an error with its context. Make one with E or Wrap.
type Error struct {
	Kind  Kind
	Op    string // what was being done, "submit run"
	Field string // field path, flag or name the error is about; may be empty
	Place string // file:line:col, for input that has one
	Hint  string // the next step, a sentence; may be empty
	Err   error  // why
}

// E makes an error of a kind; format and args say why, with %w allowed.
func E(kind Kind, op, format string, args ...any) *Error {
	return &Error{Kind: kind, Op: op, Err: fmt.Errorf(format, args...)}
}

// Wrap adds an operation to err and keeps its kind. Wrap(op, nil) is nil.
func Wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: KindOf(err), Op: op, Err: err}
}

// WithField returns a copy that names the field, flag or object the error is about.
func (e *Error) WithField(f string) *Error { c := *e; c.Field = f; return &c }

// WithHint returns a copy that tells the next step.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// At returns a copy that names a place in an input file.
func (e *Error) At(place string) *Error { c := *e; c.Place = place; return &c }

// Error reads "place: op: field: why". The hint is not part of it: see HintOf.
func (e *Error) Error() string {
	var b strings.Builder
	for _, p := range []string{e.Place, e.Op, e.Field} {
		if p != "" {
			b.WriteString(p)
			b.WriteString(": ")
		}
	}
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	} else {
		b.WriteString(e.Kind.String())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is this error's kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// KindOf returns the kind of the outermost Error or bare Kind in err's chain, Internal
// for others.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	if k, ok := errors.AsType[Kind](err); ok {
		return k
	}
	return Internal
}

// HintOf returns the outermost hint in err's chain.
func HintOf(err error) string {
	for err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
