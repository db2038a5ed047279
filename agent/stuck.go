package agent

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// stuckAfter is how long the parts of a session may take to end with it, before TimeScale.
// All wait for nothing but their context, the keeper and the kernel.
const stuckAfter = 10 * time.Second

// stuck ends the process, with what every goroutine was doing. An agent that cannot open a
// session any more is of no use, and nobody can see why; PID 1 starts another, and slices do
// not notice. (To go on without the part that hangs would leave two of it.)
func stuck(what string) {
	fmt.Fprintf(os.Stderr, "agent: %s; it ends itself, and these were its goroutines:\n", what)
	buf := make([]byte, 4<<20)
	for _, line := range goroutines(string(buf[:runtime.Stack(buf, true)])) {
		fmt.Fprintln(os.Stderr, line)
	}
	os.Exit(exitStuck)
}

// exitStuck is EX_SOFTWARE of sysexits(3), as for an injected fault.
const exitStuck = 70

var (
	goroutineHead = regexp.MustCompile(`(?m)^goroutine (\d+)(?: gp=\S+ m=\S+(?: mp=\S+)?)? \[(.*)\]:$`)
	frameCall     = regexp.MustCompile(`^(?:created by )?(\S+?)(?:\([^()]*\))?(?: in goroutine \d+)?$`)
)

// goroutines makes one line of each goroutine of a stack dump, innermost call first: a serial
// console takes no more.
func goroutines(dump string) []string {
	var out []string
	for one := range strings.SplitSeq(dump, "\n\n") {
		head := goroutineHead.FindStringSubmatch(strings.SplitN(one, "\n", 2)[0])
		if head == nil {
			continue
		}
		var calls []string
		for line := range strings.Lines(one) {
			line = strings.TrimSuffix(line, "\n")
			if strings.HasPrefix(line, "\t") || strings.HasPrefix(line, "goroutine ") {
				continue
			}
			if m := frameCall.FindStringSubmatch(line); m != nil {
				calls = append(calls, m[1][strings.LastIndexByte(m[1], '/')+1:])
			}
		}
		out = append(out, fmt.Sprintf("  %s [%s] %s", head[1], head[2], strings.Join(calls, " < ")))
	}
	return out
}
