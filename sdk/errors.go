package sdk

import "errors"

// RowError is an error of one row that names the rule and the field it is about. A step
// may return one (wrapped or not) to have both in the rejected row.
type RowError struct {
	Rule  string
	Field string
	Err   error
}

// Error reads "field: why".
func (e *RowError) Error() string {
	why := e.Rule
	if e.Err != nil {
		why = e.Err.Error()
	}
	if e.Field == "" {
		return why
	}
	return e.Field + ": " + why
}

// Unwrap returns the cause.
func (e *RowError) Unwrap() error { return e.Err }

func rowErrorOf(err error) *RowError {
	if re, ok := errors.AsType[*RowError](err); ok {
		return re
	}
	return nil
}
