// Package contracts says what the rows of this pipeline's source must look like.
package contracts

// Attempt is what one step is to do.
type Attempt struct {
	Step string `json:"step" contract:"required" doc:"the step that does it; all: every one"`
	Do   string `json:"do" contract:"required" doc:"attempts, separated by spaces and made at once; or what else steps.go knows"`
}
