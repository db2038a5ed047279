package main

import (
	"os"
	"testing"

	"github.com/runink/runink/internal/procmem"
)

func TestParentOf(t *testing.T) {
	for name, c := range map[string]struct {
		stat string
		want int
		bad  bool
	}{
		"plain":             {"12 (runink) S 7 12 12 0", 7, false},
		"name with a paren": {"12 (a) S 1 (b) R 9 1", 9, false},
		"empty":             {"", 0, true},
		"cut":               {"12 (runink) S", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parentOf([]byte(c.stat))
			if got != c.want || (err != nil) != c.bad {
				t.Errorf("%d, %v", got, err)
			}
		})
	}
}

func TestDescends(t *testing.T) {
	parents := map[int]int{1: 0, 2: 1, 3: 2, 9: 1, 20: 21, 21: 20}
	for _, c := range []struct {
		pid, of int
		want    bool
	}{{3, 2, true}, {3, 3, true}, {9, 2, false}, {3, 1, true}, {20, 1, false}, {77, 1, false}} {
		if got := descends(parents, c.pid, c.of); got != c.want {
			t.Errorf("%d below %d: %t", c.pid, c.of, got)
		}
	}
}

func TestOwnProcess(t *testing.T) {
	ps, err := processes("/proc")
	if err != nil {
		t.Fatal(err)
	}
	if ps[os.Getpid()] != os.Getppid() {
		t.Errorf("our parent is %d, not %d", os.Getppid(), ps[os.Getpid()])
	}
	if got := roleOf("/proc", os.Getpid()); len(os.Args) > 1 && got != os.Args[1] {
		t.Errorf("our first argument is %q", got)
	}
	if held, err := procmem.Held("/proc", os.Getpid()); err != nil || held <= 0 {
		t.Errorf("this process holds %d bytes, %v", held, err)
	}
}
