// Package procmem reads how much memory a process holds, from proc.
//
// It promises nothing but the kernel's figure: the proportional set size (proc_pid_smaps(5)),
// which divides what several processes share by their number, so that the sum over all of
// them is the memory they take. It keeps nothing.
package procmem

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Held is the memory of a process below a proc folder, in bytes. It needs the right to trace
// the process. Errors: os.ErrNotExist or unix.ESRCH if it is gone, os.ErrPermission.
func Held(proc string, pid int) (int64, error) {
	file := filepath.Join(proc, strconv.Itoa(pid), "smaps_rollup")
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := parse(string(b))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}

// parse finds the line "Pss: <n> kB".
func parse(rollup string) (int64, error) {
	for line := range strings.Lines(rollup) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "Pss:" || f[2] != "kB" {
			continue
		}
		kib, err := strconv.ParseInt(f[1], 10, 53)
		if err != nil || kib < 0 {
			return 0, fmt.Errorf("%q is no size", strings.TrimSpace(line))
		}
		return kib << 10, nil
	}
	return 0, errors.New("no line Pss")
}
