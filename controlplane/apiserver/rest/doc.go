// Package rest is the HTTP/1.1 side of the API: every RPC that is a client's, as resources
// below /v1/, with JSON.
//
// It promises:
//   - A request becomes the RPC that api/runink/v1/rest.yaml names and goes to the gRPC
//     server over a connection in memory, so that everything a gRPC call passes (package
//     apiserver) is passed here too. It decides nothing about who may do what.
//   - The caller is the one whose certificate the TLS connection carried, or whose API key
//     came with the request. The certificate travels in metadata (CertificateKey) that this
//     package alone writes: no header of a request becomes metadata but Authorization.
//   - Streams are newline-delimited JSON, server-sent events or plain bytes, as the client's
//     Accept says. A stream that fails after it began says so in its last line, or, being
//     plain bytes, is cut so that the client sees it is not whole.
//   - Errors are JSON with kind, message, field, place and hint. A control node that does not
//     lead forwards calls, and redirects streams to the one that does.
//   - No client can hold what others need: headers, bodies and the reading of answers have
//     to arrive at a pace, and their sizes and numbers are bounded (Limits). A body that is
//     too large is refused before it is read.
//
// It keeps no state and never calls a handler of a service itself.
package rest
