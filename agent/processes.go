package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/procmem"
)

// processMemory is the memory of the node's own processes, by what they are: "pid1", or the
// word that the program was started with. They are known by running the program self is, so
// a slice, whatever it calls itself, is none. Those that this process may not look into, as
// another user's, are left out.
func processMemory(proc, self string) (map[string]int64, error) {
	program, err := os.Stat(self)
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	if err != nil {
		return nil, err
	}
	held := map[string]int64{}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue // not a process's folder
		}
		name, err := roleOf(dir, pid, program)
		if err == nil && name != "" {
			var n int64
			if n, err = procmem.Held(proc, pid); err == nil {
				// Not the sum: there is one of each, and a process that the keeper has cloned has
				// the keeper's memory until it executes.
				held[name] = max(held[name], n)
			}
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) && !errors.Is(err, os.ErrPermission) {
			return nil, err
		}
	}
	return held, nil
}

// roleOf is what a process is; "": none of the node's own.
func roleOf(dir string, pid int, program os.FileInfo) (string, error) {
	exe, err := os.Stat(filepath.Join(dir, "exe"))
	if err != nil || !os.SameFile(exe, program) {
		return "", err
	}
	if pid == 1 {
		return "pid1", nil
	}
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return "", err
	}
	args := bytes.Split(cmdline, []byte{0})
	if len(args) < 2 || !slices.Contains([]string{"netd", "server", "agent", "keeper"}, string(args[1])) {
		return "", nil // somebody's command
	}
	return string(args[1]), nil
}
