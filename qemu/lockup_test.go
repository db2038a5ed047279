package qemu

import (
	"context"
	"os"
	"slices"
	"testing"
)

// A machine is reset when its kernel has reported a processor twice, each time that happens,
// and not for a report that may be the host's fault.
func TestResetWhenLockedUp(t *testing.T) {
	c := newConsole("n1", NewJournal(), nil)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	drained := make(chan error, 1)
	c.set(func() { c.ended = false })
	go func() { drained <- c.drain(r) }()
	resets := make(chan string)
	done := make(chan struct{})
	go func() {
		defer close(done)
		resetWhenLockedUp(t.Context(), c, 0, func(_ context.Context, said string) error {
			resets <- said
			return nil
		})
	}()
	say := func(line string) {
		if _, err := w.WriteString(line + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	want := []string{
		"[   56.472702] watchdog: BUG: soft lockup - CPU#1 stuck for 52s! [kworker/1:2:51]",
		"[  196.476209] watchdog: BUG: soft lockup - CPU#0 stuck for 104s! [swapper/0:0]",
	}
	say("[   28.473788] watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [kworker/1:2:51]")
	for _, line := range want {
		say(line)
		got = append(got, <-resets)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	<-done // with the machine
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("reset for %q, want %q", got, want)
	}
}
