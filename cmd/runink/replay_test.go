package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runink/runink/controlplane/scheduler"
)

// decisionsFile is what a leader recorded of three decisions; change may falsify the second.
func decisionsFile(t testing.TB, change func(*scheduler.Decision)) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	st := scheduler.NewState()
	for i, n := range []string{"n1", "n2", "n3"} {
		st.SetNode(scheduler.Node{Name: n, Capacity: scheduler.Resources{MilliCPU: 1000}})
		d := &scheduler.Decision{Seq: uint64(i + 1), Version: "devel", Input: st.Input(), Groups: []scheduler.Group{
			{Run: "r", Region: i, Herd: "h", Slices: []scheduler.Slice{{Name: "s", Needs: scheduler.Resources{MilliCPU: 700}}, {Name: "t", Needs: scheduler.Resources{MilliCPU: 700}}}},
		}}
		d.Placed, d.Unplaced = scheduler.Place(st, d.Groups)
		if i == 1 {
			change(d)
		}
		if err := enc.Encode(d); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func TestReplayOfAFile(t *testing.T) {
	for _, tc := range []struct {
		name   string
		text   string
		args   []string
		status int
		want   []string
	}{
		{"equal", decisionsFile(t, func(*scheduler.Decision) {}), nil, exitOK, []string{"SEQ", "equal"}},
		{"nothing", "", nil, exitOK, []string{"no decisions"}},
		{
			"another node", decisionsFile(t, func(d *scheduler.Decision) { d.Placed[0].Assign[1].Node = "n9" }), nil,
			exitFailed,
			[]string{"DIFFERS", "decision 2, run r, region 1", "t on n9", "t on n2"},
		},
		{
			"another node, as json", decisionsFile(t, func(d *scheduler.Decision) { d.Placed = nil }),
			[]string{"-o", "json"},
			exitFailed,
			[]string{`"different": 1`, `"recorded": ""`, `"equal": false`, `"equal": true`},
		},
		{"the last one", decisionsFile(t, func(d *scheduler.Decision) { d.Placed = nil }), []string{"--last", "1"}, exitOK, []string{"equal"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "decisions.jsonl")
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := cli(t, "", append([]string{"replay", path}, tc.args...)...)
			status := exitOK
			if err != nil {
				status = exitCode(err)
			}
			if status != tc.status {
				t.Errorf("exit status %d: %v", status, err)
			}
			for _, w := range tc.want {
				if !strings.Contains(out, w) {
					t.Errorf("lacks %q:\n%s", w, out)
				}
			}
		})
	}
}

func TestReplayOfAnotherVersionSaysSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "decisions.jsonl")
	text := decisionsFile(t, func(d *scheduler.Decision) { d.Placed, d.Version = nil, "v0.9" })
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cli(t, "", "replay", path); err == nil || !strings.Contains(hint(err), "v0.9") {
		t.Errorf("%v (%s)", err, hint(err))
	}
}

func TestReplayRefusesOtherFiles(t *testing.T) {
	good := decisionsFile(t, func(*scheduler.Decision) {})
	for name, tc := range map[string]struct{ text, place string }{
		"text":                 {"hello\n", ":1"},
		"cut off":              {good[:len(good)-20], ":3"},
		"bits":                 {strings.Replace(good, `"Name":"n1"`, `"Name":7`, 1), ":1"},
		"a negative node":      {strings.Replace(good, `"MilliCPU":1000`, `"MilliCPU":-1`, 1), ":1"},
		"two nodes of a name":  {strings.Replace(good, `"Name":"n2"`, `"Name":"n1"`, 1), ":2"},
		"an object that lacks": {good + `{"Seq":4,"Groups":[{}]}` + "\n", ":4"},
		"other JSON":           {`{"cursor":"4.0"}` + "\n", ":1"},
	} {
		path := filepath.Join(t.TempDir(), "decisions.jsonl")
		if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := cli(t, "", "replay", path); exitCode(err) != exitUsage || !strings.HasPrefix(err.Error(), path+tc.place+":") || hint(err) == "" {
			t.Errorf("%s: %v (%s)", name, err, hint(err))
		}
	}
	for _, args := range [][]string{{filepath.Join(t.TempDir(), "none")}, {"x", "--save", "y"}, {"--last", "-1"}, {"--last", "1001"}} {
		if _, err := cli(t, "", append([]string{"replay"}, args...)...); err == nil || exitCode(err) == exitFailed {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// FuzzDecisions: whatever a file holds, it is refused or replayed.
func FuzzDecisions(f *testing.F) {
	f.Add(decisionsFile(f, func(*scheduler.Decision) {}))
	f.Add(`{"Seq":1,"Input":{"Nodes":[{"Name":"a","Capacity":{"MilliCPU":1},"Labels":{"zone":"x"}}],"Placed":[{"Run":"r","Node":"gone","Slice":{"Name":"s","Domain":"zone"}}]},"Groups":[{"Run":"r","Slices":[{"Name":"t","ColocateWith":["s"],"Domain":"zone","SpreadNode":true}]}]}`)
	f.Add("null\n{}\n")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4<<10 {
			return // the search is bounded, but not short
		}
		all, err := readDecisions(strings.NewReader(text), "file")
		if err != nil {
			if exitCode(err) != exitUsage {
				t.Errorf("%v", err)
			}
			return
		}
		for _, d := range all {
			// What is decided now must be what is decided again.
			d.Placed, d.Unplaced = scheduler.Place(d.Input.State(), d.Groups)
			if diff := d.Replay(); len(diff) != 0 {
				t.Errorf("%+v", diff)
			}
		}
	})
}
