package broken

import "example.com/broken/contracts"

func Good(f contracts.Flight) bool { return f.Delay > 0 }

func Bad(f contracts.Flight) (contracts.Flight, error) {
	return f.Nothing, undefined
}
