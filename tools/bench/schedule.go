package main

import (
	"context"
	"fmt"
	"time"

	"github.com/runink/runink/controlplane/scheduler"
)

// schedule measures the scheduler alone: no log, no network, no agents. There is no peer
// that can be had without them.
func schedule(ctx context.Context, b *bench) error {
	pending := pick(b, 1_000_000, 20_000)
	p := plot{title: "schedule: placements a second, by nodes", x: "nodes", y: "placements/s", logX: true, logY: true}
	line := series{name: "one by one"}
	whole := series{name: "waiting, seen"}
	fromQueue := series{name: "from a full queue"}
	for _, nodes := range pick(b, []int{10, 1_000, 10_000}, []int{10, 1_000}) {
		var rates, p99s, waits, events, queued, free []float64
		for range b.repeats(3, 1) {
			if err := ctx.Err(); err != nil {
				return err
			}
			rate, p99, err := drainQueue(nodes, pending)
			if err != nil {
				return err
			}
			wait, err := fullPass(nodes, pick(b, 100_000, 5_000))
			if err != nil {
				return err
			}
			event, placed, unchanged, err := queuePass(nodes, pending)
			if err != nil {
				return err
			}
			rates, p99s, waits = append(rates, rate), append(p99s, p99), append(waits, wait)
			events, queued, free = append(events, event...), append(queued, placed), append(free, unchanged)
		}
		note := fmt.Sprintf("%d pending slices of mixed sizes in regions of one and two, some with labels or spread, oldest first; slices end as room is needed; placing and bookkeeping, one goroutine", pending)
		name := fmt.Sprintf("schedule/%d-nodes", nodes)
		b.add(Result{Name: name, Value: median(rates), Unit: "placements/s", Note: note})
		b.add(Result{Name: name + "/p99", Value: median(p99s), Unit: "ms", Note: fmt.Sprintf("one decision of up to %d regions", decision)})
		b.add(Result{Name: name + "/full", Value: median(waits), Unit: "regions/s", Note: "regions looked at that fit nowhere: a pass over what waits while the cluster is full, reasons included"})
		ended := fmt.Sprintf("one slice after the other ends on a full cluster, while %d slices wait: the oldest that fit get its room", pending)
		b.add(Result{Name: name + "/queue", Value: median(queued), Unit: "placements/s", Note: ended})
		b.add(Result{Name: name + "/queue/event", Value: median(events), Unit: "ms", Note: "a pass of the queue; " + ended})
		b.add(Result{Name: name + "/queue/event/p99", Value: quantile(events, 0.99), Unit: "ms", Note: "a pass of the queue; " + ended})
		b.add(Result{Name: name + "/queue/submit", Value: median(free), Unit: "µs", Note: "one region more in that queue, and a pass"})
		line.points = append(line.points, point{float64(nodes), median(rates)})
		fromQueue.points = append(fromQueue.points, point{float64(nodes), median(queued)})
		whole.points = append(whole.points, point{float64(nodes), median(waits)})
		b.logf("   %d nodes: %s placements/s, p99 of a decision %s ms, %s waiting regions/s; %s placements/s from a queue, a pass of it %s ms after an end (p99 %s), %s µs after a submission", nodes, number(median(rates)), number(median(p99s)), number(median(waits)), number(median(queued)), number(median(events)), number(quantile(events, 0.99)), number(median(free)))
	}
	p.series = []series{line, fromQueue, whole}
	return b.plot("schedule", p)
}

// decision is how many regions one call of the scheduler is given, as many as go into one
// entry of the log.
const decision = 64

// simulated is a cluster without machines.
func simulated(nodes int) *scheduler.State {
	st := scheduler.NewState()
	for i := range nodes {
		st.SetNode(scheduler.Node{
			Name:     fmt.Sprintf("n%05d", i),
			Capacity: scheduler.Resources{MilliCPU: 64_000, Memory: 256 << 30, Disk: 1 << 40},
			Labels:   map[string]string{"rack": fmt.Sprintf("r%03d", i/40), "disk": []string{"ssd", "hdd"}[i%2]},
		})
	}
	st.SetHerd("bench", scheduler.Resources{})
	return st
}

// region i of the queue: 1 to 8 tenths of a CPU, every fourth of two slices, every tenth
// bound to a label, every twentieth spread.
func region(i int) scheduler.Group {
	s := scheduler.Slice{
		Name:  "a",
		Needs: scheduler.Resources{MilliCPU: int64(100 + i*7919%8*100), Memory: int64(64+i*104729%4*64) << 20},
	}
	if i%10 == 0 {
		s.Labels = []string{"disk=ssd"}
	}
	g := scheduler.Group{Run: fmt.Sprintf("r%07d", i), Herd: "bench", Slices: []scheduler.Slice{s}}
	if i%4 == 0 {
		o := s
		o.Name, o.Labels, o.SpreadNode = "b", nil, i%20 == 0
		g.Slices = append(g.Slices, o)
	}
	return g
}

// drainQueue places so many slices, region by region, and ends the oldest ones when the
// cluster is full. It returns placed slices a second and the p99 of a decision in ms.
func drainQueue(nodes, pending int) (rate, p99 float64, err error) {
	st := simulated(nodes)
	var running []scheduler.Placed
	var took []float64
	var busy time.Duration
	placed, next := 0, 0
	var queue []scheduler.Group
	for placed < pending {
		for len(queue) < decision {
			queue = append(queue, region(next))
			next++
		}
		begin := time.Now()
		done, rest := scheduler.Place(st, queue)
		byRun := map[string]*scheduler.Group{}
		for i := range queue {
			byRun[queue[i].Run] = &queue[i]
		}
		for _, p := range done {
			g := byRun[p.Run]
			for i, a := range p.Assign {
				on := scheduler.Placed{Run: p.Run, Herd: g.Herd, Node: a.Node, Slice: g.Slices[i]}
				st.Use(on)
				running = append(running, on)
				placed++
			}
		}
		spent := time.Since(begin)
		busy += spent
		took = append(took, spent.Seconds()*1e3)
		var again []scheduler.Group
		for _, u := range rest {
			again = append(again, *byRun[u.Run])
		}
		queue = again
		if len(rest) == 0 {
			continue
		}
		if len(running) == 0 {
			return 0, 0, fmt.Errorf("region %s fits no empty cluster: %s", rest[0].Run, rest[0].Summary)
		}
		begin = time.Now() // a tenth of what runs ends
		n := max(len(running)/10, 1)
		for _, p := range running[:n] {
			st.Release(p.Run, p.Slice.Name)
		}
		running = running[n:]
		busy += time.Since(begin)
	}
	return float64(placed) / busy.Seconds(), quantile(took, 0.99), nil
}

// queuePass has so many slices wait for a full cluster, of which one slice after the other ends:
// the oldest that fit get its room. It returns the ms of each pass after an end, the slices
// placed a second, and the µs of a pass after a submission, each with the bookkeeping.
func queuePass(nodes, pending int) (events []float64, rate, submit float64, err error) {
	st, q := simulated(nodes), scheduler.NewQueue()
	const perNode = 8
	on := func(n int) scheduler.Placed {
		return scheduler.Placed{Run: fmt.Sprintf("full%06d", n), Herd: "bench", Node: fmt.Sprintf("n%05d", n%nodes), Slice: scheduler.Slice{
			Name: "s", Needs: scheduler.Resources{MilliCPU: 64_000 / perNode},
		}}
	}
	for i := range nodes * perNode {
		st.Use(on(i))
	}
	groups := map[string]scheduler.Group{}
	slices := 0
	for i := 0; slices < pending; i++ {
		g := region(i)
		slices += len(g.Slices)
		q.Add(int64(i), g, true)
		groups[g.Run] = g
	}
	q.Pass(st)
	// Few enough that some of each shape wait to the end: what is submitted then waits behind them.
	waits, rounds := q.Len(), min(nodes*perNode, 1000, pending/100)
	var total time.Duration
	for i := range rounds {
		begin := time.Now()
		st.Release(on(i).Run, on(i).Slice.Name)
		q.Released(on(i))
		_, placed, _ := q.Pass(st)
		for _, p := range placed {
			for k, a := range p.Assign {
				st.Use(scheduler.Placed{Run: p.Run, Herd: "bench", Node: a.Node, Slice: groups[p.Run].Slices[k]})
				rate++
			}
		}
		spent := time.Since(begin)
		total += spent
		events = append(events, spent.Seconds()*1e3)
	}
	if waits-q.Len() < rounds {
		return nil, 0, 0, fmt.Errorf("%d slices ended and %d regions were placed", rounds, waits-q.Len())
	}
	begin := time.Now()
	const more = 1000
	for i := range more {
		g := region(i)
		g.Run = fmt.Sprintf("more%04d", i)
		q.Add(int64(1)<<40+int64(i), g, true)
		if _, placed, _ := q.Pass(st); len(placed) > 0 {
			return nil, 0, 0, fmt.Errorf("%s was placed on a full cluster", placed[0].Run)
		}
	}
	return events, rate / total.Seconds(), time.Since(begin).Seconds() * 1e6 / more, nil
}

// fullPass asks for so many regions at once, none of which fits: what the placement loop does
// whenever something changes while the cluster is full. It returns regions a second.
func fullPass(nodes, pending int) (float64, error) {
	st := simulated(nodes)
	for i := range nodes {
		st.Use(scheduler.Placed{Run: "full", Herd: "bench", Node: fmt.Sprintf("n%05d", i), Slice: scheduler.Slice{
			Name: fmt.Sprintf("s%05d", i), Needs: scheduler.Resources{MilliCPU: 64_000},
		}})
	}
	groups := make([]scheduler.Group, pending)
	for i := range groups {
		groups[i] = region(i)
	}
	limit := 10 * time.Second // of what does not scale, a part is enough
	begin := time.Now()
	seen := 0
	for seen < len(groups) && time.Since(begin) < limit {
		n := min(seen+10_000, len(groups))
		if done, _ := scheduler.Place(st, groups[seen:n]); len(done) != 0 {
			return 0, fmt.Errorf("%d regions were placed on a full cluster", len(done))
		}
		seen = n
	}
	return float64(seen) / time.Since(begin).Seconds(), nil
}
