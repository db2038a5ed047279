// Package rooms holds the import matrix of ARCHITECTURE.md against the code. It has no
// code of its own: its test fails when a non-test file imports what its room may not.
package rooms
