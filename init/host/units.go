package host

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/runink/runink/internal/nodecfg"
)

// Names of the units, and where they are.
const (
	UnitDir      = "/etc/systemd/system"
	SliceUnit    = "runink.slice"
	KeeperUnit   = "runink-keeper.service"
	AgentUnit    = "runink-agent.service"
	WatchdogUnit = "runink-watchdog.service"
)

// KeeperGroup is the control group that systemd makes for the keeper, and delegates to it.
const KeeperGroup = nodecfg.CgroupRoot + "/" + SliceUnit + "/" + KeeperUnit

// UnitOptions are what differs from one host's units to another's.
type UnitOptions struct {
	Binary     string   // absolute path of runink
	Engine     string   // absolute path of runink-engine; runink-engine-net is beside it
	Advertise  []string // addresses where other machines reach this one; none: its interfaces'
	Unenforced bool     // run with what this host lacks
	TimeScale  float64
}

// Unit is one file in UnitDir.
type Unit struct{ Name, Text string }

// Units are what systemd is told, in the order in which they start.
func Units(o UnitOptions) []Unit {
	scaled := func(d time.Duration) string {
		return strconv.FormatFloat(d.Seconds()*max(o.TimeScale, 1), 'f', -1, 64)
	}
	unenforced := ""
	if o.Unenforced {
		unenforced = " --unenforced"
	}
	advertise := ""
	if len(o.Advertise) > 0 {
		advertise = " --advertise " + quote(strings.Join(o.Advertise, ","))
	}
	bin := quote(o.Binary)
	return []Unit{
		{SliceUnit, `# Written by "runink join"; "runink leave" removes it.
[Unit]
Description=Runink node
Before=slices.target

[Slice]
# What an appliance's PID 1 keeps for the node itself; slices of pipelines do not claim it.
MemoryMin=256M
# What an agent holds of secrets stays in memory.
MemorySwapMax=0
`},
		{WatchdogUnit, fmt.Sprintf(`# Written by "runink join"; "runink leave" removes it.
[Unit]
Description=Runink watchdog: reboots this machine when what must be dead is not
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=%s watchdog --config %s
Slice=%s
Restart=always
RestartSec=250ms
# Of the watchdog itself: systemd starts it again when it does not look any more.
WatchdogSec=%s
TimeoutStartSec=%s
MemoryMin=32M
OOMScoreAdjust=-1000
Nice=-10

[Install]
WantedBy=multi-user.target
`, bin, nodecfg.HostConfig, SliceUnit, scaled(10*time.Second), scaled(90*time.Second))},
		{KeeperUnit, fmt.Sprintf(`# Written by "runink join"; "runink leave" removes it.
[Unit]
Description=Runink keeper: starts, watches and kills the slices of this node
Wants=%[1]s
After=%[1]s
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=%[2]s keeper --delegated --config %[3]s%[4]s
Slice=%[5]s
# The slices live in this unit's group, below the folder "herds": to stop or restart this unit
# ends them, and the control plane is told.
Delegate=cpu memory pids
Restart=always
RestartSec=1
# It ends its slices itself, in order; what it leaves is killed.
KillMode=mixed
TimeoutStartSec=%[6]s
TimeoutStopSec=%[7]s
WatchdogSec=%[8]s
TasksMax=infinity

[Install]
WantedBy=multi-user.target
`, WatchdogUnit, bin, nodecfg.HostConfig, unenforced, SliceUnit, scaled(90*time.Second), scaled(15*time.Second), scaled(30*time.Second))},
		{AgentUnit, fmt.Sprintf(`# Written by "runink join"; "runink leave" removes it.
[Unit]
Description=Runink agent: this node's session with the control plane
Wants=network-online.target %[1]s
After=network-online.target %[1]s
StartLimitIntervalSec=0

[Service]
ExecStart=%[2]s agent --host --config %[3]s --engine %[4]s%[5]s%[6]s
Slice=%[7]s
# Slices do not notice that it is restarted: they are the keeper's.
Restart=always
RestartSec=1
TimeoutStopSec=%[8]s
MemoryMin=192M

[Install]
WantedBy=multi-user.target
`, KeeperUnit, bin, nodecfg.HostConfig, quote(o.Engine), advertise, unenforced, SliceUnit, scaled(20*time.Second))},
	}
}

// quote protects a word of ExecStart: systemd.service(5), "Command lines", and the specifiers of
// systemd.unit(5).
func quote(s string) string {
	s = strings.NewReplacer("%", "%%", "$", "$$").Replace(s)
	if !strings.ContainsAny(s, " \t\"'\\;") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
