package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/slicechan"
	"github.com/runink/runink/slice/keeper"
)

// record is what a new agent needs to go on. It is written before each step whose loss
// would matter, and need only survive the agent, not the node: after a reboot nothing
// runs, and the leader knows.
//
// Its file has a line of JSON for each save, with the fields that changed; the last line that has
// a field has its value. To write the whole anew into a file of its own, and that over the old
// one, was most of what an agent spent on a short slice's files.
type record struct {
	Assignment json.RawMessage `json:"assignment,omitempty"` // apiv1.SliceAssignment
	// Dropped says why the leader no longer wants the attempt; then nothing is stored.
	Dropped  string              `json:"dropped,omitempty"`
	Progress *slicechan.Progress `json:"progress,omitempty"`
	Done     *slicechan.Done     `json:"done,omitempty"`
	Fail     *slicechan.Fail     `json:"fail,omitempty"`
	Exit     *keeper.Exit        `json:"exit,omitempty"`
	// Stored is true once every part of Done is on a majority of control nodes.
	Stored bool `json:"stored,omitempty"`
}

const recordFile = "record.json"

// take replaces the fields that n has.
func (r *record) take(n *record) {
	if n.Assignment != nil {
		r.Assignment = n.Assignment
	}
	if n.Dropped != "" {
		r.Dropped = n.Dropped
	}
	if n.Progress != nil {
		r.Progress = n.Progress
	}
	if n.Done != nil {
		r.Done = n.Done
	}
	if n.Fail != nil {
		r.Fail = n.Fail
	}
	if n.Exit != nil {
		r.Exit = n.Exit
	}
	r.Stored = r.Stored || n.Stored
}

// since is what changed in r after old was a copy of it. What its pointers lead to is never
// written to, so other pointers are other values.
func (r *record) since(old *record) *record {
	n := *r
	if old.Assignment != nil {
		n.Assignment = nil
	}
	if r.Dropped == old.Dropped {
		n.Dropped = ""
	}
	if r.Progress == old.Progress {
		n.Progress = nil
	}
	if r.Done == old.Done {
		n.Done = nil
	}
	if r.Fail == old.Fail {
		n.Fail = nil
	}
	if r.Exit == old.Exit {
		n.Exit = nil
	}
	n.Stored = r.Stored && !old.Stored
	return &n
}

// save writes what changed since the last save. The caller holds mu.
func (t *attempt) save() error {
	b, err := json.Marshal(t.rec.since(&t.saved))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(t.dir, recordFile), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if t.savedTo == 0 {
		err = f.Truncate(0) // of a record that could not be read, or of a try to adopt the attempt
	}
	if err == nil {
		_, err = f.WriteAt(b, t.savedTo)
	}
	if err != nil {
		err = errors.Join(err, f.Truncate(t.savedTo)) // half a line, of a full disk say
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	t.saved, t.savedTo = t.rec, t.savedTo+int64(len(b))
	return nil
}

// load reads the record that an earlier agent left. What that agent was writing when it died
// counts as not written: nobody was told of it.
//
// Errors: fs.ErrNotExist if there is nothing but that; Corrupt if the file was read and is no
// record.
func (t *attempt) load() error {
	path := filepath.Join(t.dir, recordFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	for {
		var n record
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return errs.E(errs.Corrupt, "read record", "after byte %d: %w", t.savedTo, err)
		}
		t.rec.take(&n)
		t.saved, t.savedTo = t.rec, dec.InputOffset()
	}
	if t.savedTo == 0 {
		return fs.ErrNotExist
	}
	return os.Truncate(path, t.savedTo)
}

func (t *attempt) assignment() (*apiv1.SliceAssignment, error) {
	as := &apiv1.SliceAssignment{}
	if err := protojson.Unmarshal(t.rec.Assignment, as); err != nil {
		return nil, fmt.Errorf("record of %s: %w", t.id, err)
	}
	return as, nil
}
