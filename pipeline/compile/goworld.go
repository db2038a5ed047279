package compile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/scanner"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/tools/go/gcexportdata"

	"github.com/runink/runink/internal/plan"
	"github.com/runink/runink/pipeline/lang"
)

// goWorld is what the compiler knows of Go: the packages that the .dsl names, checked
// from source for positions and field use, and everything they import, from export data.
type goWorld struct {
	ctx   context.Context
	dir   string // folder of the .dsl
	diags *lang.Diagnostics

	modPath string // "" without go.mod
	modDir  string

	fset     *token.FileSet
	packages map[string]*goPackage // by folder relative to dir; checked from source
	imported map[string]*types.Package
	exports  map[string]string  // export file by import path
	missing  map[string]string  // why there is none
	schemas  map[string]*schema // by Go type
	listErr  error              // why go list gave nothing

	// steps is true when a step is Go: then types come from the toolchain, also for
	// contracts, so that one package time is the same everywhere.
	steps bool
}

// goPackage is a package of the user's, checked from source.
type goPackage struct {
	path    string // import path
	rel     string // folder relative to the .dsl's, "." for its own
	files   []*ast.File
	types   *types.Package
	info    *types.Info
	sources map[string][]byte // by name relative to the .dsl's folder
	errs    []error           // what is wrong with it, positions inside
	err     error             // why there is no package at all
}

func newGoWorld(ctx context.Context, dir string, steps bool, diags *lang.Diagnostics) *goWorld {
	w := &goWorld{
		ctx: ctx, dir: dir, steps: steps, diags: diags, fset: token.NewFileSet(),
		packages: map[string]*goPackage{}, imported: map[string]*types.Package{}, exports: map[string]string{}, missing: map[string]string{}, schemas: map[string]*schema{},
	}
	for d := dir; ; d = filepath.Dir(d) {
		if b, err := os.ReadFile(filepath.Join(d, "go.mod")); err == nil {
			w.modPath, w.modDir = modfile.ModulePath(b), d
			return w
		}
		if d == filepath.Dir(d) {
			return w
		}
	}
}

// importPath is the import path of a folder relative to the .dsl's. Without a go.mod it
// is the relative path, good for types but not for building.
func (w *goWorld) importPath(rel string) string {
	if w.modPath == "" {
		return rel
	}
	sub, err := filepath.Rel(w.modDir, filepath.Join(w.dir, rel))
	if err != nil {
		return rel
	}
	return path.Join(w.modPath, filepath.ToSlash(sub))
}

// load checks the package in a folder relative to the .dsl's, once. Types that do not
// check are left out; the package is never nil.
func (w *goWorld) load(rel string) *goPackage {
	if p := w.packages[rel]; p != nil {
		return p
	}
	p := &goPackage{path: w.importPath(rel), rel: rel, sources: map[string][]byte{}}
	w.packages[rel] = p
	if info, err := os.Stat(filepath.Join(w.dir, rel)); err != nil || !info.IsDir() {
		p.err = fmt.Errorf("no folder ./%s", rel)
		return p
	}
	bp, err := build.Default.ImportDir(filepath.Join(w.dir, rel), 0)
	if err != nil {
		if _, ok := errors.AsType[*build.NoGoError](err); ok {
			p.err = fmt.Errorf("no Go package in ./%s", rel)
			return p
		}
		if bp == nil || len(bp.GoFiles)+len(bp.InvalidGoFiles) == 0 {
			p.err = err
			return p
		}
	}
	names := append(append([]string{}, bp.GoFiles...), bp.InvalidGoFiles...)
	sort.Strings(names)
	for _, name := range names {
		shown := path.Join(filepath.ToSlash(rel), name)
		if p.sources[shown] != nil {
			continue
		}
		src, err := os.ReadFile(filepath.Join(w.dir, rel, name))
		if err != nil {
			p.errs = append(p.errs, err)
			continue
		}
		p.sources[shown] = src
		w.diags.AddSource(shown, src)
		f, err := parser.ParseFile(w.fset, shown, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			p.errs = append(p.errs, err)
		}
		if f != nil {
			p.files = append(p.files, f)
		}
	}
	w.check(p)
	return p
}

func (w *goWorld) check(p *goPackage) {
	w.prepareImports(p)
	p.info = &types.Info{
		Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{},
		Selections: map[*ast.SelectorExpr]*types.Selection{},
	}
	conf := types.Config{
		Importer: importerFunc(w.importPackage),
		Error:    func(err error) { p.errs = append(p.errs, err) },
	}
	// The error is the first of those that the callback got.
	p.types, _ = conf.Check(p.path, w.fset, p.files, p.info)
	if p.types != nil {
		w.imported[p.path] = p.types
	}
}

type importerFunc func(string) (*types.Package, error)

func (f importerFunc) Import(p string) (*types.Package, error) { return f(p) }

// initModule is the next step where there is no module.
const initModule = "run go mod init PATH beside the .dsl; package contracts is then PATH/contracts"

// contractImports are the packages a contract needs; a world that imports nothing else
// needs no Go toolchain.
var contractImports = map[string]bool{"time": true}

// prepareImports finds export data for what the package imports and loads the module's
// own folders that the .dsl may name from source.
func (w *goWorld) prepareImports(p *goPackage) {
	var need []string
	toolchain := w.steps
	for _, f := range p.files {
		for _, im := range f.Imports {
			ip := strings.Trim(im.Path.Value, "\"`")
			if rel, ok := w.ownFolder(ip); ok && rel == "contracts" {
				w.load(rel)
				continue
			}
			if ip == "unsafe" || w.imported[ip] != nil || w.exports[ip] != "" {
				continue
			}
			need = append(need, ip)
			toolchain = toolchain || !contractImports[ip]
		}
	}
	if !toolchain {
		return
	}
	if len(need) > 0 {
		w.list(need)
	}
}

// ownFolder returns the folder, relative to the .dsl's, of an import path of the same module.
func (w *goWorld) ownFolder(ip string) (string, bool) {
	base := w.importPath(".")
	if w.modPath == "" || !strings.HasPrefix(ip, base+"/") {
		return "", false
	}
	return strings.TrimPrefix(ip, base+"/"), true
}

// syntheticTime stands in for package time, whose Time and Duration contracts use, where
// no toolchain is needed for anything else or there is none.
func (w *goWorld) syntheticTime() *types.Package {
	t := types.NewPackage("time", "time")
	named := func(name string, under types.Type) {
		tn := types.NewTypeName(token.NoPos, t, name, nil)
		types.NewNamed(tn, under, nil)
		t.Scope().Insert(tn)
	}
	named("Time", types.NewStruct(nil, nil))
	named("Duration", types.Typ[types.Int64])
	t.MarkComplete()
	w.imported["time"] = t
	return t
}

// list asks the go command for the export data of packages and all they import.
func (w *goWorld) list(paths []string) {
	args := append([]string{"list", "-e", "-export", "-deps", "-json=ImportPath,Export,Error"}, paths...)
	cmd := exec.CommandContext(w.ctx, "go", args...)
	cmd.Dir = w.dir
	// Asked to end, it removes its temporary folder; killed, it leaves that.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.listErr = fmt.Errorf("go list: %w: %s", err, firstLine(stderr.String()))
	}
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p struct {
			ImportPath, Export string
			Error              *struct{ Err string }
		}
		if err := dec.Decode(&p); err != nil {
			if err != io.EOF && w.listErr == nil {
				w.listErr = fmt.Errorf("go list: %w", err)
			}
			return
		}
		if p.Export != "" {
			w.exports[p.ImportPath] = p.Export
		}
		if p.Error != nil {
			w.missing[p.ImportPath] = strings.Join(strings.Fields(p.Error.Err), " ") // the next lines say what to type
		}
	}
}

func (w *goWorld) importPackage(ip string) (*types.Package, error) {
	if ip == "unsafe" {
		return types.Unsafe, nil
	}
	if p := w.imported[ip]; p != nil && p.Complete() {
		return p, nil
	}
	file := w.exports[ip]
	if file == "" && ip == "time" {
		return w.syntheticTime(), nil
	}
	if file == "" {
		if why := w.missing[ip]; why != "" {
			return nil, errors.New(why)
		}
		return nil, fmt.Errorf("no type information for %q", ip)
	}
	archive, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	data, err := exportData(archive)
	if err != nil {
		return nil, fmt.Errorf("export data of %s: %w", ip, err)
	}
	return gcexportdata.Read(bytes.NewReader(data), w.fset, w.imported, ip)
}

// reportErrors adds what is wrong with the Go packages to the diagnostics.
func (w *goWorld) reportErrors() {
	rels := make([]string, 0, len(w.packages))
	for r := range w.packages {
		rels = append(rels, r)
	}
	sort.Strings(rels)
	for _, r := range rels {
		p := w.packages[r]
		for _, err := range p.errs {
			w.reportGo(p, err)
		}
		if p.types != nil && p.types.Name() == "main" && r == "." {
			pos := w.pos(p.files[0].Name.Pos())
			w.diags.Add(lang.CodeGo, pos, 4, "the pipeline's package is main, and a main package cannot be imported").
				WithHint("give it another name; a folder of a pipeline needs no func main")
		}
	}
	if own := w.packages["."]; w.steps && w.modDir == "" && own != nil && own.types != nil && w.listErr == nil {
		w.diags.Add(lang.CodeGoModule, plan.Pos{File: "go.mod"}, 1, "there is none beside the .dsl or above, and Go steps are built in a module").
			WithHint(initModule)
	}
	if w.listErr != nil {
		d := w.diags.Add(lang.CodeGoModule, plan.Pos{File: "go.mod"}, 1, "%s", w.listErr)
		switch {
		case errors.Is(w.listErr, exec.ErrNotFound):
			d.WithHint("install Go: a pipeline with Go steps is checked and built with it")
		case w.modPath == "":
			d.WithHint(initModule)
		default:
			d.WithHint("run go build there and mend what it reports")
		}
	}
}

func (w *goWorld) reportGo(p *goPackage, err error) {
	add := func(pos token.Position, msg string) {
		if strings.HasPrefix(msg, "\t") { // the continuation of another error
			return
		}
		w.diags.Add(lang.CodeGo, plan.Pos{File: pos.Filename, Line: pos.Line, Col: pos.Column}, 1, "%s", msg).
			WithHint("%s", w.goHint(msg))
	}
	if te, ok := errors.AsType[types.Error](err); ok {
		if w.listErr != nil && strings.HasPrefix(te.Msg, "could not import") {
			return // the missing toolchain is reported once
		}
		add(te.Fset.Position(te.Pos), te.Msg)
		return
	}
	if se, ok := errors.AsType[scanner.ErrorList](err); ok {
		for _, e := range se {
			add(e.Pos, e.Msg)
		}
		return
	}
	add(token.Position{Filename: path.Join(p.rel)}, err.Error())
}

// goHint is the next step for an error of the Go compiler; of a missing module the go command
// has said what to type.
func (w *goWorld) goHint(msg string) string {
	switch i := strings.LastIndex(msg, "go get "); {
	case strings.HasPrefix(msg, "could not import") && w.modPath == "":
		return initModule
	case strings.HasPrefix(msg, "could not import "+sdkPath):
		// It comes with Runink; the replacement is for this check and for editors, a build has its own.
		return "run it in the .dsl's folder, with the folder of Runink's sources in place of /RUNINK: " +
			"go mod edit -require " + sdkPath + "@v0.0.0 -replace " + sdkPath + "=/RUNINK/sdk"
	case i >= 0:
		return "run it in the .dsl's folder: " + strings.TrimSuffix(msg[i:], ")")
	}
	return "mend the Go code; go vet ./... in the .dsl's folder shows the same"
}

// pos translates a Go position.
func (w *goWorld) pos(p token.Pos) plan.Pos {
	at := w.fset.Position(p)
	return plan.Pos{File: at.Filename, Line: at.Line, Col: at.Column}
}

func firstLine(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.IndexByte(s, '\n'); i >= 0 {
		s = s[:i]
	}
	return s
}
