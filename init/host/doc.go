// Package host is what makes an ordinary Linux host under systemd a node, and does there what
// PID 1 does on an appliance.
//
// It owns the units (keeper, agent, watchdog and the slice they live in), their installation
// and removal, the list of what such a host cannot enforce, and the watchdog: it kills slices
// whose keeper died or whose lease ran out, and reboots the machine when they outlive that by
// K. It promises that
//
//   - a host that cannot keep a node's promises is refused before anything of it is changed,
//     and what it keeps only in part is said for as long as it is so;
//   - Install and Remove may be repeated, and say what they did;
//   - the watchdog needs nothing but its own process and the kernel: keeper and agent may be
//     stopped, hung or dead, and disks gone.
//
// It configures no network and no clock, loads no module and arms no hardware watchdog: those
// are the host's own services'. It never starts or judges a slice.
package host
