package runs

import (
	"iter"
	"maps"
	"strconv"
)

func mapsKeys[K comparable, V any](m map[K]V) iter.Seq[K] { return maps.Keys(m) }

func regionID(run string, region int) string { return run + "/" + strconv.Itoa(region) }
