// Package agent is the node's side of the session with the control plane.
//
// It owns what a node needs to run slices that are not processes: the session to the
// leader, the node's resources and health, the cache of bundles and input blobs, the
// network policy and the WireGuard peers, the staging files of outputs and their upload,
// the slices' channels (package slicechan), their logs on disk, and the metrics endpoint.
//
// It promises:
//   - It may be killed at any time. Slices do not notice; a new agent finds them in the
//     keeper, attaches, and goes on. Every exit, message and log byte is handled at least
//     once and reported once (messages are totals, logs move by splice).
//   - What runs is what the leader's newest DesiredState names, and nothing else: the
//     state is a whole list, never a difference, so a lost message costs nothing.
//   - The keeper's deadline is renewed only by an acknowledged heartbeat and only to
//     t_send + L, where t_send was read before the heartbeat left.
//   - An exit is acknowledged to the keeper only after the leader has recorded it.
//
// It never clones, waits for or kills a process (the keeper does), never decides what
// runs where (the scheduler does), and never interprets a slice's data.
package agent
