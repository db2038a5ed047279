// Package docs holds the test that types what the documentation tells people to type. It owns
// no code: a command in a fenced block of README.md or docs/ that fails, or that no test runs,
// fails the tests.
package docs
