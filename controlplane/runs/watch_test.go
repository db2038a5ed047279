package runs

import (
	"encoding/json"
	"slices"
	"testing"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/barn"
)

// Each new state reaches who watches, and the final one ends the watch, whether its changes
// come while it waits or were there before the observer of this term began.
func TestWatchSeesEachState(t *testing.T) {
	m := newMachine(t)
	mgr := New(Config{Barn: m.b, Directory: testDirectory()})
	tm := &term{m: mgr, ctx: t.Context(), why: newWaiting()}
	mgr.setTerm(tm)
	for _, id := range []string{"r", "other"} {
		spec := Spec{ID: id, Name: "t", Herd: "h", BundleDigest: testBundle, Regions: 1, Slices: []SliceSpec{{Name: "s"}}}
		if err := m.do(CmdSubmit, submission{spec}, nil); err != nil {
			t.Fatal(err)
		}
	}
	seen, watched := make(chan string), make(chan error, 1)
	go func() {
		watched <- mgr.Watch(t.Context(), "r", func(r *apiv1.Run) error {
			seen <- r.State
			return nil
		})
	}()
	if s := <-seen; s != RunPending {
		t.Fatalf("first %s", s)
	}
	if err := m.do(CmdCancel, cancellation{"r"}, nil); err != nil {
		t.Fatal(err)
	}
	observed := make(chan error, 1)
	go func() { observed <- tm.observe(t.Context()) }()
	if s := <-seen; s != RunCancelled {
		t.Fatalf("then %s", s)
	}
	if err := <-watched; err != nil {
		t.Fatal(err)
	}
	go func() {
		watched <- mgr.Watch(t.Context(), "other", func(r *apiv1.Run) error {
			seen <- r.State
			return nil
		})
	}()
	if s := <-seen; s != RunPending {
		t.Fatalf("of another run first %s", s)
	}
	if err := m.do(CmdCancel, cancellation{"other"}, nil); err != nil {
		t.Fatal(err)
	}
	if s := <-seen; s != RunCancelled {
		t.Fatalf("of another run then %s", s)
	}
	if err := <-watched; err != nil {
		t.Fatal(err)
	}
	if len(tm.watchers.all) > 0 {
		t.Errorf("%d watchers are left", len(tm.watchers.all))
	}
}

func TestWatchers(t *testing.T) {
	var w watchers
	a, stopA := w.add("r")
	b, stopB := w.add("r")
	c, stopC := w.add("s")
	told := func(changed <-chan struct{}) bool {
		select {
		case <-changed:
			return true
		default:
			return false
		}
	}
	w.tell("r")
	w.tell("r") // one word for both
	w.tell("nobody's")
	if !told(a) || !told(b) || told(a) || told(c) {
		t.Error("not those of one run, once")
	}
	stopA()
	w.tellAll()
	if told(a) || !told(b) || !told(c) {
		t.Error("not those who are left")
	}
	stopB()
	stopC()
	if len(w.all) > 0 {
		t.Errorf("%v is left", w.all)
	}
}

func TestPhaseOf(t *testing.T) {
	for _, phase := range []string{RunPending, RunRunning, RunCommitting, RunSucceeded, RunFailed, RunCancelled} {
		b, err := json.Marshal(State{Phase: phase, Reason: `of "phase":"failed"`, Regions: []RegionState{{Phase: RegionDone}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := phaseOf(b); got != phase {
			t.Errorf("%s: %q", phase, got)
		}
	}
	for text, want := range map[string]string{
		`{"regions":[{"phase":"done"}],"phase":"running"}`: RunRunning, // of a version that writes it elsewhere
		`{"phase":"run\u006eing"}`:                         RunRunning,
		`{"phase":`:                                        "",
		``:                                                 "",
	} {
		if got := phaseOf([]byte(text)); got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}

func TestChangedRun(t *testing.T) {
	for key, want := range map[string]string{
		statePrefix + "r": "r", sliceKey("r", "s"): "r", specPrefix + "r": "", placedKey("n", "r", "s"): "", nodePrefix + "r": "",
	} {
		if run, ok := changedRun(barn.Event{Key: key}); run != want && ok || ok != (want != "") {
			t.Errorf("%s: %q, %t", key, run, ok)
		}
	}
}

// What a caller does to a state that it got is not in the one that the next caller gets.
func TestDecodedStatesAreTheCallersOwn(t *testing.T) {
	d, r := &decoded{}, reader{statePrefix + "r": []byte(`{"phase":"running","regions":[{"epoch":1,"phase":"placed"}],"outputs":[{"block":"a"}]}`)}
	for range 3 {
		st, err := d.state(r, "r")
		if err != nil || st.Phase != RunRunning || st.Regions[0].Phase != RegionPlaced || len(st.Outputs) != 1 || st.Outputs[0].Block != "a" {
			t.Fatal(st, err)
		}
		st.Phase, st.Regions[0].Phase, st.Outputs[0].Block = RunFailed, RegionFailed, "b"
		st.Outputs = slices.Concat(st.Outputs, st.Outputs)
	}
	if st, err := d.state(r, "unknown"); err != nil || st.Phase != "" {
		t.Error(st, err)
	}
}
