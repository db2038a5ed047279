package netpol

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The tests run in a network namespace of their own: the binary executes itself again in one.
// It stands for a node; slices and other nodes are further namespaces.
func TestMain(m *testing.M) {
	const marker = "RUNINK_TEST_OWN_NETNS"
	if os.Getenv(marker) != "" {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err == nil {
			err = up(h, "lo")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "raise loopback:", err)
			os.Exit(1)
		}
	}
	if os.Getenv(marker) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
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
