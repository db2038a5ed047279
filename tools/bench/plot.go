package main

import (
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// point, series and plot are a line chart.
type (
	point  struct{ x, y float64 }
	series struct {
		name   string
		points []point
	}
	plot struct {
		title, x, y string
		logX, logY  bool
		series      []series
	}
)

// plot writes a chart as SVG beside the results.
func (b *bench) plot(name string, p plot) error {
	return os.WriteFile(filepath.Join(b.out, name+".svg"), p.svg(), 0o644)
}

// scale maps values to pixels.
type scale struct {
	log      bool
	min, max float64 // of the axis
	from, to float64 // pixels
}

func newScale(log bool, values []float64, from, to float64) scale {
	s := scale{log: log, min: math.Inf(1), max: math.Inf(-1), from: from, to: to}
	for _, v := range values {
		if log && v <= 0 {
			continue
		}
		s.min, s.max = min(s.min, v), max(s.max, v)
	}
	switch {
	case math.IsInf(s.min, 1):
		s.min, s.max = 1, 10
	case log:
		s.min = math.Pow(10, math.Floor(math.Log10(s.min)))
		s.max = math.Pow(10, math.Ceil(math.Log10(s.max)))
		if s.min == s.max {
			s.max *= 10
		}
	default:
		s.min = min(0, s.min)
		if s.max <= s.min {
			s.max = s.min + 1
		}
	}
	return s
}

func (s scale) at(v float64) float64 {
	lo, hi := s.min, s.max
	if s.log {
		v, lo, hi = math.Log10(max(v, s.min)), math.Log10(lo), math.Log10(hi)
	}
	return s.from + (v-lo)/(hi-lo)*(s.to-s.from)
}

// ticks are powers of ten, or quarters.
func (s scale) ticks() []float64 {
	var out []float64
	if s.log {
		for v := s.min; v <= s.max*1.0001; v *= 10 {
			out = append(out, v)
		}
		return out
	}
	for i := range 5 {
		out = append(out, s.min+(s.max-s.min)*float64(i)/4)
	}
	return out
}

// short prints an axis value: 10k, 2M.
func short(v float64) string {
	for _, u := range []struct {
		at   float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if math.Abs(v) >= u.at {
			return fmt.Sprintf("%.3g%s", v/u.at, u.name)
		}
	}
	return fmt.Sprintf("%.3g", v)
}

// svg draws the chart: plain SVG, no script, no font of its own.
func (p plot) svg() []byte {
	const width, height, left, right, top, bottom = 640, 360, 60, 130, 40, 50
	var xs, ys []float64
	for _, s := range p.series {
		for _, pt := range s.points {
			xs, ys = append(xs, pt.x), append(ys, pt.y)
		}
	}
	x := newScale(p.logX, xs, left, width-right)
	y := newScale(p.logY, ys, height-bottom, top)
	colours := []string{"#1b6ca8", "#c1502e", "#3a7d44", "#7b4b94"}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`, width, height)
	line(`<rect width="%d" height="%d" fill="#fff"/>`, width, height)
	line(`<text x="%d" y="20" font-size="14">%s</text>`, left, html.EscapeString(p.title))
	for _, v := range x.ticks() {
		line(`<path d="M%.1f %d V%d" stroke="#ddd"/>`, x.at(v), top, height-bottom)
		line(`<text x="%.1f" y="%d" text-anchor="middle">%s</text>`, x.at(v), height-bottom+18, short(v))
	}
	for _, v := range y.ticks() {
		line(`<path d="M%d %.1f H%d" stroke="#ddd"/>`, left, y.at(v), width-right)
		line(`<text x="%d" y="%.1f" text-anchor="end">%s</text>`, left-6, y.at(v)+4, short(v))
	}
	line(`<text x="%d" y="%d" text-anchor="middle">%s</text>`, (left+width-right)/2, height-12, html.EscapeString(p.x))
	line(`<text x="%d" y="%d">%s</text>`, 8, top-8, html.EscapeString(p.y))
	for i, s := range p.series {
		c := colours[i%len(colours)]
		var path strings.Builder
		for k, pt := range s.points {
			verb := " L"
			if k == 0 {
				verb = "M"
			}
			fmt.Fprintf(&path, "%s%.1f %.1f", verb, x.at(pt.x), y.at(pt.y))
			line(`<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, x.at(pt.x), y.at(pt.y), c)
		}
		line(`<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`, path.String(), c)
		line(`<text x="%d" y="%d" fill="%s">%s</text>`, width-right+12, top+16+18*i, c, html.EscapeString(s.name))
	}
	line(`</svg>`)
	return []byte(b.String())
}
