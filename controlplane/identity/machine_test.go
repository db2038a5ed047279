package identity

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

func TestParseMachine(t *testing.T) {
	for _, tt := range []struct {
		text, want string
	}{
		{"52:54:00:12:34:AB", "52:54:00:12:34:ab"},
		{"52-54-00-12-34-ab", "52:54:00:12:34:ab"},
		{"5254.0012.34ab", "52:54:00:12:34:ab"},
		{"4C4C4544-0042-3510-8052-B4C04F4D4B32", "4c4c4544-0042-3510-8052-b4c04f4d4b32"},
		{"", ""},
		{"n7", ""},
		{"52:54:00:12:34", ""},
		{"52:54:00:12:34:56:78:9a", ""}, // an EUI-64
		{"01:00:5e:00:00:01", ""},
		{"00:00:00:00:00:00", ""},
		{"00000000-0000-0000-0000-000000000000", ""},
		{"ffffffff-ffff-ffff-ffff-ffffffffffff", ""},
		{"4c4c4544-0042-3510-8052-b4c04f4d4b3x", ""},
		{"../../../../etc/nodes/52540012345678", ""},
	} {
		got, err := ParseMachine(tt.text)
		if got != tt.want || (err == nil) != (tt.want != "") || err != nil && errs.HintOf(err) == "" {
			t.Errorf("%q: %q, %v", tt.text, got, err)
		}
	}
}

func FuzzParseMachine(f *testing.F) {
	f.Add("52:54:00:12:34:ab")
	f.Add("4C4C4544-0042-3510-8052-B4C04F4D4B32")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseMachine(text)
		if err != nil {
			return
		}
		if again, err := ParseMachine(id); err != nil || again != id {
			t.Errorf("%q is read as %q, and that as %q, %v", text, id, again, err)
		}
	})
}

// Pending machines are bounded in number and time: one that has not been seen for long makes
// room, and one that has is kept.
func TestPendingMachines(t *testing.T) {
	s := open(t, Options{})
	mac := func(i int) string { return fmt.Sprintf("52:54:00:00:%02x:%02x", i/256, i%256) }
	see := func(i int, at time.Time) error {
		_, err := do[Machine](s, at, CmdMachineSeen, MachineSeen{MAC: mac(i), Firmware: "bios"})
		return err
	}
	for i := range MaxPending {
		if err := see(i, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := see(MaxPending, now); !errors.Is(err, errs.Exhausted) {
		t.Errorf("one too many: %v", err)
	}
	later := now.Add(PendingLife / 2)
	if err := see(0, later); err != nil { // known: seen again
		t.Error(err)
	}
	end := now.Add(PendingLife + time.Second)
	if err := see(MaxPending, end); err != nil {
		t.Errorf("where others are forgotten: %v", err)
	}
	v, err := s.b.View(t.Context(), barn.Stale)
	if err != nil {
		t.Fatal(err)
	}
	left, err := Pending(v, end)
	if err != nil || len(left) != 2 || left[0].MAC != mac(0) || !left[0].First.Equal(now) || !left[0].Last.Equal(later) || left[1].MAC != mac(MaxPending) {
		t.Errorf("left: %v, %v", left, err)
	}
	if rest, err := list[Machine](v, pendingPrefix, nil); err != nil || len(rest) != 2 {
		t.Errorf("%d are stored, %v", len(rest), err)
	}
	// Two that say they have one UUID are not told apart by it.
	const same = "03000200-0400-0500-0006-000700080009"
	for i := range 2 {
		if _, err := do[Machine](s, end, CmdMachineSeen, MachineSeen{MAC: mac(1000 + i), UUID: same, Firmware: "bios"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := do[Machine](s, end, CmdMachineAdmit, MachineAdmit{ID: same, Node: "w1", Role: "worker"}); !errors.Is(err, errs.Conflict) {
		t.Errorf("admitted by the UUID of two: %v", err)
	}
	if _, err := do[Machine](s, end, CmdMachineAdmit, MachineAdmit{ID: mac(1000), Node: "w1", Role: "worker"}); err != nil {
		t.Error(err)
	}
	// The same admission again is no other one.
	if m, err := do[Machine](s, end.Add(time.Hour), CmdMachineAdmit, MachineAdmit{ID: mac(1000), Node: "w1", Role: "worker"}); err != nil || !m.Admitted.Equal(end) {
		t.Errorf("%+v, %v", m, err)
	}
}

// A machine is admitted by one of its names only, and a card that moved is no name of the machine
// that it was in.
func TestMachineOfTwoNames(t *testing.T) {
	s := open(t, Options{})
	const card, first, second = "52:54:00:00:00:01", "4c4c4544-0042-3510-8052-b4c04f4d4b31", "4c4c4544-0042-3510-8052-b4c04f4d4b32"
	seen := func(uuid string) {
		t.Helper()
		if _, err := do[Machine](s, now, CmdMachineSeen, MachineSeen{MAC: card, UUID: uuid, Firmware: "bios"}); err != nil {
			t.Fatal(err)
		}
	}
	admit := func(id, node string) error {
		_, err := do[Machine](s, now, CmdMachineAdmit, MachineAdmit{ID: id, Node: node, Role: "worker"})
		return err
	}
	seen(first)
	if err := admit(first, "w1"); err != nil {
		t.Fatal(err)
	}
	if err := admit(card, "w2"); !errors.Is(err, errs.Conflict) {
		t.Errorf("the same machine by its card: %v", err)
	}
	seen(second)
	if err := admit(card, "w2"); err != nil {
		t.Errorf("the machine that has the card now: %v", err)
	}
}
