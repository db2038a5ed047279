package barn

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/runink/runink/internal/fault"
)

// A crash test runs a replica in a process of its own, which ends at a named point, and
// then opens what it left. The child says on stdout what was answered, before it goes on.

const childEnv = "BARN_TEST_CHILD" // its directory

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := crashChild(dir); err != nil {
			if errors.Is(err, ErrClosed) {
				time.Sleep(10 * time.Second) // Config.Fatal is about to end the process
			}
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crashChild appends to one key, with snapshots, log truncation and a restored backup
// between, so that every point in the code is passed several times.
func crashChild(dir string) error {
	if err := fault.ArmFromEnv(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, trans := raft.NewInmemTransport("n1")
	b, err := Open(ctx, Config{
		ID: "n1", Dir: dir, Registry: testRegistry(), Transport: Transport{Custom: trans}, TimeScale: 0.1,
		SegmentSize: 4 << 10, SnapshotEvery: 8, DiskReserve: 1,
	})
	if err != nil {
		return err
	}
	if len(b.Members()) == 0 {
		if err := b.Bootstrap([]Member{{ID: "n1", Addr: "n1"}}); err != nil {
			return err
		}
	}
	if _, err := b.WaitLeadership(ctx); err != nil {
		return err
	}
	n := 0
	add := func(times int) error {
		for range times {
			n++
			c := cmd("add", "a")
			if n%3 == 0 { // without an id, nothing but the tables' index keeps it from being applied again
				c.RequestID = strconv.Itoa(n)
			}
			var r Result
			if err := whileLeading(ctx, b, func() (err error) { r, err = b.Propose(ctx, c); return err }); err != nil {
				return err
			}
			fmt.Printf("length %s\n", r.Data)
		}
		return nil
	}
	for round := range 3 {
		if err := add(20); err != nil {
			return err
		}
		var v View
		if err := whileLeading(ctx, b, func() (err error) { v, err = b.View(ctx, Linearizable); return err }); err != nil {
			return err
		}
		val, _ := v.Get("a")
		var backup bytes.Buffer
		if _, err := b.Snapshot(ctx, &backup); err != nil {
			return err
		}
		if err := b.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			return err
		}
		if err := add(10 + round); err != nil {
			return err
		}
		fmt.Printf("restoring %d\n", len(val.Data))
		if err := whileLeading(ctx, b, func() error {
			_, err := b.Restore(ctx, bytes.NewReader(backup.Bytes()), cmd("put", "by=operator"))
			return err
		}); err != nil {
			return err
		}
		fmt.Printf("length %d\n", len(val.Data))
	}
	return b.Close()
}

// whileLeading repeats what was refused because the replica did not lead just then: the
// disk of a busy machine may take long enough to cost it the leadership.
func whileLeading(ctx context.Context, b *Barn, do func() error) error {
	for {
		err := do()
		if _, ok := errors.AsType[*NotLeaderError](err); !ok {
			return err
		}
		if _, err := b.WaitLeadership(ctx); err != nil {
			return err
		}
	}
}

// TestCrashAnywhere ends a replica at every named point, at its first and at a later
// passage, by exit and by an error that ends it, and checks that everything answered is
// there, once.
func TestCrashAnywhere(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, point := range []string{
		"barn.apply.before", "barn.apply.after", "barn.log.append", "barn.log.sync", "barn.log.meta",
		"barn.log.truncate", "barn.tables.commit", "barn.flush.before", "barn.flush.after",
		"barn.snapshot.persist", "barn.restore.before", "barn.restore.after",
	} {
		for _, action := range []string{"exit@1", "exit@2", "error@2", "exit@3"} {
			t.Run(point+"="+action, func(t *testing.T) {
				t.Parallel()
				if point == "barn.snapshot.persist" && strings.HasPrefix(action, "error") {
					return // Raft goes on without that snapshot, and so do we
				}
				dir := t.TempDir()
				child := exec.CommandContext(t.Context(), exe, "-test.run=^$")
				child.Env = append(os.Environ(), childEnv+"="+dir, fault.Env+"="+point+"="+action)
				out, err := child.Output()
				exit, ok := errors.AsType[*exec.ExitError](err)
				want := 70
				if strings.HasPrefix(action, "error") {
					want = 1
				}
				if !ok || exit.ExitCode() != want {
					stderr := ""
					if ok {
						stderr = string(exit.Stderr)
					}
					t.Fatalf("the child ended with %v, want status %d; output:\n%s%s", err, want, out, stderr)
				}
				last, next := lastAnswer(t, out)
				b := single(t, testConfig(t, "n1", dir))
				v, err := b.View(t.Context(), Linearizable)
				if err != nil {
					t.Fatal(err)
				}
				val, _ := v.Get("a")
				if got := len(val.Data); got != last && got != next {
					t.Errorf("the value has length %d, the last answer was %d, and %d was under way", got, last, next)
				}
				must(t, b, cmd("add", "a")) // and it goes on
			})
		}
	}
}

// lastAnswer reads what the child was told last, and what it was waiting for.
func lastAnswer(t *testing.T, out []byte) (last, next int) {
	t.Helper()
	next = 1
	sc := bufio.NewScanner(bytes.NewReader(out))
	for sc.Scan() {
		what, num, _ := strings.Cut(sc.Text(), " ")
		n, err := strconv.Atoi(num)
		if err != nil {
			t.Fatalf("child said %q", sc.Text())
		}
		switch what {
		case "length":
			last, next = n, n+1
		case "restoring":
			next = n
		}
	}
	return last, next
}
