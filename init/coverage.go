package pid1

import (
	"fmt"
	"os"
	"runtime/coverage"
)

// coverageEnv names the folder for counters, as for any binary built with -cover.
const coverageEnv = "GOCOVERDIR"

// writeCoverage saves the counters of a binary built with -cover: reboot(2) runs no exit
// handlers. Other binaries, and machines that were given no folder, do nothing.
func writeCoverage() {
	dir := os.Getenv(coverageEnv)
	if dir == "" {
		return
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		fmt.Fprintf(os.Stderr, "runink: coverage: %v\n", err)
		return
	}
	if err := coverage.WriteMetaDir(dir); err != nil {
		fmt.Fprintf(os.Stderr, "runink: coverage: %v\n", err)
		return
	}
	if err := coverage.WriteCountersDir(dir); err != nil {
		fmt.Fprintf(os.Stderr, "runink: coverage: %v\n", err)
	}
}
