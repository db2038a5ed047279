package apiserver

import (
	"slices"

	v1 "github.com/runink/runink/api/runink/v1"
)

// route says which replica answers an RPC.
type route uint8

const (
	local         route = iota // the one that was called
	leader                     // the leader; followers forward, or redirect a stream
	leaderOrStale              // the leader, unless the request asks for a stale read
)

// herdCheck says where an RPC's herd is known.
type herdCheck uint8

const (
	noHerd    herdCheck = iota // it belongs to no herd
	inRequest                  // the request's field herd (or herd.name); empty means all, and handlers filter
	inHandler                  // the handler looks the object up and calls RequireHerd
)

// rule is one row of the policy.
type rule struct {
	allow []Role
	route route
	herd  herdCheck
}

func (r rule) allows(role Role) bool { return slices.Contains(r.allow, role) }

// policy is who may call what: the one table. A method that is not in it is refused to
// everybody, and a test fails if a service of the protocol has such a method.
func policy() map[string]rule {
	var (
		everybody = []Role{Anonymous, Viewer, Runner, Admin, NodeRole, ControlRole, OperatorRole, NetbootRole}
		known     = []Role{Viewer, Runner, Admin, NodeRole, ControlRole, OperatorRole}
		view      = []Role{Viewer, Runner, Admin, OperatorRole}
		run       = []Role{Runner, Admin, OperatorRole}
		admin     = []Role{Admin, OperatorRole}
		operator  = []Role{OperatorRole}
		nodes     = []Role{NodeRole, ControlRole}
		machines  = []Role{NodeRole, ControlRole, OperatorRole}
		control   = []Role{ControlRole}
		newcomer  = []Role{Anonymous}
		netboot   = []Role{NetbootRole, ControlRole, OperatorRole} // a control node may have a service of its own
		blobIn    = []Role{Runner, Admin, NodeRole, ControlRole, OperatorRole}
	)
	return map[string]rule{
		v1.BootstrapService_Offer_FullMethodName:     {operator, local, noHerd},
		v1.BootstrapService_Bootstrap_FullMethodName: {operator, local, noHerd},

		v1.ClusterService_Status_FullMethodName:             {known, leaderOrStale, noHerd},
		v1.ClusterService_ListMembers_FullMethodName:        {machines, leader, noHerd},
		v1.ClusterService_RemoveMember_FullMethodName:       {operator, leader, noHerd},
		v1.ClusterService_TransferLeadership_FullMethodName: {operator, leader, noHerd},
		v1.ClusterService_Snapshot_FullMethodName:           {operator, leader, noHerd},
		v1.ClusterService_Restore_FullMethodName:            {operator, leader, noHerd},

		v1.ClusterService_RecordRefusal_FullMethodName: {control, leader, noHerd},

		v1.JoinService_Clock_FullMethodName: {everybody, local, noHerd},
		v1.JoinService_Join_FullMethodName:  {newcomer, leader, noHerd},
		v1.JoinService_Renew_FullMethodName: {nodes, leader, noHerd},

		v1.NodeService_List_FullMethodName:        {known, leaderOrStale, noHerd},
		v1.NodeService_Get_FullMethodName:         {known, leader, noHerd},
		v1.NodeService_Drain_FullMethodName:       {operator, leader, noHerd},
		v1.NodeService_Resume_FullMethodName:      {operator, leader, noHerd},
		v1.NodeService_Label_FullMethodName:       {operator, leader, noHerd},
		v1.NodeService_Remove_FullMethodName:      {operator, leader, noHerd},
		v1.NodeService_CreateToken_FullMethodName: {operator, leader, noHerd},
		v1.NodeService_ListTokens_FullMethodName:  {operator, leader, noHerd},
		v1.NodeService_RevokeToken_FullMethodName: {operator, leader, noHerd},

		v1.MachineService_List_FullMethodName:   {operator, leader, noHerd},
		v1.MachineService_Admit_FullMethodName:  {operator, leader, noHerd},
		v1.MachineService_Forget_FullMethodName: {operator, leader, noHerd},
		v1.MachineService_Boot_FullMethodName:   {netboot, leader, noHerd},

		v1.HerdService_Put_FullMethodName:    {operator, leader, noHerd},
		v1.HerdService_Get_FullMethodName:    {known, leader, inHandler},
		v1.HerdService_List_FullMethodName:   {known, leader, inHandler},
		v1.HerdService_Delete_FullMethodName: {operator, leader, noHerd},

		v1.IdentityService_WhoAmI_FullMethodName:    {everybody, leader, noHerd},
		v1.IdentityService_CanI_FullMethodName:      {everybody, leader, noHerd},
		v1.IdentityService_CreateKey_FullMethodName: {admin, leader, inRequest},
		v1.IdentityService_ListKeys_FullMethodName:  {admin, leader, inRequest},
		v1.IdentityService_RevokeKey_FullMethodName: {admin, leader, inHandler},

		v1.SecretService_Put_FullMethodName:    {admin, leader, inRequest},
		v1.SecretService_List_FullMethodName:   {admin, leader, inRequest},
		v1.SecretService_Delete_FullMethodName: {admin, leader, inRequest},

		v1.AuditService_List_FullMethodName: {operator, leader, noHerd},

		v1.EventService_Watch_FullMethodName: {view, leader, inRequest},

		v1.SchedulerService_Decisions_FullMethodName: {operator, leader, noHerd},

		v1.RunService_Submit_FullMethodName:  {run, leader, inRequest},
		v1.RunService_Get_FullMethodName:     {view, leaderOrStale, inHandler},
		v1.RunService_List_FullMethodName:    {view, leaderOrStale, inRequest},
		v1.RunService_Watch_FullMethodName:   {view, leader, inHandler},
		v1.RunService_Cancel_FullMethodName:  {run, leader, inHandler},
		v1.RunService_Explain_FullMethodName: {view, leader, inHandler},
		v1.RunService_Logs_FullMethodName:    {view, leader, inHandler},

		v1.AgentService_Session_FullMethodName:    {nodes, leader, noHerd},
		v1.AgentService_SliceGrant_FullMethodName: {nodes, leader, noHerd},
		v1.AgentService_PushLog_FullMethodName:    {nodes, leader, noHerd},

		v1.ArtifactService_Stat_FullMethodName:      {known, local, noHerd},
		v1.ArtifactService_Upload_FullMethodName:    {blobIn, leader, inHandler},
		v1.ArtifactService_Download_FullMethodName:  {known, local, inHandler},
		v1.ArtifactService_Replicate_FullMethodName: {control, local, noHerd},

		v1.ArtifactService_OpenRejected_FullMethodName: {run, leader, inHandler},

		v1.GovernanceService_Lineage_FullMethodName:      {view, leader, inHandler},
		v1.GovernanceService_ListDatasets_FullMethodName: {view, leader, inHandler},
		v1.GovernanceService_OpenLineage_FullMethodName:  {view, leader, inHandler},
	}
}
