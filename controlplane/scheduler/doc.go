// Package scheduler decides which node runs which slice.
//
// It owns one pure function, Place, and State, the in-memory index that Place reads. It
// promises: the same State and groups give the same answer; a group (a region) is placed
// whole or not at all; no node, herd quota or constraint is ever exceeded; and where a
// group is not placed, every slice of it has a reason for each node that was considered.
// On clusters of up to exhaustiveNodes nodes a group that fits is found unless the search
// needs more than searchBudget steps; beyond that the search looks at the least loaded
// nodes first and then, once, at all of them.
//
// Groups are placed in the order given, each on what the earlier ones left.
//
// # Scoring
//
// Load spreads: among the nodes where a slice fits, it goes to the one whose dominant
// share (the greatest of cpu, memory and disk, as a fraction of the node's capacity) is
// the least after placing it; among equals to the one with fewer slices of the same run,
// and then to the first by name. Slices that must share a node are placed as one unit, and
// greater units before lesser ones, as in first-fit decreasing.
//
// It reads no clock, does no I/O and uses no randomness or map order. It never decides
// what is lost, drained or done: the caller says so in State.
package scheduler
