// Command runink-engine runs plans that need no Go code of their own: every step is built
// in. A bundle without a binary is served by it, in a slice and on a laptop. It opens no edge
// between nodes: runink-engine-net does.
package main

import (
	"os"

	"github.com/runink/runink/pipeline/engine/dynamic"
	"github.com/runink/runink/pipeline/runtime"
)

func main() {
	os.Exit(runtime.Main(runtime.Bundle{For: dynamic.New}))
}
