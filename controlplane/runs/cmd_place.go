package runs

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/scheduler"
	"github.com/runink/runink/internal/errs"
)

// placing is the payload of CmdPlace: whole regions, decided on a state that may be older
// than the one the entry meets.
type placing struct {
	Groups []placedGroup `json:"groups"`
}

type placedGroup struct {
	Run    string                 `json:"run"`
	Region int                    `json:"region"`
	Epoch  uint64                 `json:"epoch"`
	Assign []scheduler.Assignment `json:"assign"`
}

// placingResult says for each group why it was refused, "" if it was not.
type placingResult struct {
	Refused []string `json:"refused"`
}

// place validates each group against the state as it is now, and places it whole or
// leaves it pending. One refused group does not refuse the others.
func (h Hooks) place(tx *barn.Tx, m barn.Meta, p placing) (placingResult, error) {
	res := placingResult{Refused: make([]string, len(p.Groups))}
	used := map[string]scheduler.Resources{} // by node, with what this entry has placed
	detail := map[string]string{}
	open := openRuns{h: h, tx: tx, now: m.Time}
	for i := range p.Groups {
		g := &p.Groups[i]
		why, err := h.placeGroup(tx, &open, g, used)
		if err != nil {
			return res, err
		}
		res.Refused[i] = why
		key := fmt.Sprintf("%s/%d@%d", g.Run, g.Region, g.Epoch)
		if detail[key] = "placed"; why != "" {
			detail[key] = "refused: " + why
		}
	}
	tx.Audit(detail)
	return res, open.save()
}

func (h Hooks) placeGroup(tx *barn.Tx, open *openRuns, g *placedGroup, used map[string]scheduler.Resources) (string, error) {
	spec, err := h.tables.spec(tx, g.Run)
	if errors.Is(err, errs.NotFound) {
		return "the run is gone", nil
	}
	if err != nil {
		return "", err
	}
	a, err := open.get(g.Run)
	if err != nil {
		return "", err
	}
	if a.st.Final() || g.Region >= len(a.st.Regions) {
		return "the run has ended", nil
	}
	r := &a.st.Regions[g.Region]
	if r.Phase != RegionPending || r.Epoch != g.Epoch {
		return fmt.Sprintf("the region is %s at epoch %d", r.Phase, r.Epoch), nil
	}
	if why := wholeRegion(spec, g); why != "" {
		return why, nil
	}
	if why, err := h.fits(tx, spec, g, used); why != "" || err != nil {
		return why, err
	}
	r.Phase = RegionPlaced
	for _, as := range g.Assign {
		used[as.Node] = used[as.Node].Plus(spec.slice(as.Slice).Needs)
		if err := h.placeSlice(tx, spec, g, as); err != nil {
			return "", err
		}
	}
	a.changed = true
	return "", nil
}

// wholeRegion checks that the group names each slice of the region once.
func wholeRegion(spec *Spec, g *placedGroup) string {
	named := map[string]bool{}
	for _, as := range g.Assign {
		s := spec.slice(as.Slice)
		if s == nil || s.Region != g.Region || named[as.Slice] {
			return fmt.Sprintf("slice %s does not belong there", as.Slice)
		}
		named[as.Slice] = true
	}
	for _, s := range spec.Slices {
		if s.Region == g.Region && !named[s.Name] {
			return fmt.Sprintf("slice %s is missing", s.Name)
		}
	}
	return ""
}

// fits checks nodes, capacities, labels and the herd's quota, in the group's order.
func (h Hooks) fits(tx *barn.Tx, spec *Spec, g *placedGroup, used map[string]scheduler.Resources) (string, error) {
	var total scheduler.Resources
	adds := map[string]scheduler.Resources{}
	for _, as := range g.Assign {
		ns, ok, err := h.tables.node(tx, as.Node)
		if err != nil {
			return "", err
		}
		m, admitted, err := h.Directory.Node(tx, as.Node)
		if err != nil {
			return "", err
		}
		if !ok || !admitted || !m.Worker {
			return fmt.Sprintf("node %s takes no slices", as.Node), nil
		}
		if why := ns.Excluded(); why != "" {
			return fmt.Sprintf("node %s is %s", as.Node, why), nil
		}
		s := spec.slice(as.Slice)
		labels := ns.AllLabels(as.Node)
		for _, l := range s.Labels {
			k, v, exact := strings.Cut(l, "=")
			if have, ok := labels[k]; !ok || exact && have != v {
				return fmt.Sprintf("node %s lacks the label %s", as.Node, l), nil
			}
		}
		if _, seen := used[as.Node]; !seen {
			if used[as.Node], err = usedOn(tx, as.Node); err != nil {
				return "", err
			}
		}
		adds[as.Node], total = adds[as.Node].Plus(s.Needs), total.Plus(s.Needs)
		if d := exceeds(used[as.Node].Plus(adds[as.Node]), ns.Capacity, false); d != "" {
			return fmt.Sprintf("node %s has not enough %s left", as.Node, d), nil
		}
	}
	quota, ok, err := h.Directory.Herd(tx, spec.Herd)
	if err != nil || !ok {
		return "the herd is gone", err
	}
	herd, _, err := load[scheduler.Resources](tx, herdUsedPrefix+spec.Herd)
	if err != nil {
		return "", err
	}
	if d := exceeds(herd.Plus(total), quota, true); d != "" {
		return fmt.Sprintf("herd %s has not enough %s left", spec.Herd, d), nil
	}
	return "", nil
}

// exceeds names the first dimension in which used is more than limit. zeroIsFree: a limit
// of 0 is none.
func exceeds(used, limit scheduler.Resources, zeroIsFree bool) string {
	limits := limit.Dimensions()
	for i, d := range used.Dimensions() {
		if d.Amount > limits[i].Amount && (limits[i].Amount > 0 || !zeroIsFree) {
			return d.Name
		}
	}
	return ""
}

func usedOn(r Reader, node string) (scheduler.Resources, error) {
	var sum scheduler.Resources
	err := each(r, placedPrefix+node+"/", func(_ string, p Placed) error {
		sum = sum.Plus(p.Needs)
		return nil
	})
	return sum, err
}

// placeSlice gives one slice its place and its address. Addresses of a node are handed out
// in turn, so that one is used again as late as possible: packets of a dead slice meet
// nobody.
func (h Hooks) placeSlice(tx *barn.Tx, spec *Spec, g *placedGroup, as scheduler.Assignment) error {
	ns, _, err := h.tables.node(tx, as.Node)
	if err != nil {
		return err
	}
	m, _, err := h.Directory.Node(tx, as.Node)
	if err != nil {
		return err
	}
	addr, err := nthAddress(m.Prefix, ns.NextAddress)
	if err != nil {
		return errs.Wrap("place slice", err)
	}
	ns.NextAddress++
	if err := store(tx, nodePrefix+as.Node, ns); err != nil {
		return err
	}
	p := Placed{Region: g.Region, Epoch: g.Epoch, Herd: spec.Herd, Boot: ns.Boot, Address: addr.String(), Needs: spec.slice(as.Slice).Needs}
	if err := takePlace(tx, as.Node, spec.ID, as.Slice, p); err != nil {
		return err
	}
	pending, _, err := h.tables.slice(tx, spec.ID, as.Slice)
	if err != nil {
		return err
	}
	return store(tx, sliceKey(spec.ID, as.Slice), SliceState{
		Region: g.Region, Epoch: g.Epoch, Phase: SliceAssigned,
		Node: as.Node, Boot: ns.Boot, Address: p.Address, Former: pending.Former,
	})
}

// firstAddress leaves the low numbers of a node's /64 to the node itself.
const (
	firstAddress = 0x1000
	addressRing  = 1 << 32
)

// nthAddress is the n-th address for slices in a node's /64, round and round.
func nthAddress(prefix netip.Prefix, n uint64) (netip.Addr, error) {
	if !prefix.Addr().Is6() || prefix.Bits() != 64 {
		return netip.Addr{}, errs.E(errs.Internal, "choose address", "%s is no /64", prefix)
	}
	a := prefix.Masked().Addr().As16()
	n = firstAddress + n%addressRing
	for i := range 8 {
		a[15-i] = byte(n >> (8 * i))
	}
	return netip.AddrFrom16(a), nil
}
