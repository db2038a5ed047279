// Package flights holds the Go steps of flights.dsl.
package flights

import (
	"fmt"

	"example.com/flights/contracts"
)

// Located is a flight with the city it left.
type Located struct {
	Origin string
	City   string
	Delay  int
}

// JoinAirport adds the city of the airport a flight left. Some airports are listed
// without one ("NA"); their flights are rejected rather than counted for a city that
// does not exist.
func JoinAirport(f contracts.Flight, a contracts.Airport) (Located, error) {
	if a.City == "NA" {
		return Located{}, fmt.Errorf("airport %s is listed without a city", a.IATA)
	}
	return Located{Origin: f.Origin, City: a.City, Delay: f.Delay}, nil
}
