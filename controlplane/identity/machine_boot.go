package identity

import (
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// MachineBoot is the payload of CmdMachineBoot: an admitted machine stands before a netboot
// service. Of Token, node, role and machine are the record's.
type MachineBoot struct {
	MAC      string `json:"mac"`
	UUID     string `json:"uuid,omitempty"`
	Firmware string `json:"firmware"`
	Token    Token  `json:"token"`
}

// machineBoot mints the token of a machine's next boot and revokes what it did not use of
// the boots before: of one machine at most one token is good.
func machineBoot(tx *barn.Tx, m barn.Meta, p MachineBoot) (Token, error) {
	tx.Audit(map[string]string{"mac": p.MAC, "uuid": p.UUID, "firmware": p.Firmware})
	rec, ok, err := FindMachine(tx, p.MAC, p.UUID)
	if err != nil {
		return Token{}, err
	}
	if !ok {
		return Token{}, errs.E(errs.NotFound, "boot machine", "machine %s was forgotten meanwhile", p.MAC)
	}
	tx.Audit(map[string]string{"machine": rec.ID})
	if err := endTokens(tx, rec.ID); err != nil {
		return Token{}, err
	}
	rec.MAC, rec.UUID, rec.Firmware, rec.Last = p.MAC, p.UUID, p.Firmware, m.Time
	if err := put(tx, machinePrefix+rec.ID, rec); err != nil {
		return Token{}, err
	}
	t := p.Token
	t.Node, t.Role, t.Machine = rec.Node, rec.Role, rec.ID
	return tokenCreate(tx, m, TokenCreate{Token: t})
}
