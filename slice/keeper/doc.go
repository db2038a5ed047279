// Package keeper is the small process that owns the slices of a node, and its client.
//
// It is the only one that clones, waits for and kills slices. It hands out pidfds, keeps the
// log pipes and the slice channels open across agents, remembers every exit until it is
// acknowledged, and holds the deadman: when the deadline on CLOCK_BOOTTIME passes without an
// agent moving it, everything under the herds' cgroup is killed; what is still alive after a
// grace makes the keeper exit with ExitFenced, and PID 1 reboots the machine.
//
// It promises: a launch is idempotent by its id, at most one epoch of a slice runs here, no
// slice starts after the deadline, an exit is reported until it is acknowledged, and a uid
// is given to a second slice only after the first one's cgroup and network are gone.
//
// It never talks to the network, reads no file a slice wrote, and decides nothing about runs.
package keeper
