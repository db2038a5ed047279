// Idleinit is an init that does nothing: the boot benchmark's peer. It says that it is here
// and sleeps until the machine is cut off.
package main

import (
	"os"
	"syscall"
)

func main() {
	if _, err := os.Stdout.WriteString("idleinit: here\n"); err != nil {
		os.Exit(1) // the kernel panics, and the benchmark sees that no line came
	}
	for {
		_ = syscall.Pause() // it returns only with EINTR
	}
}
