// Package ownnet lets a test binary run in a network namespace of its own, so that links,
// addresses and rules of tests never meet the machine's.
package ownnet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

const marker = "RUNINK_TEST_OWN_NETNS"

// Enter executes the binary again in a new network namespace and exits with its status. In
// the new one, and without root, it returns.
func Enter() {
	if os.Getenv(marker) != "" || os.Geteuid() != 0 {
		return
	}
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Args[0] = os.Args[0]
	c.Env = append(os.Environ(), marker+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	}
	fmt.Fprintln(os.Stderr, "own network namespace:", err)
	os.Exit(1)
}
