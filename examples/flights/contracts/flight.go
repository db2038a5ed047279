// Package contracts says what the rows of this pipeline's sources must look like.
package contracts

import "time"

// Flight is one departure, as the U.S. Bureau of Transportation Statistics reports it.
type Flight struct {
	Date        time.Time `contract:"required,layout=2006/01/02 15:04" doc:"scheduled departure, local time"`
	Delay       int       `contract:"required,min=-120,max=480" doc:"arrival delay in minutes, negative when early"`
	Distance    int       `contract:"required,min=1" doc:"miles"`
	Origin      string    `contract:"required,pattern=^[A-Z]{3}$" doc:"IATA code"`
	Destination string    `contract:"required,pattern=^[A-Z]{3}$" doc:"IATA code"`
}
