// Package netboot has no code of its own: its tests (build tag cluster) boot machines from the
// network, by the ROM of a card and by UEFI's own PXE, to a Ready worker.
//
// `runink netboot` runs as it would on an ordinary host: in a network namespace of its own,
// with an interface that is a port of the machines' switch. The switch's own DHCP server gives
// the addresses. All tests share one control node, which boots machines itself, too, with its own
// image: which of the two services a machine hears is a filter at its port of the switch.
package netboot
