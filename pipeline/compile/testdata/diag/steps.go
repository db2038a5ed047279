package diag

import (
	"context"
	"io"

	"example.com/diag/contracts"
)

type Located struct {
	Origin, City string
	Delay        int
}

type Narrow struct{ Delay int64 }

type Missing struct{ Runway string }

type hidden struct{ Delay int }

func JoinAirport(f contracts.Flight, a contracts.Airport) (Located, error) { return Located{}, nil }
func Late(f contracts.Flight) bool                                         { return f.Delay > 0 }
func Clean(f contracts.Flight) (contracts.Flight, error)                   { return f, nil }
func WantsInt64(n Narrow) bool                                             { return n.Delay > 0 }
func WantsRunway(n Missing) (Missing, error)                               { return n, nil }
func Odd(a, b, c int) string                                               { return "" }
func Hidden(f contracts.Flight) (hidden, error)                            { return hidden{}, nil }
func Split(f contracts.Flight, emit func(Located)) error                   { return nil }
func Bytes(ctx context.Context, r io.Reader, w io.Writer) error            { return nil }
func Number(n contracts.Number) (Located, error)                           { return Located{}, nil }

type Stateful struct{}

func (Stateful) Step(f contracts.Flight) (Located, error) { return Located{}, nil }

var NotAFunc = 1
