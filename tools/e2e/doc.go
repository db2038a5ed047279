// Package e2e has no code of its own: its tests (build tag cluster) run Runink as its users
// do, on three appliance nodes that boot from our own image, and break machines under it.
//
// All tests share one cluster. A test that breaks something mends it before it ends: it leaves
// three nodes Ready.
package e2e
