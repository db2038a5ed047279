// Package pki is who is who in a cluster: keys, certificates and how they are verified.
//
// Three authorities exist. The operator's root is made and kept on the operator's machine;
// it signs operators and one intermediate. The intermediate's key was made by the first
// control node; it signs nodes, on control nodes only. The slice authority stands apart
// from both: it signs slices, whose certificates authenticate edges and nothing else.
//
// It promises that an Identity comes only from a chain that ends in the given root, in the
// shape that kind of identity is issued in: an operator signed by the root itself, a node
// by an intermediate. Dates are judged separately (ErrExpired, ErrNotYetValid), because a
// machine with a wrong clock and a node that was off for a weekend are both let in by
// callers who know what they do.
//
// Names are URIs in the certificate (runink://node/n1), not hosts: addresses move, and who
// answers at one proves nothing. Keys are ECDSA P-256; a key's fingerprint is
// "sha256:" and the hexadecimal SHA-256 of its SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).
//
// The package reads no clock (callers pass the time), and no file but those named by the
// caller. It keeps no state; all values are safe for concurrent use once made.
package pki
