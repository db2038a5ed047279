// Package image builds what a machine boots: a kernel, an initramfs and the record of
// how they were made.
//
// It owns the locked Debian kernel package (kernel.lock), the choice of modules, the
// layout, modes and owners of the initramfs, manifest.json and SHA256SUMS. It promises
// that the same inputs give the same bytes, whatever the directory, user, umask or time
// zone of the build; that kernel, modules directory and every module carry one release;
// and that the kernel has the options the node relies on (see requiredConfig).
//
// It is build-time only. It never runs on a node, never uses a kernel whose digest does
// not match without saying so in the manifest, and never reads the modes or times of the
// files it packs: every mode is set here.
package image
