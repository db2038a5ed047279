package runs

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
	"github.com/runink/runink/internal/errs"
)

// watchEvery bounds how often Watch sends what is not a change of the run's state.
const watchEvery = 100 * time.Millisecond

// Watch sends the run's present state and then each change, and returns nil after the final
// one. A new state of the run, of which there are few, is sent at once; what happens below
// it, and where the state comes and goes, at most once in 100 ms.
//
// The run is put together only when it is sent: of many slices that is a lot of work, and
// something happens to one of them all the time.
func (m *Manager) Watch(ctx context.Context, id string, send func(*apiv1.Run) error) error {
	const op = "watch run"
	t, err := m.leading(op)
	if err != nil {
		return err
	}
	changed, stop := t.watchers.add(id) // before the first look, so that nothing comes between
	defer stop()
	states := map[string]bool{} // sent
	var sent time.Time
	var reason string // as sent
	var reasons <-chan struct{}
	for news := true; ; {
		if reasons == nil {
			var why string
			why, reasons = t.why.summary(id)
			news = news || why != "" && why != reason
		}
		v, err := m.stale(ctx)
		if err != nil {
			return err
		}
		rest := watchEvery - time.Since(sent)
		if val, ok := v.Get(statePrefix + id); news && rest <= 0 || ok && !states[phaseOf(val.Data)] {
			run, err := m.get(v, id)
			if err != nil {
				return err
			}
			if err := send(run); err != nil {
				return err
			}
			states[run.State], sent, reason, news = true, time.Now(), run.Reason, false
			if final(run.State) {
				return nil
			}
			reasons = nil // they may be others than those that were sent
			continue
		}
		var later <-chan time.Time
		if news {
			later = time.After(rest)
		}
		select {
		case <-changed:
			news = true
		case <-reasons:
			reasons = nil
		case <-later:
		case <-ctx.Done():
			return ctx.Err()
		case <-t.ctx.Done():
			return errs.E(errs.Unavailable, op, "this control node does not lead any more").WithHint("try again")
		}
	}
}

func final(state string) bool {
	s := State{Phase: state}
	return s.Final()
}

// phaseOf is the phase of an encoded State, or "" if it has none.
func phaseOf(state []byte) string {
	// It is the first field, and a word. Only what another version wrote is decoded.
	if rest, ok := bytes.CutPrefix(state, []byte(`{"phase":"`)); ok {
		if phase, _, ok := bytes.Cut(rest, []byte{'"'}); ok && !bytes.ContainsRune(phase, '\\') {
			return string(phase)
		}
	}
	var s struct {
		Phase string `json:"phase"`
	}
	if json.Unmarshal(state, &s) != nil {
		return "" // whoever reads all of it says why
	}
	return s.Phase
}

// watchers are those who follow single runs. They hear of changes from the leader's observer:
// each with a watch of its own in Barn was woken by everything that happened to any run.
type watchers struct {
	mu  sync.Mutex
	all map[string][]chan struct{} // by run
}

// add follows a run until stop is called. What was written after add began is told by changed,
// which holds one word however much happened.
func (w *watchers) add(run string) (changed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[string][]chan struct{}{}
	}
	w.all[run] = append(w.all[run], c)
	return c, func() { w.remove(run, c) }
}

func (w *watchers) remove(run string, c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var left []chan struct{}
	for _, o := range w.all[run] {
		if o != c {
			left = append(left, o)
		}
	}
	if w.all[run] = left; len(left) == 0 {
		delete(w.all, run)
	}
}

// tell tells those who follow the run.
func (w *watchers) tell(run string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.all[run] {
		signal(c)
	}
}

// tellAll tells everybody: nobody knows what was missed.
func (w *watchers) tellAll() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, all := range w.all {
		for _, c := range all {
			signal(c)
		}
	}
}

// changedRun is the run that an event is about, for those who watch it.
func changedRun(e barn.Event) (run string, ok bool) {
	if run, ok = strings.CutPrefix(e.Key, statePrefix); ok {
		return run, true
	}
	if run, ok = strings.CutPrefix(e.Key, slicePrefix); ok {
		run, _, ok = strings.Cut(run, "/")
	}
	return run, ok
}
