package barn

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/runink/runink/internal/errs"
)

// What a history must be explained by: registers that are put (answering the old value),
// appended to (answering the length) and read, one after another.

type opKind uint8

const (
	opGet opKind = iota
	opPut
	opAdd
)

type opInput struct {
	kind opKind
	key  string
	val  string
}

type opOutput struct {
	val     string
	unknown bool // it may have happened, at any later time
}

var registers = porcupine.Model{
	Partition: func(h []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range h {
			k := op.Input.(opInput).key
			byKey[k] = append(byKey[k], op)
		}
		var parts [][]porcupine.Operation
		for _, p := range byKey {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(st, in, out any) (bool, any) {
		s, i, o := st.(string), in.(opInput), out.(opOutput)
		switch i.kind {
		case opPut:
			return o.unknown || o.val == s, i.val
		case opAdd:
			return o.unknown || o.val == strconv.Itoa(len(s)+1), "x" + s
		default:
			return o.unknown || o.val == s, s
		}
	},
	DescribeOperation: func(in, out any) string {
		i, o := in.(opInput), out.(opOutput)
		return fmt.Sprintf("%v %s=%s → %q unknown=%v", i.kind, i.key, i.val, o.val, o.unknown)
	},
}

// recorder collects the operations of all clients on one monotonic clock.
type recorder struct {
	start time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
}

func (r *recorder) now() int64 { return int64(time.Since(r.start)) }

func (r *recorder) add(client int, in opInput, call int64, out opOutput) {
	ret := r.now()
	if out.unknown {
		ret = math.MaxInt64
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: ret})
}

// client does n operations, each until it has an answer or gave up.
type client struct {
	id   int
	seed uint64
	c    *cluster
	rec  *recorder
	rng  *rand.Rand
	read func(ctx context.Context, cl *client, key string) (string, error)
	last *node // that answered last
}

const historyKeys = 5

func (cl *client) run(n int, done *atomic.Int64) {
	for i := range n {
		key := fmt.Sprintf("k%d", cl.rng.IntN(historyKeys))
		switch p := cl.rng.IntN(10); {
		case p < 4:
			call := cl.rec.now()
			if val, err := cl.read(cl.c.t.Context(), cl, key); err == nil {
				cl.rec.add(cl.id, opInput{kind: opGet, key: key}, call, opOutput{val: val})
			}
		default:
			in := opInput{kind: opPut, key: key, val: fmt.Sprintf("c%d.%d", cl.id, i)}
			cmd := cmd("put", key+"="+in.val)
			if p > 6 {
				in = opInput{kind: opAdd, key: key}
				cmd = Command{Kind: "add", Version: 1, Payload: []byte(key), Principal: "tester"}
			}
			cmd.RequestID = fmt.Sprintf("%d/%d/%d", cl.seed, cl.id, i)
			cl.write(in, cmd)
		}
		done.Add(1)
	}
}

// write proposes a command, again and again with the same request id while its outcome is
// unknown. Sometimes it also repeats one that was answered.
func (cl *client) write(in opInput, c Command) {
	call := cl.rec.now()
	maybe := false // some attempt may have entered the log
	for range 400 {
		n := cl.pick()
		b := n.barn()
		if b == nil {
			cl.pause()
			continue
		}
		ctx, cancel := context.WithTimeout(cl.c.t.Context(), scaled(5*time.Second, cl.c.scale))
		r, err := b.Propose(ctx, c)
		cancel()
		switch {
		case err == nil:
			cl.last = n
			cl.rec.add(cl.id, in, call, opOutput{val: string(r.Data)})
			if cl.rng.IntN(10) == 0 {
				cl.replay(b, c, r)
			}
			return
		case errors.Is(err, ErrUnknownOutcome):
			maybe = true
		case errors.Is(err, errs.Unavailable), errors.Is(err, errs.Timeout): // not proposed
		case cl.c.t.Context().Err() != nil:
			return
		default:
			cl.c.t.Errorf("client %d: %s: %v", cl.id, c.Payload, err)
			return
		}
		cl.last = nil
		cl.pause()
	}
	if maybe {
		cl.rec.add(cl.id, in, call, opOutput{unknown: true})
	}
}

// replay repeats an answered command: it must be answered alike and not run again.
func (cl *client) replay(b *Barn, c Command, first Result) {
	ctx, cancel := context.WithTimeout(cl.c.t.Context(), scaled(5*time.Second, cl.c.scale))
	defer cancel()
	r, err := b.Propose(ctx, c)
	if err == nil && (!r.Replayed || r.Index != first.Index || string(r.Data) != string(first.Data)) {
		cl.c.t.Errorf("replay of %s: %+v, first was %+v", c.RequestID, r, first)
	}
}

func (cl *client) pick() *node {
	if cl.last != nil {
		return cl.last
	}
	return cl.c.nodes[cl.rng.IntN(len(cl.c.nodes))]
}

func (cl *client) pause() { time.Sleep(time.Duration(1+cl.rng.IntN(5)) * time.Millisecond) }

// linearizableRead asks replicas until one proves that it leads.
func linearizableRead(ctx context.Context, cl *client, key string) (string, error) {
	for range 400 {
		n := cl.pick()
		if b := n.barn(); b != nil {
			rctx, cancel := context.WithTimeout(ctx, scaled(5*time.Second, cl.c.scale))
			v, err := b.View(rctx, Linearizable)
			cancel()
			if err == nil {
				cl.last = n
				val, _ := v.Get(key)
				return string(val.Data), nil
			}
		}
		cl.last = nil
		cl.pause()
	}
	return "", errors.New("gave up")
}

// staleRead is the defect that the checker must notice: any replica answers from memory.
func staleRead(ctx context.Context, cl *client, key string) (string, error) {
	b := cl.c.nodes[cl.rng.IntN(len(cl.c.nodes))].barn()
	if b == nil {
		return "", errors.New("down")
	}
	v, err := b.View(ctx, Stale)
	if err != nil {
		return "", err
	}
	val, _ := v.Get(key)
	return string(val.Data), nil
}

// history runs clients against a cluster that is being broken, and returns what they saw.
func history(t testing.TB, seed uint64, ops int, read func(context.Context, *client, string) (string, error)) ([]porcupine.Operation, *cluster) {
	const clients = 8
	c := newCluster(t, 3, historyScale)
	c.leader(nil)
	rec := &recorder{start: time.Now()}
	var done atomic.Int64
	var wg sync.WaitGroup
	for i := range clients {
		cl := &client{id: i, seed: seed, c: c, rec: rec, rng: rand.New(rand.NewPCG(seed, uint64(i))), read: read}
		wg.Go(func() { cl.run(ops/clients, &done) })
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	nemesis(c, rand.New(rand.NewPCG(seed, 1000)), &done, int64(ops), finished)
	<-finished
	return rec.ops, c
}

const historyScale = 0.06

// nemesis breaks something every 150 operations and mends it 75 operations later, or when
// a time passed in which the clients may have been unable to do any.
func nemesis(c *cluster, rng *rand.Rand, done *atomic.Int64, ops int64, finished <-chan struct{}) {
	wait := func(goal int64) bool {
		patience := time.After(scaled(8*time.Second, c.scale))
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for done.Load() < goal {
			select {
			case <-tick.C:
			case <-patience:
				return true
			case <-finished:
				return false
			}
		}
		return true
	}
	mend := func() {
		c.heal()
		for _, n := range c.nodes {
			n.disk.mend()
			if n.failed() {
				n.crash(rng)
				n.start()
			}
		}
	}
	defer mend()
	for next := int64(100); next < ops && wait(next); next += 150 {
		victim := c.nodes[rng.IntN(len(c.nodes))]
		if rng.IntN(3) > 0 {
			victim = c.leader(nil)
		}
		switch rng.IntN(6) {
		case 0:
			victim.crash(rng)
		case 1:
			c.isolate(victim, true, true)
		case 2:
			c.isolate(victim, true, false)
		case 3:
			victim.disk.failSync([]string{fileLog, fileLog, fileLogMeta, fileTables}[rng.IntN(4)], 1+rng.IntN(4))
		case 4:
			if b := victim.barn(); b != nil {
				_ = b.raft.Snapshot().Error() // nothing new is no failure
			}
			for _, n := range c.nodes {
				n.crash(rng) // all at once
			}
		case 5:
			c.isolate(victim, false, true)
			victim.crash(rng)
		}
		if !wait(next + 75) {
			return
		}
		mend()
	}
}

// TestHistories checks what clients see while leaders are killed, networks split, disks
// lose unsynced writes and syncs fail. BARN_SEED repeats one seed; a failure prints it.
func TestHistories(t *testing.T) {
	seeds, ops := 20, 2000
	first := uint64(1)
	if s := os.Getenv("BARN_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, seeds = n, 1
	}
	var lost atomic.Int64
	t.Cleanup(func() {
		if !t.Failed() && seeds > 1 && lost.Load() == 0 {
			t.Error("no disk lost an unsynced write: the test did not test it")
		}
	})
	for i := range seeds {
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			h, c := history(t, seed, ops, linearizableRead)
			if len(h) < ops*9/10 {
				t.Errorf("only %d of %d operations were answered", len(h), ops)
			}
			checkHistory(t, h, porcupine.Ok)
			lives, torn := 0, 0
			for _, n := range c.nodes {
				lives += n.lives
				torn += n.disk.lost
			}
			lost.Add(int64(torn))
			t.Logf("%d operations, %d starts, %d unsynced writes lost or torn", len(h), lives, torn)
			agree(t, c)
		})
	}
}

func checkHistory(t testing.TB, h []porcupine.Operation, want porcupine.CheckResult) {
	t.Helper()
	if got := porcupine.CheckOperationsTimeout(registers, h, time.Minute); got != want {
		t.Errorf("the checker says %s, want %s", got, want)
	}
}

// agree waits until all replicas have applied the same commands and compares their maps.
// How far each log is may differ: a further election adds an entry of Raft's own.
func agree(t testing.TB, c *cluster) {
	t.Helper()
	l := c.leader(nil)
	goal := must(t, l.barn(), cmd("put", "last=1")).Index
	var want string
	for _, n := range c.nodes {
		b := n.barn()
		eventually(t, n.id+" applies everything", func() bool { return b.fsm.published.Load().index >= goal })
		var sb strings.Builder
		if err := writeSnapshot(&sb, &state{kv: b.fsm.published.Load().kv, index: goal}); err != nil {
			t.Fatal(err)
		}
		if want == "" {
			want = sb.String()
		} else if sb.String() != want {
			t.Errorf("%s holds another map than %s", n.id, c.nodes[0].id)
		}
	}
}

// TestStaleReadIsCaught proves that TestHistories can fail: the same run, with reads that
// any replica answers from memory, is not linearizable.
func TestStaleReadIsCaught(t *testing.T) {
	t.Run("scripted", func(t *testing.T) {
		c := newCluster(t, 3, testScale)
		l := c.leader(nil)
		must(t, l.barn(), cmd("put", "k0=old"))
		f := c.nodes[0]
		if f == l {
			f = c.nodes[1]
		}
		eventually(t, "the follower has the first write", func() bool { return get(t, f.barn(), "k0", Stale) == "old" })
		c.isolate(f, true, true)
		rec := &recorder{start: time.Now()}
		call := rec.now()
		r := must(t, c.leader(f).barn(), cmd("put", "k0=new"))
		rec.add(0, opInput{opPut, "k0", "new"}, call, opOutput{val: string(r.Data)})
		rec.ops = append([]porcupine.Operation{{Input: opInput{opPut, "k0", "old"}, Call: -2, Output: opOutput{}, Return: -1}}, rec.ops...)
		call = rec.now()
		rec.add(1, opInput{kind: opGet, key: "k0"}, call, opOutput{val: get(t, f.barn(), "k0", Stale)})
		checkHistory(t, rec.ops, porcupine.Illegal)
	})
	t.Run("random", func(t *testing.T) {
		h, _ := history(t, 7, 1000, staleRead)
		checkHistory(t, h, porcupine.Illegal)
	})
}
