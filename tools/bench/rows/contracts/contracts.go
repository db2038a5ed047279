// Package contracts says what the rows of the benchmark's sources must look like.
package contracts

// Flight is one departure with one text.
type Flight struct {
	Time     float64 `contract:"required" doc:"local hour of the departure"`
	Delay    int64   `contract:"required" doc:"minutes"`
	Distance int64   `contract:"required" doc:"miles"`
	Origin   string  `contract:"required" doc:"IATA code"`
}

// Route is one departure with three texts.
type Route struct {
	Date        string `contract:"required" doc:"day and local time"`
	Delay       int64  `contract:"required" doc:"minutes"`
	Distance    int64  `contract:"required" doc:"miles"`
	Origin      string `contract:"required" doc:"IATA code"`
	Destination string `contract:"required" doc:"IATA code"`
}
