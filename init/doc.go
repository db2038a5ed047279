// Package pid1 is the first process of an appliance node.
//
// It owns the machine: mounts, modules, the state disk, the clock, the tree of control
// groups, and the life of the node's other processes, which are the same binary: netd,
// keeper, join, server, agent and, on a control node that boots others, netboot. It promises that
//
//   - a failed phase of the boot stops there, says on the console what failed and what to
//     do, and changes nothing further;
//   - every process that ends is waited for, in one place (reaper.go);
//   - no slice outlives the keeper: when it dies, /herds is killed before it is started
//     again, and if something in it survives, or the keeper says so by its exit code
//     (nodecfg.ExitDeadman), the machine reboots at once;
//   - on a request to end (power button, Ctrl-Alt-Del, a signal from the node's own
//     processes) everything stops in order and within a deadline, the state disk is
//     unmounted, and the machine is off or boots again;
//   - the clock is never behind the image's build time, the last saved time or the node's
//     own certificate.
//
// It parses nothing that came over the network, makes no keys or certificates, and holds
// no state that is not on disk or in the kernel. A panic anywhere in it is caught, printed
// and followed by a reboot.
package pid1
