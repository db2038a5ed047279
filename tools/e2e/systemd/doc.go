// Package systemd makes a machine with Debian's own kernel and systemd, and its test (build tag
// cluster) has it join a cluster of an appliance's.
//
// It owns the root file system of that machine: debootstrap makes it, once for each list of
// packages and kernel, into a cache. What is tested is put on a disk of its own.
package systemd
