// Package contracts holds the row of the pipelines beside it.
package contracts

// Order is one row of the input; the parameter "how" says what the slice does.
type Order struct {
	N int `contract:"required,min=1"`
}
