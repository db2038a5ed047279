package netd

import (
	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/confine"
)

// DropPrivileges leaves this process, on all its threads and for good, the four
// capabilities netd needs: addresses and routes, raw sockets, ports below 1024, the clock.
func DropPrivileges() error {
	return confine.Capabilities(unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_TIME)
}
