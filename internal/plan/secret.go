package plan

import (
	"fmt"
	"strings"
)

// MaxSecretPath bounds a secret's path, MaxSecretFile the name of its file, in bytes.
const (
	MaxSecretPath = 128
	MaxSecretFile = 64
)

// IsSecretPath reports whether s can be the path of a secret: 1 to 128 of a-z 0-9 . _ / -,
// the first a letter or digit.
func IsSecretPath(s string) bool {
	if s == "" || len(s) > MaxSecretPath {
		return false
	}
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("._/-", rune(c))) {
			return false
		}
	}
	return true
}

// SecretFileName is the name of the file that holds a secret: its path with every / a dot.
func SecretFileName(path string) string { return strings.ReplaceAll(path, "/", ".") }

// IsVariable reports whether s is a portable name of an environment variable (POSIX.1-2017,
// Base Definitions, 8.1), in either case.
func IsVariable(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// ReservedVariable reports whether a slice's environment variable is not the pipeline's to
// set: the runtime's own, and those by which the Go runtime is steered.
func ReservedVariable(s string) bool {
	switch s {
	case "HOME", "TMPDIR", "PATH", "GODEBUG", "GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GOTRACEBACK", "GOCOVERDIR":
		return true
	}
	return strings.HasPrefix(s, "RUNINK_") || strings.HasPrefix(s, "LD_")
}

func (s *Secret) validate() error {
	switch {
	case !IsSecretPath(s.Path):
		return fmt.Errorf("%q is no path of a secret", s.Path)
	case s.Env != "" && s.File != "":
		return fmt.Errorf("secret %q is both variable and file", s.Path)
	case s.Env != "" && (!IsVariable(s.Env) || ReservedVariable(s.Env)):
		return fmt.Errorf("secret %q: %q is no variable of the pipeline's", s.Path, s.Env)
	case s.File != "" && (s.File != SecretFileName(s.Path) || len(s.File) > MaxSecretFile):
		return fmt.Errorf("secret %q: %q is not its file", s.Path, s.File)
	}
	return nil
}

func validateSecrets(all []Secret) error {
	for i := range all {
		if err := all[i].validate(); err != nil {
			return err
		}
	}
	return nil
}
