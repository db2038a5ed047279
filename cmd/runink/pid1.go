package main

import pid1 "github.com/runink/runink/init"

// bootNode runs the machine if this process is the first of a booted image, and then never
// returns; otherwise it does nothing and returns false.
func bootNode() bool {
	if !pid1.Appliance() {
		return false
	}
	pid1.Main()
	return true
}
