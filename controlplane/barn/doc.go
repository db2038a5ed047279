// Package barn is the replicated store of the control plane: an ordered map of keys to
// values, changed only by commands that a majority of the control nodes have on disk.
//
// It owns the Raft group, its log, the in-memory map, the tables on disk, watches,
// snapshots, membership, request ids and the audit log. It runs the command handlers that
// owners of state register in a Registry, and interprets none of them.
//
// It promises:
//   - A write that was answered survives the loss of any minority of disks, and of any
//     number of processes. It is applied once, whatever the caller retried: (principal,
//     request id) remembers its answer.
//   - A linearizable read sees every write that was answered before the read began. A
//     stale read says so in its type, and sees some earlier state of one replica, whole.
//   - A command and its audit record are one log entry; a rejected command changes
//     nothing, and is recorded too.
//   - A failed fsync ends the process (Config.Fatal) before anything that depended on it
//     is answered; a hung one costs this replica the leadership.
//
// It never reads a clock, a random number or the network while applying a command, never
// interprets a key outside its own (below /audit/ and \x00), and never answers from memory
// that a new leader may already have overtaken.
//
// # How a write travels
//
// Propose encodes the command and gives it to Raft; the log (raft-wal, one fsync an append)
// stores it on a majority; every replica applies it to its map and the leader answers. The
// tables (one bbolt file) are written about every 500 ms with many entries at once,
// together with the index of the last one. A crash loses the unwritten tail of the tables
// and nothing else: at start the map is read from the tables and Raft replays the rest of
// the log, of which entries at or below the tables' index are skipped. For that to work
// the log must never be truncated above the tables' index: FSM.Snapshot, which precedes
// every truncation, writes the tables first.
//
// Writing the tables in Apply was rejected: it costs two more fsyncs for each write (bbolt
// syncs data and meta page), 0.47 ms against 0.15 ms on the build machine.
//
// # Handlers
//
// A handler is a deterministic function of the map, the command's payload and its Meta. A
// command's time and every id in it are chosen by the proposer. Handlers of one kind and
// version never change their meaning once released: a changed meaning is a new version.
package barn
