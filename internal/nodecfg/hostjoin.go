package nodecfg

// HostJoin is what `runink join` was told on an ordinary host and no component reads: it is
// written into the units. It is kept so that a join that is run again writes the same ones.
type HostJoin struct {
	Advertise  []string `json:"advertise,omitempty"`  // addresses where other machines reach this one; none: those of its interfaces
	Engine     string   `json:"engine,omitempty"`     // absolute path of the stock engine; empty: where it is looked for
	Unenforced bool     `json:"unenforced,omitempty"` // it joined although its kernel has no WireGuard
}

// LoadHostJoin reads HostJoinFile or a file like it. NotFound if there is none.
func LoadHostJoin(path string) (HostJoin, error) {
	var j HostJoin
	err := readJSON("read the options of the earlier join", path, &j)
	return j, err
}

// SaveHostJoin replaces path with j, mode 0600.
func SaveHostJoin(path string, j HostJoin) error {
	return writeJSON("write the options of this join", path, j, 0o600)
}
