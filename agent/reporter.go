package agent

import (
	"maps"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	apiv1 "github.com/runink/runink/api/runink/v1"
)

// reporter holds the newest status of every attempt and which of them the leader has not
// acknowledged. Statuses are whole, so a repeated or merged one loses nothing.
type reporter struct {
	mu    sync.Mutex
	all   map[string]*apiv1.SliceStatus
	dirty map[string]bool
	wake  chan struct{} // buffered by one: there is something to send
	ended chan struct{} // the same: and it should not wait for more
}

func newReporter() *reporter {
	return &reporter{all: map[string]*apiv1.SliceStatus{}, dirty: map[string]bool{}, wake: make(chan struct{}, 1), ended: make(chan struct{}, 1)}
}

// put publishes s; the session sends it soon.
func (r *reporter) put(id string, s *apiv1.SliceStatus) {
	r.mu.Lock()
	if old := r.all[id]; old != nil && proto.Equal(old, s) {
		r.mu.Unlock()
		return
	}
	r.all[id] = s
	r.dirty[id] = true
	r.mu.Unlock()
	if s.Phase == "exited" {
		r.hurry()
	}
	r.poke()
}

func (r *reporter) poke() { signal(r.wake) }

// hurry has what there is to send sent without waiting for more.
func (r *reporter) hurry() { signal(r.ended) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// forget drops an attempt whose exit the leader has recorded.
func (r *reporter) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, id)
	delete(r.dirty, id)
}

// snapshot names every known attempt, for Hello, and brings back all statuses. It holds no
// exits and no numbers: those follow in reports, which are acknowledged and may be many.
func (r *reporter) snapshot() []*apiv1.SliceStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*apiv1.SliceStatus, 0, len(r.all))
	for _, id := range slices.Sorted(maps.Keys(r.all)) {
		s := r.all[id]
		phase := s.Phase
		if phase == "exited" {
			phase = "running"
		}
		out = append(out, &apiv1.SliceStatus{Run: s.Run, Slice: s.Slice, Epoch: s.Epoch, Phase: phase})
		r.dirty[id] = true
	}
	return out
}

// reportBytes bounds one report, well below what the leader takes in one message. Slices
// choose how much they say.
const reportBytes = 1 << 20

// take returns what is unacknowledged, as much as one report carries, and marks it as under
// way; a later nack or a new session brings it back.
func (r *reporter) take() map[string]*apiv1.SliceStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.dirty) == 0 {
		return nil
	}
	out := map[string]*apiv1.SliceStatus{}
	size := 0
	for id := range r.dirty {
		if size += proto.Size(r.all[id]); size > reportBytes && len(out) > 0 {
			r.hurry()
			r.poke()
			break
		}
		out[id] = r.all[id]
		delete(r.dirty, id)
	}
	return out
}

// lost marks statuses whose report was not acknowledged as unsent again.
func (r *reporter) lost(sent map[string]*apiv1.SliceStatus) {
	r.mu.Lock()
	for id := range sent {
		if _, ok := r.all[id]; ok {
			r.dirty[id] = true
		}
	}
	r.mu.Unlock()
	r.hurry()
	r.poke()
}
