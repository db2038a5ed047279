// Package media has no code of its own: its tests (build tag cluster) boot machines from the
// media that `bin/runink-image` writes, as their firmware does, to a Ready worker.
//
// All tests share one control node and one other machine, which is another worker in each
// test and is removed from the cluster at its end.
package media
