// Package pipeline holds nothing but the source text of the packages below it that a
// generated program is built from, and the third-party modules these need, so that
// `runink build` works where this project is not checked out. See pipeline/builder.
//
// go.mod.txt and go.sum.txt are generated: go test ./pipeline/builder -run TestModules -update
package pipeline

import "embed"

// Source is the text of the engine, its formats and transports and the runtime.
//
//go:embed edge engine expr format runtime
//go:embed go.mod.txt go.sum.txt
var Source embed.FS
