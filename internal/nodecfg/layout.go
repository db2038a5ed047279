package nodecfg

import "syscall"

// Files and folders of a node at run time. State is on the state disk (or in memory where
// a node has none); Run is a tmpfs.
const (
	RunDir     = "/run/runink"
	ConfigFile = RunDir + "/config.json" // Config, written by PID 1
	NetFile    = RunDir + "/net.json"    // NetState, written by netd
	KeeperSock = RunDir + "/keeper.sock"
	StatusDir  = RunDir + "/status"      // Status of each component, for the console
	LogDir     = RunDir + "/log"         // <component>.log, bounded, written by PID 1
	ResolvFile = RunDir + "/resolv.conf" // written by netd; /etc/resolv.conf points here
	ImageFile  = "/etc/os-release"

	// MediumDir is where PID 1 mounts what the node booted from, read-only: for the time of an
	// install, or for as long as the node boots others.
	MediumDir = RunDir + "/medium"
	// NetbootDir is the netboot service's: a NodeDir with a copy of the node's identity, in memory.
	NetbootDir = RunDir + "/netboot"

	// WatchdogLock and DeadlineFile are shared by keeper and watchdog of an ordinary host
	// (package fence).
	WatchdogLock = RunDir + "/watchdog.lock"
	DeadlineFile = RunDir + "/deadline"

	StateDir   = "/var/lib/runink"
	HostConfig = StateDir + "/config.json" // Config of an ordinary host, which has no PID 1 to write it
	// HostJoinFile holds a HostJoin beside it.
	HostJoinFile = StateDir + "/join.json"
	NodeDir      = StateDir + "/node" // key.pem, cert.pem (leaf first), ca.pem (roots), generation
	CertFile     = NodeDir + "/cert.pem"
	// GenerationFile holds 32 hexadecimal digits, drawn when the state disk is made: the
	// same node with a new disk is another replica.
	GenerationFile = NodeDir + "/generation"
	BarnDir        = StateDir + "/barn"  // raft log and tables
	BlobDir        = StateDir + "/blobs" // content-addressed blobs of control nodes
	AgentDir       = StateDir + "/agent" // cache, staging, logs
	KEKFile        = StateDir + "/kek"   // key-encryption key, 0600, control nodes only
)

// NetEngine is the file of the stock engine that opens edges between nodes: it stands beside
// the one that does not.
func NetEngine(engine string) string { return engine + "-net" }

// What a node's processes have to agree on with PID 1.
const (
	DefaultStateSerial = "runink-state" // the state disk's, unless runink.state says otherwise
	StatePartition     = "runink-state" // and the GPT name of the partition that disk images have for it
	CgroupRoot         = "/sys/fs/cgroup"
	CgroupHerds        = CgroupRoot + "/herds"  // the keeper's, memory.max bounds all slices
	CgroupSystem       = CgroupRoot + "/system" // one child for each component, named like it

	// NetbootID is the user and group that the netboot service becomes. No slice has it: theirs
	// begin far above.
	NetbootID = 67

	// ExitDeadman is the keeper's exit code for "something outlived cgroup.kill by K":
	// PID 1 reboots the machine at once.
	ExitDeadman = 86

	// Signals by which the node's own processes, as root, ask PID 1 for an ordered end.
	SignalReboot   = syscall.SIGUSR1
	SignalPowerOff = syscall.SIGUSR2
)

// Reserve returns how many of a machine's bytes belong to the node itself: slices together
// never get the rest.
func Reserve(total int64) int64 {
	return min(max(total/4, 96<<20), 1<<30)
}

// Ports of a node.
const (
	PortAPI       = 7460
	PortRaft      = 7461
	PortWireGuard = 7462 // udp
	PortMetrics   = 7463
	PortEdge      = 7464
	PortNetboot   = 7465 // HTTP, of the netboot service
)
