// Command probe is the tests' bundle, for test binaries that cannot be one themselves.
package main

import (
	"os"

	"github.com/runink/runink/slice/internal/probe"
)

func main() { os.Exit(probe.Main(os.Args[1:])) }
