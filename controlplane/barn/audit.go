package barn

import (
	"encoding/json"
	"fmt"
	"time"
)

// auditKept is how many audit records a replica keeps in its map; the oldest go first, at
// the same entry everywhere. A record is a few hundred bytes. Who needs them for longer
// follows "/audit/" with a watch and exports them.
const auditKept = 64 << 10

// AuditRecord is the value of "/audit/" + 16 hex digits of the log index: one for each
// command that was applied, accepted or not. A replay of a remembered request leaves none.
type AuditRecord struct {
	Time      time.Time         `json:"time"` // the proposer's
	Principal string            `json:"principal,omitempty"`
	Kind      string            `json:"kind"`
	Version   uint16            `json:"version"`
	RequestID string            `json:"request_id,omitempty"`
	Outcome   string            `json:"outcome"`          // "ok", "ignored", or a kind of errs
	Reason    string            `json:"reason,omitempty"` // why it was rejected
	Detail    map[string]string `json:"detail,omitempty"` // from Tx.Audit
}

// AuditKey is the key of the record of the command at a log index.
func AuditKey(index uint64) string { return fmt.Sprintf("%s%016x", auditPrefix, index) }

// ParseAudit decodes a value below "/audit/".
func ParseAudit(data []byte) (AuditRecord, error) {
	var r AuditRecord
	err := json.Unmarshal(data, &r)
	return r, err
}

const (
	outcomeOK      = "ok"
	outcomeIgnored = "ignored"
)

// audit writes the record of a command and counts it.
func (r *retained) audit(tx *Tx, c *Command, outcome, reason string) {
	data, err := json.Marshal(AuditRecord{
		Time: c.Time, Principal: c.Principal, Kind: c.Kind, Version: c.Version, RequestID: c.RequestID,
		Outcome: outcome, Reason: reason, Detail: tx.detail,
	})
	if err != nil {
		panic(fmt.Sprintf("barn: an audit record does not encode: %v", err)) // strings and a time before 2263
	}
	tx.put(AuditKey(tx.index), data)
	r.audits++
}

// trimAudit drops the oldest records beyond the limit, without raising events.
func (r *retained) trimAudit(tx *Tx) {
	for r.audits > r.limits.audits {
		k, _, ok := first(tx, auditPrefix)
		if !ok {
			return
		}
		tx.remove(k)
		r.audits--
	}
}
