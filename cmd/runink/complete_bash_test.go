package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// bashPackage is what the package bash-completion gives a bash that people type at.
const bashPackage = "/usr/share/bash-completion/bash_completion"

// TestBashCompletes: what a Tab offers in a real bash, with the package bash-completion and
// without: where a line stands in words, what is cut at = and :, and files by their endings.
func TestBashCompletes(t *testing.T) {
	if _, err := os.Stat(bashPackage); err != nil {
		t.Fatalf("the Debian package bash-completion is not installed: make setup: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "work") // beside which is room for what bash complains of
	for _, f := range []string{".", "bin", "steps.d"} {
		if err := os.Mkdir(filepath.Join(dir, f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"flights.dsl", "two words.dsl", "steps.go", "flights.bundle"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "bin", "runink")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "..", "script"), []byte(ok(t, "", "completion", "bash")), 0o600); err != nil {
		t.Fatal(err)
	}
	// press sets what bash sets for a completion, as bash itself cuts a line.
	const press = `
source ../script || exit
complete -p runink >/dev/null || exit
press() {
    COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9 COMP_KEY=9
    shift
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    __start_runink runink "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>../errors
    if grep -v "compopt: not currently executing" ../errors >&2; then exit 1; fi
    printf '%s\n' "${COMPREPLY[@]}"
}
press "$@"
`
	for name, prepare := range map[string]string{
		"without the package": "if declare -F _init_completion; then exit 1; fi\n",
		"with the package":    "source " + bashPackage + "; declare -F _init_completion >/dev/null || exit\n",
	} {
		t.Run(name, func(t *testing.T) {
			for _, tc := range []struct {
				line  string
				words []string
				want  []string
			}{
				{"runink ev", []string{"runink", "ev"}, []string{"events"}},
				{"runink  ev", []string{"runink", "ev"}, []string{"events"}},
				{"runink node dr", []string{"runink", "node", "dr"}, []string{"drain"}},
				{"runink events --kind sec", []string{"runink", "events", "--kind", "sec"}, []string{"secret"}},
				{"runink events --kind=sec", []string{"runink", "events", "--kind", "=", "sec"}, []string{"secret"}},
				{"runink events --kind=", []string{"runink", "events", "--kind", "=", ""}, []string{"cluster", "node", "machine", "token", "herd", "apikey", "secret", "run", "slice", "dataset"}},
				{"runink events --kind = ", []string{"runink", "events", "--kind", "=", ""}, nil},
				{"runink token create --node n7 --role con", []string{"runink", "token", "create", "--node", "n7", "--role", "con"}, []string{"control", "control+worker"}},
				{"runink lineage a:b --ou", []string{"runink", "lineage", "a", ":", "b", "--ou"}, []string{"--output"}},
				{"runink check fl", []string{"runink", "check", "fl"}, []string{"flights.dsl"}},
				{"runink check ", []string{"runink", "check", ""}, []string{"bin", "flights.dsl", "two words.dsl", "steps.d"}},
				{"runink run flights.", []string{"runink", "run", "flights."}, []string{"flights.dsl", "flights.bundle"}},
				{"runink doctor --for ne", []string{"runink", "doctor", "--for", "ne"}, nil},
			} {
				cmd := exec.CommandContext(t.Context(), "bash", append([]string{"--norc", "--noprofile", "-c", prepare + press, "bash", tc.line}, tc.words...)...)
				cmd.Dir = dir
				cmd.Env = append(os.Environ(), asBinary+"=1", envConfig+"="+filepath.Join(dir, "none"), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
				var stderr strings.Builder
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil {
					t.Errorf("%q: %v\n%s", tc.line, err, &stderr)
					continue
				}
				var got []string
				for line := range strings.Lines(string(out)) {
					word, _, _ := strings.Cut(strings.TrimSpace(line), "  (") // and what it is
					if word != "" {
						got = append(got, word)
					}
				}
				slices.Sort(got)
				slices.Sort(tc.want)
				if !slices.Equal(got, tc.want) {
					t.Errorf("%q: %q, want %q\n%s", tc.line, got, tc.want, &stderr)
				}
			}
		})
	}
}

// TestShellsReadTheirCompletions: each shell takes the script that is made for it.
func TestShellsReadTheirCompletions(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		t.Run(shell, func(t *testing.T) {
			script := filepath.Join(t.TempDir(), "script")
			if err := os.WriteFile(script, []byte(ok(t, "", "completion", shell)), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), shell, "-n", script).CombinedOutput(); err != nil {
				t.Errorf("%v (are the packages of the Makefile installed? make setup)\n%s", err, out)
			}
		})
	}
}
