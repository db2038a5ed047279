package compile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/runink/runink/internal/plan"
)

const rowContract = `package contracts

type Row struct {
	N    int
	Name string
	Opt  *float64
}

type Other struct {
	Name string
	M    int
}
`

// folder makes a pipeline's folder of files.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if files["contracts/c.go"] == "" {
		files["contracts/c.go"] = rowContract
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func mustPlan(t testing.TB, dir, src string) *plan.Plan {
	t.Helper()
	r, err := Source(t.Context(), dir, "x.dsl", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	if r.Diags.HasErrors() {
		t.Fatalf("%s\n%s", src, r.Diags.Render())
	}
	return r.Plans[0]
}

const head = `@source("file://a.csv") @contract("contracts.Row")

`

func shape(p *plan.Plan) string {
	var out []string
	for _, s := range p.Slices {
		out = append(out, fmt.Sprintf("%s%d[%s]", s.Name, s.Region, strings.Join(s.Blocks, " ")))
	}
	return strings.Join(out, " ")
}

func TestFusion(t *testing.T) {
	dir := folder(t, map[string]string{})
	for _, c := range []struct{ name, src, want string }{
		{
			"all in one", head + `@step("filter", where="n > 0")` + "\n\n" + `@sink("file://o.csv")` + "\n\n" + `@dlq("file://r.jsonl")`,
			"filter0[a filter o r]",
		},
		{
			"a step with demands", head + `@step("filter", where="n > 0") @requires(memory=1Gi)` + "\n\n" + `@sink("file://o.csv")` + "\n\n" + `@dlq("file://r.jsonl")`,
			"a0[a r] filter0[filter o]",
		},
		{
			"the defaults written out are no difference", head + `@step("filter", where="n > 0") @requires(memory=64Mi, cpu=100m)` + "\n\n" + `@sink("file://o.csv")` + "\n\n" + `@dlq("file://r.jsonl")`,
			"filter0[a filter o r]",
		},
		{
			"defaults of the scenario, nearest wins", `@requires(memory=1Gi, cpu=2)` + "\nScenario: s\n" + head + `@step("filter", where="n > 0") @requires(cpu=1)` + "\n\n" + `@sink("file://o.csv")` + "\n\n" + `@dlq("file://r.jsonl")`,
			"a0[a r] filter0[filter o]",
		},
		{
			"a sink with demands of its own", head + `@sink("file://o.csv") @requires(disk=1Gi)` + "\n\n" + `@sink("file://p.csv")` + "\n\n" + `@dlq("file://r.jsonl")`,
			"a0[a p r] o0[o]",
		},
		{
			"a sink fed by two slices runs in both", head + `@step("filter", name="f", where="n > 0") @requires(cpu=1)` + "\n\n" + `@step("filter", name="g", from="a", where="n > 1") @requires(cpu=2)` + "\n\n" + `@sink("file://o.csv", from=["f", "g"])` + "\n\n" + `@dlq("file://r.jsonl")`,
			"a0[a r] f0[f o] g0[g o]",
		},
		{
			// a and d want the same, but between them lies b: fusing a, c and d would make
			// slices that wait for each other.
			"no cycle of slices", head + `@step("filter", name="b", where="n > 0") @requires(cpu=2)` + "\n\n" +
				`@step("filter", name="d", from=["a", "b"], where="n > 1")` + "\n\n" + `@sink("file://o.csv")` + "\n\n" + `@dlq("file://r.jsonl")`,
			"a0[a r] b0[b] d0[d o]",
		},
		{
			"two regions", head + `@sink("file://o.csv")` + "\n\n" + `@source("file://b.csv") @contract("contracts.Row")` + "\n\n" + `@sink("file://p.csv", from="b")` + "\n\n" + `@dlq("file://r.jsonl")`,
			"a0[a o r] b1[b p r]",
		},
		{
			"names of slices", head + `@step("filter", name="JoinTheHTTPLogs_2", where="n > 0")` + "\n\n" + `@sink("file://o.csv")` + "\n\n" + `@dlq("file://r.jsonl")`,
			"join-the-httplogs-20[a JoinTheHTTPLogs_2 o r]",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := shape(mustPlan(t, dir, c.src)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// Steps that were given different secrets never share a process; equal ones may.
func TestSecretsSeparateSlices(t *testing.T) {
	dir := folder(t, map[string]string{
		"go.mod":   "module example.com/x\n\ngo 1.26\n",
		"steps.go": "package x\n\nimport \"example.com/x/contracts\"\n\nfunc A(r contracts.Row) bool { return true }\n\nfunc B(r contracts.Row) bool { return true }\n\nfunc C(r contracts.Row) bool { return true }\n",
	})
	rest := "\n\n@sink(\"file://o.csv\")\n\n@dlq(\"file://r.jsonl\")\n"
	for _, c := range []struct{ name, a, b, c, want string }{
		{"none", ``, ``, ``, "a0[a A B C o r]"},
		{"one step has one", `@secret("k", as="env:K")`, ``, ``, "a0[a r] a-20[A] b0[B C o]"},
		{"all the same", `@secret("k", as="env:K")`, `@secret("k", as="env:K")`, `@secret("k", as="env:K")`, "a0[a r] a-20[A B C o]"},
		{"the same in another order", `@secret("k", as="env:K") @secret("l", as="file")`, `@secret("l", as="file") @secret("k", as="env:K")`, ``, "a0[a r] a-20[A B] c0[C o]"},
		{"different", `@secret("k", as="env:K")`, `@secret("l", as="env:L")`, `@secret("k", as="env:K")`, "a0[a r] a-20[A] b0[B] c0[C o]"},
		{"the same otherwise delivered", `@secret("k", as="env:K")`, `@secret("k", as="file")`, ``, "a0[a r] a-20[A] b0[B] c0[C o]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := mustPlan(t, dir, head+"@step(\"A\") "+c.a+"\n\n@step(\"B\") "+c.b+"\n\n@step(\"C\") "+c.c+rest)
			if got := shape(p); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			for _, s := range p.Slices {
				for _, b := range p.Blocks {
					if b.Kind == plan.KindStep && slices.Contains(s.Blocks, b.Name) && !slices.EqualFunc(s.Secrets, b.Secrets, func(x, y plan.Secret) bool { return compareSecrets(x, y) == 0 }) {
						t.Errorf("slice %s has %v, its step %s %v", s.Name, s.Secrets, b.Name, b.Secrets)
					}
				}
			}
		})
	}
}

// Whatever the graph and the demands: the plan is consistent, slices form no cycle, and
// fused blocks have equal demands.
func TestFusionProperty(t *testing.T) {
	dir := folder(t, map[string]string{})
	rapid.Check(t, func(rt *rapid.T) {
		var b strings.Builder
		b.WriteString("@source(\"file://s0.csv\") @contract(\"contracts.Row\")\n\n")
		n := rapid.IntRange(1, 7).Draw(rt, "steps")
		read := map[int]bool{}
		for i := 1; i <= n; i++ {
			from := rapid.SliceOfNDistinct(rapid.IntRange(0, i-1), 1, min(i, 3), rapid.ID).Draw(rt, "from")
			var names []string
			for _, f := range from {
				read[f] = true
				names = append(names, fmt.Sprintf("s%d", f))
			}
			fmt.Fprintf(&b, "@step(\"filter\", name=\"s%d\", from=[%s], where=\"n > 0\") @requires(cpu=%d)\n\n", i, strings.Join(names, ", "), rapid.IntRange(1, 2).Draw(rt, "cpu"))
		}
		for i := range n + 1 {
			if !read[i] {
				fmt.Fprintf(&b, "@sink(\"file://o%d.csv\", from=s%d)\n\n", i, i)
			}
		}
		b.WriteString("@dlq(\"file://r.jsonl\")\n")
		p := mustPlan(t, dir, b.String())
		of := map[string]string{}
		for _, s := range p.Slices {
			for _, name := range s.Blocks {
				of[name] = s.Name
			}
		}
		after := map[string]map[string]bool{}
		for _, e := range p.Edges {
			if e.Remote {
				if after[of[e.From]] == nil {
					after[of[e.From]] = map[string]bool{}
				}
				after[of[e.From]][of[e.To]] = true
			}
		}
		state := map[string]int{}
		var visit func(s string)
		visit = func(s string) {
			state[s] = 1
			for to := range after[s] {
				if state[to] == 1 {
					rt.Fatalf("a cycle through slices %s and %s:\n%s\n%s", s, to, b.String(), shape(p))
				}
				if state[to] == 0 {
					visit(to)
				}
			}
			state[s] = 2
		}
		for _, s := range p.Slices {
			if state[s.Name] == 0 {
				visit(s.Name)
			}
		}
		for _, bl := range p.Blocks {
			for _, s := range p.Slices {
				if bl.Kind == plan.KindStep && s.Name == of[bl.Name] && s.Requires.MilliCPU != bl.Requires.MilliCPU {
					rt.Fatalf("step %s wants %d, its slice %s has %d", bl.Name, bl.Requires.MilliCPU, s.Name, s.Requires.MilliCPU)
				}
			}
		}
	})
}

func TestAffinity(t *testing.T) {
	dir := folder(t, map[string]string{})
	p := mustPlan(t, dir, `@affinity(domain="zone")
Scenario: s

`+head+`@step("filter", name="f", where="n > 0") @affinity(colocate_with="step:g", label="disk=ssd")

@step("filter", name="g", where="n > 0") @affinity(spread="node") @requires(label=["gpu", "arch=amd64"], time=90s)

@sink("file://o.csv")

@dlq("file://r.jsonl")`)
	var f, g plan.Slice
	for _, s := range p.Slices {
		switch s.Name {
		case "f":
			f = s
		case "g":
			g = s
		}
	}
	if got := fmt.Sprintf("%+v", f.Affinity); got != "{Label:disk=ssd ColocateWith:[g] Domain:zone SpreadNode:false}" {
		t.Error(got)
	}
	if !g.Affinity.SpreadNode || g.Affinity.Domain != "zone" || g.Requires.TimeSec != 90 || fmt.Sprint(g.Requires.Labels) != "[arch=amd64 gpu]" {
		t.Errorf("%+v", g)
	}
}

// A pipeline of built-in steps needs no Go toolchain and no go.mod.
func TestBuiltinNeedsNoToolchain(t *testing.T) {
	dir := folder(t, map[string]string{"contracts/c.go": "package contracts\n\nimport \"time\"\n\ntype Row struct {\n\tAt time.Time\n\tFor time.Duration `contract:\"min=1s,max=2h\"`\n\tN int\n}\n"})
	t.Setenv("PATH", "")
	p := mustPlan(t, dir, head+`@step("derive", double="n * 2.0", later="at + for", n="n + 1")

@step("select", fields=["later", "double", "n"])

@sink("file://o.csv")

@dlq("file://r.jsonl")`)
	if p.Native {
		t.Error("native")
	}
	var got []string
	for _, f := range p.Schemas["select"].Fields {
		got = append(got, f.Name+" "+f.Type)
	}
	if s := strings.Join(got, ", "); s != "later time, double float64, n int64" {
		t.Error(s)
	}
}

func lineageOf(p *plan.Plan, block string) string {
	var out []string
	for _, c := range p.Columns {
		if c.Block != block {
			continue
		}
		if c.Unknown {
			out = append(out, c.Field+"=?")
			continue
		}
		var refs []string
		for _, r := range c.From {
			refs = append(refs, r.Block+"."+r.Field)
		}
		out = append(out, c.Field+"="+strings.Join(refs, "+"))
	}
	return strings.Join(out, " ")
}

// Lineage is what the code says, and unknown where the code is not followed: never less
// than the truth.
func TestGoLineage(t *testing.T) {
	const prelude = `package x

import (
	"fmt"
	"strings"

	"example.com/x/contracts"
)

var _ = fmt.Sprint
var _ = strings.ToUpper

type Out struct {
	A, B string
	N    int
}

func all(r contracts.Row) string { return r.Name }

`
	for _, c := range []struct{ name, code, want string }{
		{"a literal", `func F(r contracts.Row) (Out, error) { return Out{A: r.Name, N: r.N + len(r.Name)}, nil }`, "a=a.name b= n=a.n+a.name"},
		{"without names", `func F(r contracts.Row) (Out, error) { return Out{r.Name, "", r.N}, nil }`, "a=a.name b= n=a.n"},
		{"two returns", `func F(r contracts.Row) (Out, error) { if r.N > 0 { return Out{A: r.Name}, nil }; return Out{B: r.Name}, nil }`, "a=a.name b=a.name n="},
		{"locals", `func F(r contracts.Row) (Out, error) { x := r.Name; y := strings.ToUpper(x) + "!"; return Out{A: y}, nil }`, "a=a.name b= n="},
		{"a loop", `func F(r contracts.Row) (Out, error) { n := 0; for i := range r.N { n += i }; return Out{N: n}, nil }`, "a= b= n=a.n"},
		{"a builder", `func F(r contracts.Row) (Out, error) { var b strings.Builder; b.WriteString(r.Name); return Out{A: b.String()}, nil }`, "a=a.name b= n="},
		{"through a pointer argument", `func F(r contracts.Row) (Out, error) { var s string; fmt.Sscan(r.Name, &s); return Out{A: s}, nil }`, "a=? b= n="},
		{"the row escapes", `func F(r contracts.Row) (Out, error) { return Out{A: all(r), N: r.N}, nil }`, "a=? b= n=a.n"},
		{"a copy of the row", `func F(r contracts.Row) (Out, error) { s := r; return Out{A: s.Name, N: r.N}, nil }`, "a=? b= n=a.n"},
		{"a closure", `func F(r contracts.Row) (Out, error) { f := func() string { return r.Name }; return Out{A: f()}, nil }`, "a=? b=? n=?"},
		{"the row is written", `func F(r contracts.Row) (Out, error) { r.Name = fmt.Sprint(r.N); return Out{A: r.Name}, nil }`, "a=? b=? n=?"},
		{"a variable", `func F(r contracts.Row) (Out, error) { var o Out; o.A = r.Name; o.N += r.N; return o, nil }`, "a=a.name b= n=a.n"},
		{"the variable escapes", `func F(r contracts.Row) (Out, error) { var o Out; fmt.Sscan(r.Name, &o.A); g(&o); return o, nil }
func g(*Out) {}`, "a=? b=? n=?"},
		{"named results", `func F(r contracts.Row) (o Out, err error) { o.A = r.Name; return }`, "a=? b=? n=?"},
		{"a helper makes it", `func F(r contracts.Row) (Out, error) { return h(r.Name), nil }
func h(s string) Out { return Out{A: s} }`, "a=? b=? n=?"},
		{"pointers", `func F(r *contracts.Row, o *Out) error { o.A = r.Name; *o = Out{B: r.Name}; return nil }`, "a=a.name b=a.name n="},
		{"pointers, alias", `func F(r *contracts.Row, o *Out) error { p := o; p.A = r.Name; return nil }`, "a=? b=? n=?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := folder(t, map[string]string{"go.mod": "module example.com/x\n\ngo 1.26\n", "x.go": prelude + c.code + "\n"})
			p := mustPlan(t, dir, head+"@step(\"F\")\n\n@sink(\"file://o.csv\")\n\n@dlq(\"file://r.jsonl\")\n")
			if got := lineageOf(p, "F"); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestSeveralScenarios(t *testing.T) {
	dir := folder(t, map[string]string{})
	one := head + "@sink(\"file://o.csv\")\n\n@dlq(\"file://r.jsonl\")\n\n"
	r, err := Source(t.Context(), dir, "two.dsl", []byte("Feature: f\nScenario: First one\n"+one+"Scenario: Second\n"+one))
	if err != nil || r.Diags.HasErrors() {
		t.Fatal(err, r.Diags.Render())
	}
	if len(r.Plans) != 2 || r.Plans[0].Name != "two-first-one" || r.Plans[1].Name != "two-second" {
		t.Errorf("%+v", r.Plans)
	}
}

func TestValues(t *testing.T) {
	for text, want := range map[string]int64{"512Mi": 512 << 20, "1.5Gi": 3 << 29, "64K": 64000, "7": 7, "0": -1, "-1Mi": -1, "x": -1, "1e3": -1, "Mi": -1, "1Zi": -1, "NaN": -1, "9999999Ti": -1} {
		got, err := parseSize(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("size %q = %d, want %d", text, got, want)
		}
	}
	for text, want := range map[string]int64{"1": 1000, "0.5": 500, "250m": 250, "0": -1, "0.0001": -1, "x": -1, "Inf": -1} {
		got, err := parseCPU(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("cpu %q = %d, want %d", text, got, want)
		}
	}
}

func TestSplitRules(t *testing.T) {
	for tag, want := range map[string]string{
		"required,min=0,max=24h,len=3,pattern=^[A-Z]{1,3}$,enum=a|b": "required;min=0;max=24h;len=3;pattern=^[A-Z]{1,3}$;enum=a|b",
		"layout=Mon, 02 Jan 2006,required":                           "layout=Mon, 02 Jan 2006;required",
		`pattern=a\,b,required`:                                      `pattern=a\,b;required`,
		"required":                                                   "required",
	} {
		if got := strings.Join(splitRules(tag), ";"); got != want {
			t.Errorf("%q: %s", tag, got)
		}
	}
}

func TestSnakeCase(t *testing.T) {
	for in, want := range map[string]string{"MeanDelay": "mean_delay", "HTTPCode": "http_code", "ID": "id", "UserID": "user_id", "A1B": "a1_b", "x": "x"} {
		if got := snakeCase(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// A @dlq that nothing can reach is told and left out; the rest of the pipeline compiles.
func TestDeadLettersThatStayEmpty(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "contracts"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "contracts", "c.go"), []byte("package contracts\n\ntype Row struct{ N int }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const source = "@source(\"file://a.csv\", on_error=skip) @contract(\"contracts.Row\")\n\n"
	for name, tc := range map[string]struct {
		src, want string
	}{
		"beside a head": {source + "@step(\"filter\", where=\"n > 1\") @dlq(\"file://r.jsonl\")\n\n@sink(\"file://o.csv\")\n", "x.dsl:3:32: warning[E208]"},
		"alone":         {source + "@step(\"filter\", where=\"n > 1\")\n\n@sink(\"file://o.csv\")\n\n@dlq(\"file://r.jsonl\")\n", "x.dsl:7:1: warning[E208]"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Source(t.Context(), dir, "x.dsl", []byte(tc.src))
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Diags.Render(); !strings.HasPrefix(got, tc.want) || strings.Count(got, "warning") != 1 {
				t.Errorf("it says:\n%s", got)
			}
			if len(r.Plans) != 1 || len(r.Plans[0].Blocks) != 3 {
				t.Errorf("plans %+v", r.Plans)
			}
		})
	}
}
