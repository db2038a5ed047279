// Package lang is the pipeline language: the text of a .dsl file, its syntax tree, the
// canonical printer and the diagnostics everyone above it reports with.
//
// It promises: Parse accepts any bytes, never panics, and returns every syntax error it
// can find at once, each with its place; Format(Parse(x)) parses to the same tree and
// formats to itself; positions are 1-based lines and byte columns of the original text.
//
// It never reads a file, resolves a name, checks a type or looks at Go: that is
// pipeline/compile's. It knows the vocabulary (which annotations and keys exist, and
// which of them are built), because an unknown word is an error of the language.
package lang
