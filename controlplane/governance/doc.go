// Package governance remembers what was made of what: for each committed run its inputs,
// steps and outputs, with row counts, contract hashes, the code's digest and the digests
// of the data.
//
// It owns, in Barn,
//
//	/lineage/run/<run>                          Record
//	/lineage/dataset/<dataset>                  Dataset, as of its newest use
//	/lineage/use/<dataset>/<newest first>/<run> which runs wrote or read a dataset
//	/lineage/data/<digest>/<w|r>/<run>          which runs wrote or read a content
//
// where <dataset> is "<herd>/<uri>", escaped. It promises: a run's record is written in
// the entry that commits the run, so that lineage names every published output and no
// other. Runs are joined by the digest of the data, not by name: what a run read is linked
// to whoever wrote exactly that.
//
// It never looks at data, and never decides who may see a herd.
package governance
