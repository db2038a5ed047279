// Package runs takes pipelines from submission to their commit.
//
// It owns, in Barn,
//
//	/run/spec/<run>             Spec: what was submitted, never changed
//	/run/state/<run>            State: of the run and its regions
//	/run/slice/<run>/<slice>    SliceState: the slice's present attempt
//	/run/live/<run>             exists until the run is final
//	/run/newest/<key>           index by submission, newest first
//	/placed/<node>/<run>/<slice>  Placed: an attempt that may be alive on a node
//	/herdused/<herd>            the sum of the requests of /placed
//	/nodestate/<node>           NodeState: session, health, capacity, drain
//
// and, on the leader only and in memory, the agents' sessions, their leases, and the
// placement loop.
//
// It promises (architecture.md, "Promises"):
//   - Recovery: a region is placed whole, by one entry that the state machine validates
//     again. When one of its slices fails, all others are told to stop, and only when every
//     one is known to be dead does the epoch grow and the region wait for a place again.
//   - One live attempt: a slice is known to be dead when its node's agent reported its
//     exit, when its node came with a new boot id, or when the node was silent for
//     (L+K)(1+ε) on this leader's monotonic clock, counted from the later of the last
//     acknowledged heartbeat and the barrier of this leadership.
//   - Output once: a run succeeds by one entry, CommitRun, that names every region's epoch
//     and the digest of every part.
//   - A submission is one entry. The same request id of the same principal is the same run.
//
// What is on a node is level-triggered: DesiredState is always the whole list, computed
// from Barn. A leader that dies at any point leaves nothing in memory that its successor
// needs; what the successor lacks (leases) it waits out.
//
// It never decides who may do what, and never chooses a node (scheduler does).
package runs
