package compile

import (
	"cmp"
	"slices"
	"strings"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/lang"
)

// secretsOf reads the @secret annotations of a block. Only a Go step can read one: a file
// has no use for it, and a built-in step no code that would.
func (s *scenario) secretsOf(b *block) {
	mods := b.ast.Mod("secret")
	for _, m := range mods {
		arg := m.Positional(0)
		if arg == nil {
			continue // reported
		}
		switch {
		case b.Kind == plan.KindSource, b.Kind == plan.KindSink:
			s.notBuilt(m.Pos, m.Width(), "@secret on a @%s", b.Kind)
			continue
		case b.Kind != plan.KindStep:
			s.diags.Add(lang.CodeMisplaced, m.Pos, m.Width(), "@secret on a @%s", b.Kind).
				WithHint("put it on the @step that reads it")
			continue
		case b.builtin():
			s.diags.Add(lang.CodeMisplaced, m.Pos, m.Width(), "@secret on the built-in step %s, which reads none", b.Name).
				WithHint("put it on the Go step that reads it")
			continue
		}
		if x, ok := s.secret(m, arg.Value); ok && s.mayHave(b, &x, m) {
			b.Secrets = append(b.Secrets, x)
		}
	}
	slices.SortFunc(b.Secrets, compareSecrets)
}

// builtin reports whether the block is a step of the language's own: in lower case.
func (b *block) builtin() bool {
	f := b.ast.Head.Positional(0)
	return f != nil && f.Value.Text != "" && (f.Value.Text[0] < 'A' || f.Value.Text[0] > 'Z')
}

// secret reads one annotation.
func (s *scenario) secret(m *lang.Annotation, path lang.Value) (plan.Secret, bool) {
	x := plan.Secret{Path: path.Text, Pos: m.Pos}
	if !plan.IsSecretPath(x.Path) {
		d := s.diags.Add(lang.CodeValue, path.At(0), max(len(path.Text), 1), "%q is no path of a secret", x.Path)
		if lower := strings.ToLower(x.Path); plan.IsSecretPath(lower) {
			d.WithHint("paths are in lower case: %q", lower)
		} else {
			d.WithHint("up to %d of a-z 0-9 . _ / -, a letter or digit first; it takes no ${…}", plan.MaxSecretPath)
		}
		return x, false
	}
	as := m.Arg("as")
	if as == nil {
		return x, true
	}
	v := as.Value
	name, isEnv := strings.CutPrefix(v.Text, "env:")
	at := func(skip int) (plan.Pos, int) { return v.At(skip), max(len(v.Text)-skip, 1) }
	switch {
	case v.Text == "auth":
		pos, width := at(0)
		s.notBuilt(pos, width, `as="auth" of @secret`)
		return x, false
	case v.Text == "file":
		if x.File = plan.SecretFileName(x.Path); len(x.File) > plan.MaxSecretFile {
			s.diags.Add(lang.CodeValue, path.At(0), len(path.Text), "a secret that is a file has a path of at most %d characters", plan.MaxSecretFile).
				WithHint("shorten the path, or leave out as= and read it with ctx.Secret(%q)", x.Path)
			return x, false
		}
	case isEnv && !plan.IsVariable(name):
		pos, width := at(len("env:"))
		s.diags.Add(lang.CodeValue, pos, width, "%q is no name of a variable", name).
			WithHint("letters, digits and _, not a digit first: as=\"env:%s\"", variable(x.Path))
		return x, false
	case isEnv && plan.ReservedVariable(name):
		pos, width := at(len("env:"))
		s.diags.Add(lang.CodeValue, pos, width, "the variable %s is the runtime's own", name).
			WithHint("choose another name: as=\"env:%s\"", variable(x.Path))
		return x, false
	case isEnv:
		x.Env = name
	default:
		pos, width := at(0)
		s.diags.Add(lang.CodeValue, pos, width, "as is env:NAME or file, not %q", v.Text).
			WithHint("%s", orElse(lang.DidYouMean(v.Text, []string{"file", "env:" + variable(x.Path)}), "write as=\"env:"+variable(x.Path)+"\" or as=\"file\""))
		return x, false
	}
	return x, true
}

// variable is what an environment variable for a path is usually called.
func variable(path string) string {
	name := strings.ToUpper(strings.Map(func(r rune) rune {
		if strings.ContainsRune("./-", r) {
			return '_'
		}
		return r
	}, path))
	if name[0] <= '9' {
		return "_" + name
	}
	return name
}

// mayHave refuses what a pipeline says twice: a secret in one block, a variable or a file
// for two secrets. The last two hold for the pipeline as a whole, because on a laptop its
// slices share one process.
func (s *scenario) mayHave(b *block, x *plan.Secret, m *lang.Annotation) bool {
	all := []*block{b}
	for _, o := range s.blocks {
		if o != b {
			all = append(all, o)
		}
	}
	for _, o := range all {
		for _, y := range o.Secrets {
			what, hint := "", "write another name or as= for one of them"
			switch {
			case o == b && compareSecrets(*x, y) == 0:
				what, hint = "secret "+x.Path+" twice in a block", "remove one of them"
			case x.Path == y.Path:
			case x.Env != "" && x.Env == y.Env:
				what = "variable " + x.Env + " for two secrets, " + y.Path + " and " + x.Path
			case x.File != "" && x.File == y.File:
				what = "file " + x.File + " for two secrets, " + y.Path + " and " + x.Path
			}
			if what != "" {
				s.diags.Add(lang.CodeDuplicate, m.Pos, m.Width(), "%s", what).Note("the first is at %s", y.Pos).WithHint("%s", hint)
				return false
			}
		}
	}
	return true
}

// unreadSecrets refuses a secret that its step has no way to read.
func (s *scenario) unreadSecrets() {
	for _, b := range s.blocks {
		if b.Step == nil || b.Step.Func == "" || b.Step.Context {
			continue
		}
		for _, x := range b.Secrets {
			if x.Env == "" && x.File == "" {
				s.diags.Add(lang.CodeSignature, x.Pos, len("@secret"), "%s cannot read secret %s: it takes no *sdk.Context", b.Step.Func, x.Path).
					WithHint("give the function a leading *sdk.Context, or write as=\"env:%s\" or as=\"file\"", variable(x.Path))
			}
		}
	}
}

// compareSecrets orders by everything but the place.
func compareSecrets(a, b plan.Secret) int {
	return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Env, b.Env), cmp.Compare(a.File, b.File))
}
