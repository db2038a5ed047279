// First prints the time at which its first instruction of Go ran, in nanoseconds of
// CLOCK_MONOTONIC, and ends. Every peer of the launch benchmark starts this one binary.
package main

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) != nil {
		os.Exit(1)
	}
	if _, err := os.Stdout.WriteString(strconv.FormatInt(t.Nano(), 10) + "\n"); err != nil {
		os.Exit(1)
	}
}
