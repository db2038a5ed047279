package pid1

import (
	"path"
	"slices"
	"strings"
)

// aliases finds the modules that drive a device, as modprobe(8) does with modules.alias. A
// pattern of thousands costs a look at those alone that begin like the device: they are
// kept by what stands before their first wildcard, at most aliasHead bytes of it.
type aliases map[string][]alias

type alias struct{ pattern, module string }

// aliasHead reaches over bus and vendor of what most devices are: "pci:v00008086d".
const aliasHead = 14

// readAliases reads lines "alias PATTERN MODULE"; others are passed over.
func readAliases(text string) aliases {
	as := aliases{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "alias" {
			continue
		}
		head := f[1]
		if i := strings.IndexAny(head, `*?[\`); i >= 0 {
			head = head[:i]
		}
		head = head[:min(len(head), aliasHead)]
		as[head] = append(as[head], alias{f[1], f[2]})
	}
	return as
}

// modules returns the names of the modules for a device's modalias, sorted, each once.
func (as aliases) modules(modalias string) []string {
	var names []string
	for n := range min(len(modalias), aliasHead) + 1 {
		for _, a := range as[modalias[:n]] {
			// No modalias of a bus has a slash, which would stop a wildcard here. A pattern
			// that cannot be read matches nothing.
			if ok, err := path.Match(a.pattern, modalias); ok && err == nil {
				names = append(names, a.module)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
