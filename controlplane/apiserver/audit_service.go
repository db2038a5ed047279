package apiserver

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// auditService reads the audit log, which Barn writes.
type auditService struct {
	v1.UnimplementedAuditServiceServer
	h *Host
}

const (
	auditPrefix       = "/audit/"
	defaultAuditLimit = 100
)

// List implements AuditService. With newest_first the answer begins at the end of the log.
func (a *auditService) List(ctx context.Context, req *v1.ListAuditRequest) (*v1.ListAuditResponse, error) {
	v, err := a.h.Barn.View(ctx, barn.Linearizable)
	if err != nil {
		return nil, err
	}
	limit := int(req.GetLimit())
	if limit == 0 {
		limit = defaultAuditLimit
	}
	out := &v1.ListAuditResponse{}
	start := auditPrefix
	if req.GetAfter() > 0 {
		start = barn.AuditKey(req.GetAfter()) + "\x00"
	}
	v.RangeFrom(start, auditPrefix[:len(auditPrefix)-1]+"0", func(key string, val barn.Value) bool {
		var e *v1.AuditEntry
		if e, err = auditEntry(key, val); err != nil {
			return false
		}
		if req.GetAction() != "" && !strings.HasPrefix(e.GetAction(), req.GetAction()) {
			return true
		}
		out.Entries = append(out.Entries, e)
		if req.GetNewestFirst() {
			if len(out.Entries) > 2*limit { // keep the end of the log, without growing with it
				out.Entries = slices.Delete(out.Entries, 0, limit)
			}
			return true
		}
		return len(out.Entries) < limit
	})
	if err != nil {
		return nil, err
	}
	if req.GetNewestFirst() {
		slices.Reverse(out.Entries)
		out.Entries = out.Entries[:min(len(out.Entries), limit)]
	}
	return out, nil
}

func auditEntry(key string, val barn.Value) (*v1.AuditEntry, error) {
	const op = "read audit log"
	index, err := strconv.ParseUint(strings.TrimPrefix(key, auditPrefix), 16, 64)
	if err != nil {
		return nil, errs.E(errs.Corrupt, op, "%w", err).WithField(key)
	}
	r, err := barn.ParseAudit(val.Data)
	if err != nil {
		return nil, errs.E(errs.Corrupt, op, "%w", err).WithField(key)
	}
	e := &v1.AuditEntry{
		Index: index, Time: timestamppb.New(r.Time), Principal: r.Principal, Action: r.Kind,
		Outcome: r.Outcome, RequestId: r.RequestID, Detail: r.Detail,
	}
	if r.Reason != "" {
		if e.Detail == nil {
			e.Detail = map[string]string{}
		}
		e.Detail["reason"] = r.Reason
	}
	return e, nil
}
