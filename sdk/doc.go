// Package sdk is what the author of a pipeline imports: batches of rows, the context of
// a step, and the errors that reject a row.
//
// It promises: standard library only; row memory is valid during the call it is passed
// to; the bytes of a string that a batch holds are never reused, so keeping a string is
// always safe. Values of this package are used by one goroutine at a time unless a
// comment says otherwise.
//
// It never does I/O of its own and knows neither plans nor clusters. The codec of frames
// is in the package frame below it.
package sdk
