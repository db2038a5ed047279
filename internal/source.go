// Package internal holds nothing but the source text of the packages below it that a
// generated program is built from, so that `runink build` works where this project is
// not checked out. See pipeline/builder, which unpacks it.
package internal

import "embed"

// Source is the text of the packages that the in-slice runtime imports.
//
//go:embed deadletter errs fault fsx plan seal slicechan
var Source embed.FS
