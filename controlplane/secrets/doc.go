// Package secrets keeps values that only slices read, and each herd's key pair. It owns, in
// Barn, the keys
//
//	/secrets/<herd>/<path> a sealed value with its version
//	/herdkey/<herd>        a public key, and its private half sealed
//
// It promises: a value is stored sealed (package seal), bound to herd, path and version, so
// that no sealed value can be put in another's place or an older one shown as new. It
// leaves through Open and nothing else, and Open returns it only after the audit record of
// the read is committed. Values are in no log, error, audit record or snapshot in clear.
//
// The herd's key is what slices seal the original bytes of rejected rows to: they have the
// public half only, so that no slice, node or thief of an output can read them. The private
// half opens them through OpenRejected, which is recorded like a read.
//
// It does not decide who may read: the caller of Open has checked that the slice is placed
// on the node that asks.
package secrets
