package main

import (
	"bytes"
	"io"
	"testing"
)

// TestErrorsSayOurNameOnce types wrong commands and reads what main prints for them.
func TestErrorsSayOurNameOnce(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		args       []string
	}{
		{"no such command", "runink: there is no command \"nod\"\n  hint: did you mean `runink node`?\n", []string{"nod"}},
		{"nothing like it", "runink: there is no command \"xyzzy\"\n  hint: see `runink --help`\n", []string{"xyzzy"}},
		{"flag of the program", "runink: unknown flag: --x\n  hint: see `runink --help`\n", []string{"--x"}},
		{"no such verb", "runink: node: there is no command \"dran\"\n  hint: did you mean `runink node drain`?\n", []string{"node", "dran"}},
		{"flag of a command", "runink: plan: unknown flag: --x\n  hint: see `runink plan --help`\n", []string{"plan", "--x"}},
		{"an operation", "runink: compile: no file nowhere.dsl\n  hint: name a .dsl file\n", []string{"plan", "nowhere.dsl"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := newRootCmd()
			root.SetArgs(tc.args)
			root.SetOut(io.Discard)
			root.SetErr(io.Discard)
			c, err := root.ExecuteContextC(t.Context())
			if err == nil {
				t.Fatal("it is accepted")
			}
			var b bytes.Buffer
			printError(&b, err, c.CommandPath())
			if b.String() != tc.want {
				t.Errorf("got\n%swant\n%s", b.String(), tc.want)
			}
		})
	}
}
