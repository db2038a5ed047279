// Package command has no code of its own: its tests (build tag cluster) type `make
// qemu-cluster` and `make qemu-down`, as somebody does who tries Runink, and read what they
// print and leave.
//
// Each test brings up a cluster of its own. Nothing in it is measured: it may run beside others.
package command
