// Package apiserver is the only door to the control plane: it authenticates who calls,
// authorizes by one table, validates, and hands over to the owner of the state.
//
// It promises, for every RPC, in this order:
//   - The caller is who its certificate or API key says, judged on this connection and, for
//     nodes and keys, by their records in Barn. A certificate that is neither good nor the
//     expired one of a known node ends the handshake.
//   - What the leader must answer, the leader authorizes: a follower forwards the original
//     RPC with the caller's identity, and identity that arrives in metadata is believed
//     from control nodes only.
//   - The role may call the RPC (policy.go), and a herd's key stays in its herd.
//   - The request holds its constraints. Only then does a handler see it.
//   - Over HTTP (package rest) an RPC passes the same way, as its caller's.
//   - A panic ends one RPC and nothing else. Every error carries kind, field and hint.
//
// Services whose state belongs to other packages join through an Extension. The package
// also runs what a control node does besides answering: it founds the cluster when its
// operator says so, issues certificates, and keeps the Raft group equal to the admitted
// control nodes.
//
// It never decides where something runs and keeps no state of its own: all of it is in Barn
// or in the node's folder.
package apiserver
