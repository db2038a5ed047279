package agent

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	apiv1 "github.com/runink/runink/api/runink/v1"
)

// Kept back from slices: what PID 1, netd, server, agent and keeper need on a small node.
const (
	reservedMemory   = 256 << 20
	reservedMilliCPU = 200
)

// describeNode reads what this machine has to offer. dir is on the disk that staging files
// and cache use.
func describeNode(dir string) (*apiv1.Hello, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	mem, err := totalMemory()
	if err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return nil, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return &apiv1.Hello{
		BootId: boot,
		Capacity: &apiv1.Resources{
			MilliCpu: int64(runtime.NumCPU())*1000 - reservedMilliCPU,
			Memory:   mem - reservedMemory,
			Disk:     int64(fs.Bavail) * fs.Bsize,
		},
	}, nil
}

// totalMemory reads MemTotal of proc_meminfo(5), in bytes.
func totalMemory() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if f := strings.Fields(string(line)); len(f) == 3 && f[0] == "MemTotal:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("/proc/meminfo: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no MemTotal")
}

// bootID is the kernel's random id of this boot.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
