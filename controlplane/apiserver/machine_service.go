package apiserver

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// machineService knows the machines that boot from the network.
//
// Whoever is on a boot network can claim any MAC address and UUID. So what an unknown
// machine causes is bounded before it becomes an entry, and what an admitted one gets is
// refused while the node it is lives: a machine that boots has no session.
type machineService struct {
	v1.UnimplementedMachineServiceServer
	s     *server
	nodes NodeState // nil: no node of this server holds a session
	limit *limiter  // of entries about machines that are not admitted

	mu    sync.Mutex
	boots map[string]*limiter // of admitted machines, by id
}

// mayBoot bounds how often a machine gets a token: somebody else may ask in its name, and each
// token is an entry.
func (m *machineService) mayBoot(id string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.boots == nil {
		m.boots = map[string]*limiter{}
	}
	if m.boots[id] == nil {
		m.boots[id] = newLimiter(0.1, 6)
	}
	return m.boots[id].allow(now)
}

// List implements MachineService.
func (m *machineService) List(ctx context.Context, _ *v1.ListMachinesRequest) (*v1.ListMachinesResponse, error) {
	v, err := m.s.host.Barn.View(ctx, barn.Linearizable)
	if err != nil {
		return nil, err
	}
	pending, err := identity.Pending(v, time.Now())
	if err != nil {
		return nil, err
	}
	admitted, err := identity.Machines(v)
	if err != nil {
		return nil, err
	}
	out := &v1.ListMachinesResponse{}
	for _, rec := range append(pending, admitted...) {
		out.Machines = append(out.Machines, machineMessage(rec))
	}
	return out, nil
}

func machineMessage(rec identity.Machine) *v1.Machine {
	out := &v1.Machine{
		Id: rec.ID, State: "pending", Node: rec.Node, Role: rec.Role, Mac: rec.MAC, Uuid: rec.UUID, Firmware: rec.Firmware,
		FirstSeen: stamp(rec.First), LastSeen: stamp(rec.Last), Admitted: stamp(rec.Admitted), Install: rec.Install, Wipe: rec.Wipe,
	}
	if rec.Node != "" {
		out.State = "admitted"
	}
	return out
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// Admit implements MachineService.
func (m *machineService) Admit(ctx context.Context, req *v1.AdmitMachineRequest) (*v1.Machine, error) {
	id, err := identity.ParseMachine(req.GetId())
	if err != nil {
		return nil, err
	}
	if _, err := installWords(req.GetInstall(), req.GetWipe()); err != nil {
		return nil, err
	}
	var rec identity.Machine
	p := identity.MachineAdmit{ID: id, Node: req.GetNode(), Role: req.GetRole(), Install: req.GetInstall(), Wipe: req.GetWipe()}
	if err := m.s.host.Propose(ctx, identity.CmdMachineAdmit, p, req.GetRequestId(), &rec); err != nil {
		return nil, err
	}
	return machineMessage(rec), nil
}

// installWords are what a machine's command line has, beside the rest, to install it: nil
// where no disk is named. Errors are of kind Invalid, with a field of the request.
func installWords(disk, wipe string) ([]string, error) {
	if disk == "" && wipe == "" {
		return nil, nil
	}
	words, err := nodecfg.InstallWords(disk, wipe)
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return nil, errs.E(errs.Invalid, "admit machine", "%w", e.Err).WithField(strings.TrimPrefix(e.Field, nodecfg.Prefix)).WithHint("%s", errs.HintOf(err))
	}
	if err != nil {
		return nil, err
	}
	for _, w := range words {
		if key, v, _ := strings.Cut(w, "="); strings.ContainsAny(v, `$|&'\`) {
			return nil, errs.E(errs.Invalid, "admit machine", "the program that boots machines from the network would read %q otherwise", v).
				WithField(strings.TrimPrefix(key, nodecfg.Prefix)).WithHint("name the disk by its wwn, or by its path")
		}
	}
	return words, nil
}

// Forget implements MachineService.
func (m *machineService) Forget(ctx context.Context, req *v1.ForgetMachineRequest) (*v1.ForgetMachineResponse, error) {
	id, err := identity.ParseMachine(req.GetId())
	if err != nil {
		return nil, err
	}
	if err := m.s.host.Propose(ctx, identity.CmdMachineForget, identity.MachineForget{ID: id}, req.GetRequestId(), nil); err != nil {
		return nil, err
	}
	return &v1.ForgetMachineResponse{}, nil
}

// Boot implements MachineService.
func (m *machineService) Boot(ctx context.Context, req *v1.BootMachineRequest) (*v1.BootMachineResponse, error) {
	const op = "boot machine"
	mac, err := identity.ParseMAC(req.GetMac())
	if err != nil {
		return nil, err
	}
	uuid, err := identity.ParseUUID(req.GetUuid())
	if err != nil {
		return nil, err
	}
	h := m.s.host
	v, err := h.Barn.View(ctx, barn.Linearizable)
	if err != nil {
		return nil, err
	}
	c, ok, err := identity.ReadCluster(v)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errs.E(errs.Unavailable, op, "the cluster is being founded").WithHint("try again in a moment")
	}
	rec, ok, err := identity.FindMachine(v, mac, uuid)
	if err != nil {
		return nil, err
	}
	if !ok {
		return m.pend(ctx, v, identity.MachineSeen{MAC: mac, UUID: uuid, Firmware: req.GetFirmware()}, c.Name, req.GetRequestId())
	}
	out := &v1.BootMachineResponse{Id: rec.ID, Node: rec.Node, Role: rec.Role, Cluster: c.Name}
	if m.nodes != nil && m.nodes.Alive(rec.Node) {
		out.State = "alive"
		return out, nil
	}
	if rec.Install != "" && req.GetCannotInstall() {
		out.State = "install"
		return out, nil
	}
	if !m.mayBoot(rec.ID, time.Now()) {
		return nil, errs.E(errs.Exhausted, op, "machine %s asks for token after token", rec.ID).WithHint("it gets one in ten seconds; if it does not boot so often, somebody says he is it")
	}
	text, id, hash := identity.TokenText(m.s.kek.Derive("join token", PrincipalFrom(ctx).String(), req.GetRequestId()))
	var t identity.Token
	if err := h.Propose(ctx, identity.CmdMachineBoot, identity.MachineBoot{
		MAC: mac, UUID: uuid, Firmware: req.GetFirmware(),
		Token: identity.Token{ID: id, Hash: hash, Expires: time.Now().Add(identity.MaxTokenLife).Truncate(time.Millisecond)},
	}, req.GetRequestId(), &t); err != nil {
		return nil, err
	}
	if t.ID != id {
		return nil, errs.E(errs.Conflict, op, "the request id was used for something else").WithField("request_id")
	}
	if out.CommandLine, err = m.s.commandLine(ctx, t, text); err != nil {
		return nil, err
	}
	install, err := installWords(rec.Install, rec.Wipe)
	if err != nil {
		return nil, err
	}
	out.CommandLine = strings.Join(append([]string{out.CommandLine}, install...), " ")
	out.State, out.Node, out.Role, out.TokenId = "boot", t.Node, t.Role, t.ID
	return out, nil
}

// pend remembers a machine that is not admitted. One that was remembered a moment ago, and
// one that finds no room, cost no entry.
func (m *machineService) pend(ctx context.Context, v barn.View, p identity.MachineSeen, cluster, requestID string) (*v1.BootMachineResponse, error) {
	out := &v1.BootMachineResponse{State: "pending", Id: p.MAC, Cluster: cluster}
	now := time.Now()
	old, ok, err := identity.ReadPending(v, p.MAC)
	if err != nil {
		return nil, err
	}
	if ok && now.Sub(old.Last) < identity.PendingWrites {
		return out, nil
	}
	if !ok {
		all, err := identity.Pending(v, now)
		if err != nil {
			return nil, err
		}
		if len(all) >= identity.MaxPending {
			return nil, identity.PendingFull()
		}
	}
	if !m.limit.allow(now) {
		return nil, errs.E(errs.Exhausted, "remember machine", "too many unknown machines ask at once").WithHint("it asks again by itself")
	}
	var rec identity.Machine
	if err := m.s.host.Propose(ctx, identity.CmdMachineSeen, p, requestID, &rec); err != nil {
		return nil, err
	}
	out.Id = cmp.Or(rec.ID, out.Id)
	return out, nil
}
