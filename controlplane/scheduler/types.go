package scheduler

import (
	"fmt"
	"math/bits"
	"strconv"
)

// Resources of a node, a quota or a request. Negative values are not allowed.
type Resources struct {
	MilliCPU int64 // thousandths of a CPU
	Memory   int64 // bytes
	Disk     int64 // bytes
}

// Plus returns the sum.
func (r Resources) Plus(o Resources) Resources {
	return Resources{r.MilliCPU + o.MilliCPU, r.Memory + o.Memory, r.Disk + o.Disk}
}

// Minus returns the difference.
func (r Resources) Minus(o Resources) Resources {
	return Resources{r.MilliCPU - o.MilliCPU, r.Memory - o.Memory, r.Disk - o.Disk}
}

// Dimension is a resource by name with its amount.
type Dimension struct {
	Name   string // cpu, memory or disk
	Amount int64
}

// Dimensions lists the resources in a fixed order.
func (r Resources) Dimensions() [3]Dimension {
	return [3]Dimension{{"cpu", r.MilliCPU}, {"memory", r.Memory}, {"disk", r.Disk}}
}

// Node is a machine that may run slices.
type Node struct {
	Name     string
	Capacity Resources // for slices, after what the system keeps
	Labels   map[string]string
	// Excluded says why the node takes no new slices (cordoned, draining, lost, joining,
	// unhealthy); empty: it takes them. What runs there stays counted.
	Excluded string
}

// Slice is one process to place.
type Slice struct {
	Name         string
	Needs        Resources
	Labels       []string // "key=value" or "key", all must hold
	ColocateWith []string // slices of the run that share its node; symmetric
	Domain       string   // node label whose value all slices of the run naming it share
	SpreadNode   bool     // shares no node with another slice of the run
}

// Group is a region of a run: placed whole or not at all.
type Group struct {
	Run    string
	Region int
	Herd   string
	Slices []Slice
}

// Placed is a slice that holds resources on a node.
type Placed struct {
	Run   string
	Herd  string
	Node  string
	Slice Slice
}

// Assignment says where one slice goes.
type Assignment struct {
	Slice string
	Node  string
}

// Placement is the decision for one group, in the order of its slices.
type Placement struct {
	Run    string
	Region int
	Assign []Assignment
}

// Reason says what keeps a slice off a node. Node is empty where it is the whole cluster
// or the herd.
type Reason struct {
	Slice     string
	Node      string
	Dimension string // cpu memory disk label affinity spread colocate domain quota cordoned draining lost joining unhealthy
	Wanted    string
	Available string
}

// Unplaced is a group that does not fit now, and why.
type Unplaced struct {
	Run     string
	Region  int
	Summary string // one line for people
	Reasons []Reason
	// Omitted counts the reasons beyond maxReasons that were left out.
	Omitted int

	gaveUp bool // the search came to the end of its budget: it may have missed a place
}

// overQuota reports whether the herd's quota is the reason.
func (u *Unplaced) overQuota() bool { return len(u.Reasons) > 0 && u.Reasons[0].Dimension == "quota" }

// share is a/b in parts per million, rounded up and saturating; of nothing, nothing is 0
// and anything is infinite. Integers keep replays equal on every architecture.
func share(a, b int64) uint64 {
	const million, most = 1_000_000, 1 << 40
	if a <= 0 {
		return 0
	}
	if b <= 0 {
		return most
	}
	hi, lo := bits.Mul64(uint64(a), million)
	if hi >= uint64(b) {
		return most
	}
	q, rem := bits.Div64(hi, lo, uint64(b))
	if rem > 0 {
		q++
	}
	return min(q, most)
}

// dominant is the greatest share of any resource.
func dominant(used, capacity Resources) uint64 {
	return max(share(used.MilliCPU, capacity.MilliCPU), share(used.Memory, capacity.Memory), share(used.Disk, capacity.Disk))
}

// Amount writes a quantity of a dimension for people: CPUs as "1.5", bytes as "256Mi".
func Amount(dimension string, n int64) string {
	if dimension == "cpu" {
		return strconv.FormatFloat(float64(n)/1000, 'f', -1, 64)
	}
	for _, u := range []struct {
		size int64
		name string
	}{{1 << 40, "Ti"}, {1 << 30, "Gi"}, {1 << 20, "Mi"}, {1 << 10, "Ki"}} {
		if n >= u.size {
			if n%u.size == 0 {
				return fmt.Sprintf("%d%s", n/u.size, u.name)
			}
			return fmt.Sprintf("%.1f%s", float64(n)/float64(u.size), u.name)
		}
	}
	return strconv.FormatInt(n, 10)
}
