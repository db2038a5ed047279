package identity

import (
	"net"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// Bounds on machines that were not admitted: anybody on a boot network may cause one to be
// remembered, and must not fill anything with that.
const (
	MaxPending    = 128
	PendingLife   = time.Hour       // since it was last seen
	PendingWrites = 5 * time.Minute // a pending machine is not written again before this
)

// Machine is the record of a machine that boots from the network: what node it is. One
// without a node is pending: it asked, and nobody has admitted it.
type Machine struct {
	ID       string    `json:"id"` // a MAC address or a UUID; of a pending one its MAC address
	Node     string    `json:"node,omitempty"`
	Role     string    `json:"role,omitempty"`
	MAC      string    `json:"mac,omitempty"` // as last seen
	UUID     string    `json:"uuid,omitempty"`
	Firmware string    `json:"firmware,omitempty"`
	First    time.Time `json:"first,omitzero"`
	Last     time.Time `json:"last,omitzero"`
	Admitted time.Time `json:"admitted,omitzero"`
	By       string    `json:"by,omitempty"`
	Install  string    `json:"install,omitempty"` // the disk that it installs itself on, as runink.install has it
	Wipe     string    `json:"wipe,omitempty"`    // as runink.wipe has it
}

// Expired reports whether a pending machine is as good as forgotten.
func (m Machine) Expired(now time.Time) bool { return now.Sub(m.Last) > PendingLife }

// ParseMAC reads the MAC address of an Ethernet card in any usual form and returns it as
// records have it, 52:54:00:12:34:56. Errors are of kind Invalid.
func ParseMAC(text string) (string, error) {
	const op = "read MAC address"
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 {
		return "", errs.E(errs.Invalid, op, "%.40q is none", text).WithField("mac").WithHint("write it like 52:54:00:12:34:56")
	}
	if mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
		return "", errs.E(errs.Invalid, op, "%s is no card's", mac).WithField("mac")
	}
	return mac.String(), nil
}

// ParseUUID reads the UUID of a machine's firmware as SMBIOS and dmidecode write it, and
// returns it in lower case. Firmware that has none says so with zeros or ones: that is "".
// Errors are of kind Invalid.
func ParseUUID(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 {
		return "", errs.E(errs.Invalid, "read UUID", "%.40q is none", text).WithField("uuid").WithHint("write it like 4c4c4544-0042-3510-8052-b4c04f4d4b32")
	}
	if id == uuid.Nil || id == uuid.Max {
		return "", nil
	}
	return id.String(), nil
}

// ParseMachine reads what a machine's record is by: a MAC address or a UUID.
func ParseMachine(text string) (string, error) {
	if len(text) == 36 {
		id, err := ParseUUID(text)
		if err == nil && id == "" {
			err = errs.E(errs.Invalid, "read UUID", "%s stands for none", text).WithField("id").WithHint("admit the machine by its MAC address")
		}
		return id, err
	}
	id, err := ParseMAC(text)
	if err != nil {
		return "", errs.E(errs.Invalid, "read machine", "%.40q is neither a MAC address nor a UUID", text).WithField("id").
			WithHint("`runink node machines` shows both of those that have asked")
	}
	return id, nil
}

// Machines returns every admitted machine, by id.
func Machines(r Reader) ([]Machine, error) { return list[Machine](r, machinePrefix, nil) }

// Pending returns the machines that asked within PendingLife and are not admitted, by MAC.
func Pending(r Reader, now time.Time) ([]Machine, error) {
	all, err := list[Machine](r, pendingPrefix, nil)
	kept := all[:0]
	for _, m := range all {
		if !m.Expired(now) {
			kept = append(kept, m)
		}
	}
	return kept, err
}

// ReadPending returns a pending machine by its MAC address, whether or not it is expired.
func ReadPending(r Reader, mac string) (Machine, bool, error) {
	return get[Machine](r, pendingPrefix+mac)
}

// FindMachine returns the record of a machine with a MAC address and perhaps a UUID.
//
// Errors: Conflict if there is a record by each: of two nodes it would be, nobody could say
// which is meant.
func FindMachine(r Reader, mac, uuid string) (Machine, bool, error) {
	m, ok, err := get[Machine](r, machinePrefix+mac)
	if err != nil || uuid == "" {
		return m, ok, err
	}
	u, also, err := get[Machine](r, machinePrefix+uuid)
	switch {
	case err != nil:
		return m, false, err
	case ok && also:
		return m, false, errs.E(errs.Conflict, "find machine", "%s is node %s by its MAC address, and node %s by its UUID %s", mac, m.Node, u.Node, uuid).
			WithHint("runink node forget one of the two")
	case also:
		return u, true, nil
	}
	return m, ok, nil
}

// endTokens revokes the token that a machine has and did not use: it boots again, or may not
// boot any more. The one before that is deleted, so that a machine that boots on and on, or
// somebody who says he is it, leaves one behind and not many.
func endTokens(tx *barn.Tx, machine string) error {
	all, err := Tokens(tx)
	if err != nil {
		return err
	}
	for _, t := range all {
		if t.Machine != machine || !t.Used.IsZero() {
			continue
		}
		if t.Revoked {
			tx.Delete(tokenPrefix + t.ID)
		} else {
			t.Revoked = true
			if err := put(tx, tokenPrefix+t.ID, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// forgetMachinesOf deletes the records of machines that are a node.
func forgetMachinesOf(tx *barn.Tx, node string) error {
	all, err := Machines(tx)
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.Node == node {
			tx.Audit(map[string]string{"machine": m.ID})
			if err := endTokens(tx, m.ID); err != nil {
				return err
			}
			tx.Delete(machinePrefix + m.ID)
		}
	}
	return nil
}

// machineOfKey tells the two tables of machines apart.
func machineOfKey(key string) (id string, pending, ok bool) {
	if id, ok = strings.CutPrefix(key, machinePrefix); ok {
		return id, false, true
	}
	id, ok = strings.CutPrefix(key, pendingPrefix)
	return id, true, ok
}
