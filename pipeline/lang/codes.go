package lang

// Code identifies a kind of finding; it never changes its meaning once released.
type Code string

// The codes. 1xx are syntax and vocabulary, 2xx names, streams and types, 3xx Go, 9xx
// what is in the language but not built.
const (
	CodeLine       Code = "E101" // a line that is none of the language's
	CodeUnclosed   Code = "E102" // an annotation without its )
	CodeString     Code = "E103" // a broken string or value
	CodeArgs       Code = "E104" // order or repetition of arguments
	CodeTable      Code = "E105" // a broken table
	CodeEncoding   Code = "E106" // not UTF-8
	CodeAnnotation Code = "E110" // unknown annotation
	CodeKey        Code = "E111" // unknown key
	CodeValue      Code = "E112" // missing or unfit value
	CodeBlock      Code = "E113" // a block without a head or with two
	CodeMisplaced  Code = "E114" // an annotation where it may not stand

	CodeStream    Code = "E201" // unknown stream
	CodeAmbiguous Code = "E202" // no or several current streams
	CodeStep      Code = "E203" // unknown step
	CodeField     Code = "E204" // missing field
	CodeType      Code = "E205" // types of an edge differ
	CodeSignature Code = "E206" // a Go function that is no step
	CodeRouting   Code = "E207" // rows that no reader takes
	CodeFailure   Code = "E208" // a failure path without an exit
	CodeExpr      Code = "E209" // an expression
	CodeDuplicate Code = "E210" // a name twice
	CodeParam     Code = "E211" // unknown or unfit parameter
	CodeContract  Code = "E212" // unknown contract
	CodeSchema    Code = "E213" // a contract that is not one
	CodePlacement Code = "E214" // requires and affinity
	CodeExamples  Code = "E215" // an Examples table
	CodeURI       Code = "E216" // a source's or sink's address

	CodeGo       Code = "E301" // the Go package does not build
	CodeGoModule Code = "E302" // no Go module or no Go toolchain

	CodeNotBuilt Code = "E901" // in the language, not built yet
)
