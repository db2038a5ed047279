// Package fault lets tests break a running process at named points.
//
// Code calls Hit("barn.apply.before-fsync") where a crash, an error or a stall must be
// survivable. Without an armed fault a Hit is one atomic load. Faults are armed by tests
// in process (Arm) or, for child processes and VMs, by the environment variable
// RUNINK_FAULT ("point=action[;point=action…]", action one of error, exit, stop,
// stop:DURATION, delay:DURATION, or several with commas, one after the other; with an
// optional "@N": only the Nth hit).
//
// A point that is hit on behalf of somebody, a herd say, is armed for all as "point", or
// for one as "point(herd)". So machines that many tests share can be armed as they boot.
// What the variable armed says so on standard error before it acts.
package fault

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Env is the variable that arms faults at start.
const Env = "RUNINK_FAULT"

// ErrInjected is what an "error" action returns, wrapped with its point.
var ErrInjected = fmt.Errorf("injected fault")

// Action is what happens at a point. It returns the error that Hit returns.
type Action func(point string) error

type armed struct {
	act Action
	nth int // 0 every hit
	n   int
}

// A registry is process-wide on purpose: the points are named in code far from the test
// that arms them, and only one test at a time may arm a point.
var (
	active atomic.Bool
	mu     sync.Mutex
	points map[string]*armed
)

// Arm sets the action of a point (nth 0: every hit, else only the nth) and returns a
// function that disarms it.
func Arm(point string, nth int, act Action) (disarm func()) {
	mu.Lock()
	defer mu.Unlock()
	if points == nil {
		points = map[string]*armed{}
	}
	points[point] = &armed{act: act, nth: nth}
	active.Store(true)
	return func() {
		mu.Lock()
		defer mu.Unlock()
		delete(points, point)
		active.Store(len(points) > 0)
	}
}

// Hit runs the action armed for point, if any: for whom it is hit, where that is named, or
// for everybody.
func Hit(point string, whom ...string) error {
	if !active.Load() {
		return nil
	}
	for _, w := range whom {
		if err := hit(point + "(" + w + ")"); err != nil {
			return err
		}
	}
	return hit(point)
}

func hit(point string) error {
	mu.Lock()
	a := points[point]
	if a == nil {
		mu.Unlock()
		return nil
	}
	a.n++
	run := a.nth == 0 || a.n == a.nth
	mu.Unlock()
	if !run {
		return nil
	}
	return a.act(point)
}

// ArmFromEnv arms what RUNINK_FAULT names. An entry it cannot read is an error: a fault
// that is silently not injected proves nothing.
func ArmFromEnv() error {
	for e := range strings.SplitSeq(os.Getenv(Env), ";") {
		if e == "" {
			continue
		}
		point, action, ok := strings.Cut(e, "=")
		if !ok {
			return fmt.Errorf("%s: %q is not point=action", Env, e)
		}
		nth := 0
		if a, n, ok := strings.Cut(action, "@"); ok {
			v, err := strconv.Atoi(n)
			if err != nil || v < 1 {
				return fmt.Errorf("%s: %q: @N wants a number from 1", Env, e)
			}
			action, nth = a, v
		}
		var acts []Action
		for one := range strings.SplitSeq(action, ",") {
			act, err := parseAction(one)
			if err != nil {
				return fmt.Errorf("%s: %q: %w", Env, e, err)
			}
			acts = append(acts, act)
		}
		Arm(point, nth, func(p string) error {
			fmt.Fprintf(os.Stderr, "fault: %s: %s\n", p, action)
			for _, act := range acts {
				if err := act(p); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return nil
}

func parseAction(s string) (Action, error) {
	switch name, arg, _ := strings.Cut(s, ":"); name {
	case "error":
		return func(p string) error { return fmt.Errorf("%w at %s", ErrInjected, p) }, nil
	case "exit":
		return func(string) error { os.Exit(70); return nil }, nil
	case "stop":
		if arg == "" {
			return func(string) error { return stop() }, nil
		}
		d, err := time.ParseDuration(arg)
		if err != nil || d <= 0 {
			return nil, fmt.Errorf("stop: %q is no duration above zero", arg)
		}
		return func(string) error { return stopFor(d) }, nil
	case "delay":
		d, err := time.ParseDuration(arg)
		if err != nil {
			return nil, err
		}
		return func(string) error { time.Sleep(d); return nil }, nil
	}
	return nil, fmt.Errorf("unknown action %q (error, exit, stop, stop:DURATION, delay:DURATION)", s)
}
