// Package apiclient reaches the control plane: as an operator, with an API key, as a node,
// or as a machine that wants to become one.
//
// It promises: a server is spoken to only after its certificate led to the pinned root and
// named a control node; credentials are sent after that. Errors come as errs.Error with the
// kind, field and hint the server gave. A call that failed because a replica was down, did
// not lead, or lost the leadership is tried again, elsewhere, until its context ends or the
// time for retries is over, always with the request id it began with, so that it takes
// effect once.
//
// The mapping between errs and gRPC statuses is here for both sides.
package apiclient
