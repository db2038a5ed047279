package pid1

import (
	"fmt"
	"strings"
)

// firmware has, by driver, the files that it may ask the kernel for and the image lacks.
// Most drivers list what any of their devices may want: one card of many works without.
type firmware map[string][]string

// readFirmware reads lines "firmware MODULE FILE"; others are passed over.
func readFirmware(text string) firmware {
	fw := firmware{}
	for line := range strings.Lines(text) {
		key, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		module, file, _ := strings.Cut(rest, " ")
		if key == "firmware" && module != "" && file != "" {
			fw[module] = append(fw[module], file)
		}
	}
	return fw
}

// hungryDevice is one whose driver may want files that the image lacks.
type hungryDevice struct {
	device pciDevice
	module string
	files  []string
}

// hungry are the disk controllers and network cards among all whose driver may want files
// that the image lacks, each with the driver that has it, or with all that it may get. A
// USB controller is none: the one that wants a file shares its driver with all others.
func (d *devices) hungry(all []pciDevice) []hungryDevice {
	var list []hungryDevice
	for _, p := range all {
		if p.what != diskController && p.what != networkCard {
			continue
		}
		modules := []string{p.module}
		if !p.driven {
			modules = d.aliases.modules(p.alias)
		}
		for _, m := range modules {
			if files := d.wants[m]; len(files) > 0 {
				list = append(list, hungryDevice{p, m, files})
			}
		}
	}
	return list
}

// someOf names a few files, and says how many more there are.
func someOf(files []string) string {
	const few = 3
	if len(files) <= few {
		return strings.Join(files, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(files[:few], ", "), len(files)-few)
}
