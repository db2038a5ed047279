package netd

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/runink/runink/internal/nodecfg"
)

// cardPatience is how long a network card that the configuration names may take to appear,
// before the time scale: those on USB come late.
const cardPatience = 5 * time.Second

// absent says which network cards the configuration names that are not there, and by what
// key. A bond or VLAN that runink.ip or runink.vlan names is not among them: it is missing
// for want of a card, which is.
func (d *daemon) absent() []string {
	there := func(word string) bool {
		for _, n := range d.nics {
			if isNamed(word, n.link.Attrs().Name, macOf(n.link)) {
				return true
			}
		}
		return slices.ContainsFunc(d.Config.Bonds, func(b nodecfg.Bond) bool { return b.Name == word }) ||
			slices.ContainsFunc(d.Config.VLANs, func(v nodecfg.VLAN) bool { return v.Name == word })
	}
	var list []string
	look := func(key, word string) {
		if text := fmt.Sprintf("runink.%s names %s, and there is no such network card", key, word); !there(word) && !slices.Contains(list, text) {
			list = append(list, text)
		}
	}
	for _, ip := range d.Config.IP {
		look("ip", ip.Interface)
	}
	for _, b := range d.Config.Bonds {
		for _, m := range b.Members {
			look("bond", m)
		}
	}
	for _, v := range d.Config.VLANs {
		look("vlan", v.Parent)
	}
	return list
}

// sayAbsent shows what absent finds, and takes it back when the card has come. What can be
// configured without it is: a node that is reached by another address than the one that was
// meant can still be told so.
func (d *daemon) sayAbsent() {
	list := d.absent()
	if slices.Equal(list, d.missed) {
		return
	}
	d.missed = list
	for _, text := range list {
		d.Log.Warn(text)
	}
	var cards []string
	for _, i := range slices.Sorted(maps.Keys(d.nics)) {
		if a := d.nics[i].link.Attrs(); !d.madeHere(d.nics[i].link) {
			cards = append(cards, fmt.Sprintf("%s (%s)", a.Name, macOf(d.nics[i].link)))
		}
	}
	hint := "there is no network card: `make metal` builds the image with drivers for any machine's"
	if len(cards) > 0 {
		hint = "name one that is there, and boot again: " + strings.Join(cards, ", ")
	}
	if err := d.book.lack(strings.Join(list, "; "), hint); err != nil {
		d.Log.Error("network state not written", "err", err)
	}
}
