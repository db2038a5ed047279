// Package qemu runs machines for tests and for trying Runink out: QEMU processes, the
// network between them, their disks and consoles, and the faults done to them.
//
// It owns a userland Ethernet switch (Switch) whose links can be cut, delayed and
// recorded; an uplink to it with DHCP, DNS and connections from the host into guests
// (Uplink); virtual machines (Machine) that can be powered on, cut off, reset and paused;
// and clusters of them (Cluster). Everything that happens carries the time of one clock,
// the harness's (Journal), so that events of two machines can be put in order.
//
// It promises that nothing leaves this machine's loopback, that no root is needed, that
// consoles are always drained, and that Close, or the death of the process, ends every
// QEMU it started. It knows nothing of what runs in a guest, and never sleeps to wait for
// one: callers wait for console lines or connections.
package qemu
