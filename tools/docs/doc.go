// Package docs holds the documentation to what it speaks of. It owns no code but tests: a
// command of README.md, docs/ or the examples that fails, or that no test runs, fails them,
// and so does a copy of the example that differs from its files.
package docs
