// Package rows holds the Go steps of rows.dsl.
package rows

import "example.com/rows/contracts"

// Late is a delayed flight and how far its passengers carried the delay.
type Late struct {
	Time     float64
	Delay    int64
	Distance int64
	Origin   string
	Weight   int64
}

// Weigh derives the weight of a delay: minutes times miles.
func Weigh(f *contracts.Flight, out *Late) error {
	*out = Late{Time: f.Time, Delay: f.Delay, Distance: f.Distance, Origin: f.Origin, Weight: f.Delay * f.Distance}
	return nil
}

// LateRoute is Late with three texts.
type LateRoute struct {
	Date        string
	Delay       int64
	Distance    int64
	Origin      string
	Destination string
	Weight      int64
}

// WeighRoute derives the weight of a delay on a route.
func WeighRoute(r *contracts.Route, out *LateRoute) error {
	*out = LateRoute{
		Date: r.Date, Delay: r.Delay, Distance: r.Distance,
		Origin: r.Origin, Destination: r.Destination, Weight: r.Delay * r.Distance,
	}
	return nil
}
