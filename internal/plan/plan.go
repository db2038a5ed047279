// Package plan is the compiled form of a pipeline as plain data: what `runink build`
// writes as plan.json into a bundle and everyone after it reads.
//
// It owns the shape of plan.json and the invariants that Validate checks. It never
// executes anything, never reads a file by itself and imports nothing of ours, so the
// compiler, the scheduler, the agent and the in-slice runtime can all share it.
//
// A plan is a directed acyclic graph of blocks. A block is one head annotation of the
// .dsl (@source, @step, @sink, @dlq, @discard). Blocks are fused into slices (one
// process each); slices joined by edges between different slices form regions (the unit
// of attempt, epoch and retry).
package plan

// Version is the version of plan.json this code writes. A reader refuses a newer one.
const Version = 1

// Plan is one compiled scenario.
type Plan struct {
	Version  int    `json:"version"`
	Name     string `json:"name"`    // file stem plus scenario slug where there are several
	Feature  string `json:"feature"` // prose of the Feature header, may be empty
	Scenario string `json:"scenario"`
	Herd     string `json:"herd"`
	Owner    string `json:"owner,omitempty"`
	Module   string `json:"module,omitempty"` // @module: a catalog layer such as "bronze"
	Source   string `json:"source"`           // base name of the .dsl

	// Native is true when the bundle carries its own binary; false when every step is
	// built in and the stock engine can serve it.
	Native bool `json:"native"`

	// CodeDigest is "sha256:…" over the .dsl and the user's Go sources it binds.
	CodeDigest string `json:"code_digest,omitempty"`

	Params  []Param           `json:"params,omitempty"`
	Schemas map[string]Schema `json:"schemas"` // by schema name: "contracts.Flight", "flights.Located", "delays"
	Blocks  []Block           `json:"blocks"`  // topological order: references point upward
	Edges   []Edge            `json:"edges"`
	Slices  []Slice           `json:"slices"`
	Regions []Region          `json:"regions"`
	Columns []ColumnLineage   `json:"columns,omitempty"`

	// Part is set in a part of a plan, which only a slice's process reads; see Cut.
	Part *Part `json:"part,omitempty"`
}

// Param is a run parameter, resolved at submission.
type Param struct {
	Name    string `json:"name"`
	Type    string `json:"type"` // string int float bool duration time
	Default string `json:"default,omitempty"`
	// Required is true when the .dsl gives no default.
	Required bool `json:"required,omitempty"`
	Pos      Pos  `json:"pos"`
}

// Pos is a place in a source file, 1-based; Col counts bytes. The file is relative to
// the .dsl's folder.
type Pos struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	Col  int    `json:"col,omitempty"`
}

// Schema is a flat record type: a contract, a Go struct, or the output of a built-in step.
type Schema struct {
	Name     string  `json:"name"`
	Contract bool    `json:"contract,omitempty"` // its rules are enforced where @contract names it
	Digest   string  `json:"digest"`             // sha256 over fields and rules, in order; the contract hash of lineage
	Doc      string  `json:"doc,omitempty"`
	GoType   string  `json:"go_type,omitempty"` // "example.com/flights/contracts.Flight", empty for built-in output
	Fields   []Field `json:"fields"`
	Pos      Pos     `json:"pos,omitzero"`
}

// Field is one column.
type Field struct {
	Name     string `json:"name"`              // json tag, else snake_case of the Go name
	GoName   string `json:"go_name,omitempty"` // field name of the Go struct
	Type     string `json:"type"`              // string int int8…int64 uint…uint64 float32 float64 bool time duration
	Nullable bool   `json:"nullable,omitempty"`
	Layout   string `json:"layout,omitempty"` // time layout as of package time; empty is RFC 3339
	Rules    []Rule `json:"rules,omitempty"`
	PII      string `json:"pii,omitempty"`
	Mask     string `json:"mask,omitempty"`
	Doc      string `json:"doc,omitempty"`
}

// Rule is one contract rule of a field: required, min, max, pattern, enum.
type Rule struct {
	Name string   `json:"name"`
	Args []string `json:"args,omitempty"` // pattern: one RE2; enum: the values; min, max: one number or duration
}

// BlockKind names the head of a block.
type BlockKind string

// The heads of this version.
const (
	KindSource  BlockKind = "source"
	KindStep    BlockKind = "step"
	KindSink    BlockKind = "sink"
	KindDLQ     BlockKind = "dlq"
	KindDiscard BlockKind = "discard"
)

// StepKind says how a step is called; it decides ports and code generation.
type StepKind string

// Step kinds. The first four are Go functions of the user's package, the rest built in.
const (
	StepMap       StepKind = "map"     // func(In) (Out, error) or func(*In, *Out) error
	StepPred      StepKind = "pred"    // func(In) bool
	StepFlatMap   StepKind = "flatmap" // func(In, func(Out)) error
	StepJoin      StepKind = "join"    // func(In, Right) (Out, error)
	StepFilter    StepKind = "filter"  // filter(where=)
	StepSelect    StepKind = "select"  // select(fields=[…])
	StepDerive    StepKind = "derive"  // derive(x="expr", …)
	StepAggregate StepKind = "aggregate"
)

// Block is one node of the graph.
type Block struct {
	Name  string    `json:"name"` // unique in the plan
	Kind  BlockKind `json:"kind"`
	Prose string    `json:"prose,omitempty"`
	Pos   Pos       `json:"pos"`

	URI      string `json:"uri,omitempty"`      // source, sink, dlq; may hold ${param}
	Format   string `json:"format,omitempty"`   // jsonl csv
	Contract string `json:"contract,omitempty"` // schema whose rules are enforced on this block's output

	// OnError is what a rejected row does: dlq, fail or skip. DLQ names the dlq block it
	// goes to when it is dlq.
	OnError string `json:"on_error,omitempty"`
	DLQ     string `json:"dlq,omitempty"`

	Step *Step `json:"step,omitempty"`

	In     []string `json:"in,omitempty"`     // schemas of the inputs: first the stream, then a join's right side
	Out    string   `json:"out,omitempty"`    // schema of the output stream
	Reason string   `json:"reason,omitempty"` // discard

	Requires Requires `json:"requires,omitzero"`
	Affinity Affinity `json:"affinity,omitzero"`
	// Secrets are what the block may read, sorted by path, variable and file.
	Secrets []Secret `json:"secrets,omitempty"`
}

// Secret names a secret of the herd and how a slice gets its value. A plan never holds a
// value. With neither Env nor File the value is there for (*sdk.Context).Secret only.
type Secret struct {
	Path string `json:"path"`
	Env  string `json:"env,omitempty"`  // the environment variable that carries it
	File string `json:"file,omitempty"` // the name of the file that holds it, in the slice's folder of secrets
	Pos  Pos    `json:"pos,omitzero"`
}

// Step binds a step block to what it runs.
type Step struct {
	Kind     StepKind `json:"kind"`
	Func     string   `json:"func,omitempty"`     // Go identifier in the pipeline's package
	GoPkg    string   `json:"go_pkg,omitempty"`   // import path of the pipeline's package
	Pointers bool     `json:"pointers,omitempty"` // func(*In, *Out) error
	Context  bool     `json:"context,omitempty"`  // takes a leading *sdk.Context

	Where  string   `json:"where,omitempty"`  // filter; see Named for what an expression is
	Fields []string `json:"fields,omitempty"` // select
	Exprs  []Named  `json:"exprs,omitempty"`  // derive: field = expression; aggregate: field = call
	Key    []string `json:"key,omitempty"`    // aggregate

	With     string   `json:"with,omitempty"` // join: stream of the right side
	On       []JoinOn `json:"on,omitempty"`
	JoinKind string   `json:"join_kind,omitempty"` // inner left semi anti
}

// Named is a field name with the expression (expr-lang syntax) that makes it.
//
// Expressions (Named.Expr, Step.Where, Edge.When) see the fields of one input row by
// name, and the run's parameters as typed variables named $ + parameter, so
// "mean_delay > $min_delay". The expressions of one derive all see the input row, never
// each other's results. An aggregate's call is count(), or sum, mean, min, max of one
// field: "mean(delay)"; the output's fields are the keys in order, then the calls.
type Named struct {
	Name string `json:"name"`
	Expr string `json:"expr"`
	Type string `json:"type"` // type of the resulting field
}

// JoinOn is one equality of a join: a field of the stream and one of the right side.
type JoinOn struct {
	Left  string `json:"left"`
	Right string `json:"right"`
}

// Edge carries one stream, or one port of it, from a block to a block.
type Edge struct {
	ID   int    `json:"id"` // index in Plan.Edges
	From string `json:"from"`
	Port string `json:"port,omitempty"` // "" the output; else rejected, late, unmatched
	To   string `json:"to"`
	// Input is the index of To's input this edge feeds: 0 the stream, 1 a join's right side.
	Input int `json:"input,omitempty"`
	// When is the condition of the reader, "" for all rows; Otherwise takes the rows no
	// sibling's condition took.
	When      string `json:"when,omitempty"`
	Otherwise bool   `json:"otherwise,omitempty"`
	Schema    string `json:"schema"` // what travels; "" for rejected rows
	// Remote is true when From and To are in different slices.
	Remote bool `json:"remote,omitempty"`
}

// Slice is a set of fused blocks that run in one process.
type Slice struct {
	Name     string   `json:"name"` // unique in the plan; a DNS label
	Blocks   []string `json:"blocks"`
	Requires Requires `json:"requires"`
	Affinity Affinity `json:"affinity,omitzero"`
	// Secrets are the same for every block of the slice that has any: blocks with different
	// ones are not fused, so that no step sees what another was given.
	Secrets []Secret `json:"secrets,omitempty"`
	Region  int      `json:"region"`
}

// Region is the unit of attempt: slices joined by streaming edges.
type Region struct {
	ID     int      `json:"id"` // index in Plan.Regions
	Slices []string `json:"slices"`
}

// Requires is what a slice needs of a node. Zero values mean the defaults below.
type Requires struct {
	MilliCPU int64    `json:"milli_cpu,omitempty"`
	Memory   int64    `json:"memory,omitempty"`   // bytes
	Disk     int64    `json:"disk,omitempty"`     // bytes
	Labels   []string `json:"labels,omitempty"`   // "key=value" or "key", all must hold
	TimeSec  int64    `json:"time_sec,omitempty"` // time limit; 0 none
}

// Defaults where @requires is silent.
const (
	DefaultMilliCPU = 100
	DefaultMemory   = 64 << 20
)

// Affinity is where a slice wants to be. All parts are hard constraints.
type Affinity struct {
	Label        string   `json:"label,omitempty"`         // "key=value" or "key"
	ColocateWith []string `json:"colocate_with,omitempty"` // slices that must share its node
	Domain       string   `json:"domain,omitempty"`        // node label whose value all slices naming it share
	SpreadNode   bool     `json:"spread_node,omitempty"`   // shares no node with another slice of the run
}

// ColumnLineage says which input fields an output field is made of. Unknown is true
// where the code could not be read for it.
type ColumnLineage struct {
	Block   string      `json:"block"`
	Field   string      `json:"field"`
	From    []ColumnRef `json:"from,omitempty"`
	Unknown bool        `json:"unknown,omitempty"`
}

// ColumnRef is a field of another block's output.
type ColumnRef struct {
	Block string `json:"block"`
	Field string `json:"field"`
}
