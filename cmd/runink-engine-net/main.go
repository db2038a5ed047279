// Command runink-engine-net is runink-engine with edges between nodes. To start it costs
// twice as much, so a node runs with it only those slices that have such an edge.
package main

import (
	"os"

	"github.com/runink/runink/pipeline/edge/grpcedge"
	"github.com/runink/runink/pipeline/engine/dynamic"
	"github.com/runink/runink/pipeline/runtime"
)

func main() {
	os.Exit(runtime.Main(runtime.Bundle{For: dynamic.New, Network: grpcedge.Network{}}))
}
