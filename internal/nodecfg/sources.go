package nodecfg

import (
	"slices"
	"strings"

	"github.com/runink/runink/internal/errs"
)

// CommandLine is the name of the source that every kernel has. It is shared with others:
// their words on it are passed over, which they are in no other source.
const CommandLine = "kernel command line"

// ConfigDisk is what the name of a config disk as a source begins with.
const ConfigDisk = "config disk"

// Where further sources are on a machine.
const (
	FwCfgName  = "opt/org.runink/config" // file of QEMU's fw_cfg
	ConfigName = "runink.cfg"            // file on a config disk
)

// ConfigLabels are the labels of a config disk (FAT or ISO 9660); the second is for programs
// that know no hyphen.
func ConfigLabels() []string { return []string{"RUNINK-CFG", "RUNINK_CFG"} }

// Source is one place that runink.* keys come from.
type Source struct {
	Name string // for people: "kernel command line", "SMBIOS", "fw_cfg", "config disk /dev/sr0"
	Text string
}

// Removable reports whether a source may not be there at the next boot: a config disk.
func (s Source) Removable() bool { return strings.HasPrefix(s.Name, ConfigDisk) }

// Words returns the words of a source as they are read: without comments, and without the
// quotes that protect white space. Those of others are among them.
func (s Source) Words() []string {
	text := s.Text
	if s.Name != CommandLine {
		text = withoutComments(text)
	}
	var list []string
	for _, w := range words(text) {
		if w.hasValue {
			list = append(list, w.key+"="+w.value)
		} else {
			list = append(list, w.key)
		}
	}
	return list
}

// ParseSources reads the keys of all sources as Parse does those of one, and checks what
// they make together. No source has precedence: a key may be in several only with the same
// value (of runink.ip: the same list), because of two pins or two tokens nobody could say
// which was meant. Sources other than the command line may hold comments (# to the end of
// the line) and nothing that is not ours.
//
// Errors are of kind Invalid, name the key as their field and the sources it is from, and
// carry a hint. A value is never in them: it may be a token.
func ParseSources(sources ...Source) (Config, error) {
	merged, err := merge(sources)
	if err != nil {
		return Config{}, err
	}
	c := Config{TimeScale: 1}
	known := keys()
	for _, g := range merged {
		for _, v := range g.values {
			if err := known[g.name].set(&c, v); err != nil {
				return Config{}, err
			}
		}
	}
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// WantsConfigDisk reports whether the sources leave something for a config disk to say: a
// key that every node needs is in none of them, or runink.config=disk is in one. Errors are
// those of ParseSources; what is incomplete is none yet.
func WantsConfigDisk(sources ...Source) (bool, error) {
	merged, err := merge(sources)
	if err != nil {
		return false, err
	}
	have := map[string]bool{}
	for _, g := range merged {
		have[g.name] = true
	}
	return have["config"] || !have["cluster"] || !have["node"] || !have["role"] || !have["ca"], nil
}

// SaysWho reports whether a word is of those that say who a node is: of what cluster, by what
// name and role, and whom it believes.
func SaysWho(word string) bool {
	key, _, _ := strings.Cut(word, "=")
	name, ours := strings.CutPrefix(key, Prefix)
	return ours && slices.Contains([]string{"cluster", "node", "role", "ca", "join", "operator"}, name)
}

// EarlyTimeScale returns the time scale that the sources give, 1 if none does: for who waits
// for a further source. Errors are those of ParseSources; what is incomplete is none yet.
func EarlyTimeScale(sources ...Source) (float64, error) {
	merged, err := merge(sources)
	if err != nil {
		return 0, err
	}
	c := Config{TimeScale: 1}
	for _, g := range merged {
		if g.name == "timescale" {
			if err := setTimeScale(&c, g.values[0]); err != nil {
				return 0, err
			}
		}
	}
	if err := c.checkTimeScale(); err != nil {
		return 0, err
	}
	return c.TimeScale, nil
}

// Keys returns the names of all keys, with Prefix, sorted.
func Keys() []string { return strings.Fields(keyNames(keys())) }

// given is a key with its values, as one source has them.
type given struct {
	name, source string
	values       []string
}

// merge reads the words of every source and joins them, in the order of their first
// appearance.
func merge(sources []Source) ([]given, error) {
	known := keys()
	var all []given
	for _, src := range sources {
		own, err := src.read(known)
		if err != nil {
			return nil, err
		}
		for _, g := range own {
			i := slices.IndexFunc(all, func(o given) bool { return o.name == g.name })
			switch {
			case i < 0:
				all = append(all, g)
			case !slices.Equal(all[i].values, g.values):
				return nil, errs.E(errs.Invalid, "read node configuration", "%s and %s give it different values", all[i].source, g.source).
					WithField(Prefix + g.name).WithHint("take it out of one of them; no source has precedence")
			}
		}
	}
	return all, nil
}

func (s Source) read(known map[string]key) ([]given, error) {
	op := "read " + s.Name
	if len(s.Text) > MaxCommandLine {
		return nil, errs.E(errs.Invalid, op, "it has %d bytes, more than %d", len(s.Text), MaxCommandLine).WithHint("is it the right file?")
	}
	text, ours := s.Text, s.Name != CommandLine
	if ours {
		text = withoutComments(text)
	}
	var list []given
	for _, w := range words(text) {
		name, ok := strings.CutPrefix(w.key, Prefix)
		if !ok && ours {
			return nil, errs.E(errs.Invalid, op, "it has a word that is no key of ours").WithField(printableKey(w.key)).WithHint("the keys are %s", keyNames(known))
		}
		if !ok {
			continue
		}
		k, ok := known[name]
		i := slices.IndexFunc(list, func(g given) bool { return g.name == name })
		switch {
		case !ok:
			return nil, errs.E(errs.Invalid, op, "unknown key").WithField(w.key).WithHint("the keys are %s", keyNames(known))
		case !w.hasValue || w.value == "":
			return nil, errs.E(errs.Invalid, op, "it has no value").WithField(w.key).WithHint("write %s=VALUE or leave it out", w.key)
		case i >= 0 && !k.repeat:
			return nil, errs.E(errs.Invalid, op, "given twice").WithField(w.key).WithHint("keep one of them")
		case i >= 0:
			list[i].values = append(list[i].values, w.value)
		default:
			list = append(list, given{name: name, source: s.Name, values: []string{w.value}})
		}
	}
	return list, nil
}

// withoutComments cuts each line at a # that begins a word.
func withoutComments(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		for i := range len(line) {
			if line[i] == '#' && (i == 0 || isSpace(line[i-1])) {
				line = line[:i] + "\n"
				break
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

// printableKey is a word of unknown origin, fit for a message.
func printableKey(s string) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), 40)]
}

// setConfigDisk checks runink.config; what it asks for is done before there is a Config
// (WantsConfigDisk).
func setConfigDisk(_ *Config, v string) error {
	if v != "disk" {
		return invalid("config", "%q is not disk", v).WithHint("runink.config=disk asks for a config disk; leave it out otherwise")
	}
	return nil
}
