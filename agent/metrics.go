package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/runink/runink/slice/keeper"
)

// collector reads the keeper at each scrape: metrics are never older than the answer, and
// nothing is counted twice.
type collector struct {
	a     *Agent
	descs map[string]*prometheus.Desc
}

func newCollector(a *Agent) *collector {
	// The epoch tells an attempt that has ended and is not yet acknowledged from the next one.
	labels := []string{"herd", "run", "slice", "epoch"}
	d := func(name, help string, l ...string) *prometheus.Desc {
		return prometheus.NewDesc("runink_"+name, help, l, prometheus.Labels{"node": a.cfg.Node})
	}
	return &collector{a: a, descs: map[string]*prometheus.Desc{
		"up":       d("keeper_up", "1 while the keeper answers."),
		"slices":   d("slices", "Slices held by the keeper, by state.", "state"),
		"cpu":      d("slice_cpu_seconds_total", "CPU time used by a slice.", labels...),
		"memory":   d("slice_memory_bytes", "Memory in use by a slice.", labels...),
		"peak":     d("slice_memory_peak_bytes", "Greatest memory use of a slice.", labels...),
		"rows":     d("slice_rows_total", "Rows a block of a slice has seen.", append(slices.Clone(labels), "block", "direction")...),
		"rejected": d("slice_rows_rejected_total", "Rows a block has rejected, by kind.", append(slices.Clone(labels), "block", "kind")...),
		"deadline": d("deadline_seconds", "Seconds until the keeper's deadline."),
		"process":  d("process_memory_bytes", "Proportional set size of the node's own processes: pid1, netd, server, agent, keeper.", "process"),
	}}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), c.a.scaled(2*time.Second))
	defer cancel()
	send := func(name string, t prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.descs[name], t, v, labels...)
	}
	held, err := processMemory("/proc", "/proc/self/exe")
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.descs["process"], err)
	}
	for name, n := range held {
		send("process", prometheus.GaugeValue, float64(n), name)
	}
	caps, err := c.a.cfg.Keeper.Capabilities(ctx)
	if err != nil {
		send("up", prometheus.GaugeValue, 0)
		return
	}
	all, err := c.a.cfg.Keeper.List(ctx)
	if err != nil {
		send("up", prometheus.GaugeValue, 0)
		return
	}
	send("up", prometheus.GaugeValue, 1)
	if caps.Deadline > 0 {
		send("deadline", prometheus.GaugeValue, (caps.Deadline - keeper.Boottime()).Seconds())
	}
	states := map[keeper.State]int{keeper.StateRunning: 0, keeper.StateExited: 0}
	for _, s := range all {
		states[s.State]++
		of := []string{s.Herd, s.Run, s.Slice, strconv.FormatUint(s.Epoch, 10)}
		send("cpu", prometheus.CounterValue, s.Usage.CPU.Seconds(), of...)
		send("memory", prometheus.GaugeValue, float64(s.Usage.Memory), of...)
		send("peak", prometheus.GaugeValue, float64(s.Usage.MemoryPeak), of...)
		c.rows(s.ID, of, send)
	}
	for state, n := range states {
		send("slices", prometheus.GaugeValue, float64(n), string(state))
	}
}

func (c *collector) rows(id string, of []string, send func(string, prometheus.ValueType, float64, ...string)) {
	c.a.reporter.mu.Lock()
	st := c.a.reporter.all[id]
	c.a.reporter.mu.Unlock()
	with := func(more ...string) []string { return slices.Concat(of, more) }
	for block, n := range st.GetCounts() {
		send("rows", prometheus.CounterValue, float64(n.In), with(block, "in")...)
		send("rows", prometheus.CounterValue, float64(n.Out), with(block, "out")...)
		for kind, r := range n.Rejected {
			send("rejected", prometheus.CounterValue, float64(r), with(block, kind)...)
		}
	}
}

// ServeMetrics serves /metrics over mTLS on l until ctx ends.
func (a *Agent) ServeMetrics(ctx context.Context, l net.Listener, cfg *tls.Config) error {
	reg := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{newCollector(a), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}))
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: a.scaled(5 * time.Second), IdleTimeout: a.scaled(time.Minute),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(tls.NewListener(l, cfg)); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
