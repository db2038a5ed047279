// Package netboot boots machines from the network: it answers beside the network's own DHCP
// server (proxy-DHCP, PXE 2.1), hands out iPXE over TFTP, and serves iPXE a script, a kernel
// and an initramfs over HTTP.
//
// It owns those protocols and the bytes it serves. It promises:
//
//   - It hands out no addresses, and answers no machine that does not ask to be booted.
//   - What it serves under a digest has that digest. An image is read once, checked, and kept
//     in memory: a build that replaces the files gets new names, and who began with the old
//     ones finishes with them.
//   - A client that stops half-way, asks for what is not there or sends nonsense costs a
//     bounded amount for a bounded time and disturbs no other.
//   - It believes no DHCP server: it reads requests of machines only, and remembers nothing
//     of them.
//
// The image is in a folder as the image builder writes it, beside an install archive or none, or
// in that of a boot medium or disk, which is all that others are installed from.
//
// What a machine may boot, and as what, it asks Config.Ask at each boot. It knows no cluster
// and keeps no token: a script with one is written into the answer and forgotten.
//
// Nothing here is secret on its way: DHCP, TFTP and HTTP are in clear, and a machine that
// boots can check nobody. docs/boot.md says what that means.
package netboot
