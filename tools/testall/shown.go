package main

// proof names the test that shows a promise: by its name where no other package has one of
// that name, else as results are printed, "package Test" after the mark of its part.
type proof struct{ test, what string }

// shown is printed at the end of every run: the promises whose proof a reader may want to
// open first. A test that was not run in this run says so, and fails a run of all parts.
var shown = []proof{
	{"TestFlightsOnThreeNodes", "the result equals an independent computation; no row crosses the switch in clear"},
	{"TestLeaderPowerCutDuringRun", "the leader loses power while it hosts a busy slice: output equal, no acknowledged write lost"},
	{"TestLeaderDiesBetweenCommitAndReply", "the client's retry returns the same run"},
	{"TestServerDiesBetweenCommitAndReply", "so it does on the booted cluster, and there is one run"},
	{"TestOutputsSurviveAnyControlNode", "every output can be fetched with any one control node gone"},
	{"TestBlobsOutliveAnyControlNode", "so can bundles and inputs"},
	{"TestAllNodesOffForTwoDays", "all nodes off, clock 48 h on: Ready again with no operator"},
	{"TestWipedNodeWaits", "a wiped first node founds no second cluster"},
	{"TestVMDeadmanWithStoppedAgent", "a stopped agent's slices are dead by their deadline"},
	{"TestLinkCutWithStoppedAgent", "link cut, agent stopped: slices dead before replacements start; healed: one live attempt"},
	{"TestNoNodeOutlivesItsLease", "replacement never starts before that deadline, whatever the clocks do within drift"},
	{"TestVMUnkillableSliceFences", "what cannot be killed makes the machine reboot"},
	{"TestVMThirtyExitsWhileAgentsDie", "30 slices, 30 distinct exits, agents killed: each reported once"},
	{"TestThirtyExitsWhileAgentsAndServersDie", "so they are on the booted cluster, servers killed too, and each log line once"},
	{"TestLogSurvivesKilledReaders", "a log reader killed again and again loses and doubles no byte"},
	{"TestTwoRunsThatDoNotFitTogetherBothFinish", "two runs of 60 % each: both finish, never half-placed"},
	{"TestWaysOutOfASlice", "slices of the booted image on three nodes reach, see and change nothing that is not theirs"},
	{"TestVMWaysOutAreOpenOutside", "the same attempts succeed outside of a slice"},
	{"TestExcessIsReportedAndHarmsNobody", "fork bomb, memory hog and full /tmp in the booted image: reported as such, neighbour and node unharmed"},
	{"TestTwoRunsOfSixtyPercent", "so they do on the booted cluster, and the one that waits says why"},
	{"TestVMIsolation", "each way out of a slice is closed, and open when its guard is off"},
	{"TestVMGuards", "each guard of the sandbox, with its control"},
	{"TestVMDefaultDeny", "the network reaches what the DAG joins, and nothing else"},
	{"TestVMForkBomb", "a fork bomb is reported as such; neighbours are unharmed"},
	{"TestVMMemoryHog", "so is a memory hog"},
	{"TestVMFullTmp", "so is a full /tmp"},
	{"TestRefusedMachines", "machines with a bad pin or token: refused on the console and in the audit log, nothing admitted"},
	{"TestJoinRefusals", "wrong pin; token expired, reused, for another node or role: refused and audited"},
	{"TestEveryRPCEveryRole", "every RPC × every role"},
	{"TestHistories", "Barn's histories are linearizable under faults"},
	{"TestStaleReadIsCaught", "and the checker would notice"},
	{"TestCrashAnywhere", "Barn killed at every named point loses nothing"},
	{"TestBadInputChangesNothing", "wrong files, flags, digests, herds and quotas, typed at the program: refused with place and next step, nothing changed"},
	{"TestFullDiskOfAControlNode", "a full disk: refused early, reads go on, writes return with the room"},
	{"TestCtrlCLeavesNothingBehind", "an interrupted make qemu-cluster leaves no process, file or socket"},
	{"TestSubmissionsThatAreRefusedChangeNothing", "bad submissions change nothing"},
	{"TestUploadsThatAreRefusedChangeNothing", "bad uploads change nothing"},
	{"TestFullDisk", "a full disk on a control node is said, and changes nothing"},
	{"TestDevOnce", "make dev runs the example, says what this host cannot enforce, and leaves nothing behind"},
	{"TestDevInterrupted", "nor does Ctrl-C while slices run"},
	{"TestImportMatrix", "the rooms of ARCHITECTURE.md"},
	{"TestBinaryIsReproducible", "the binary is byte-identical from two places"},
}
