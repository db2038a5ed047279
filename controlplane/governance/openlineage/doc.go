// Package openlineage writes a run as events of the OpenLineage specification, 2-0-2
// (https://openlineage.io/spec/2-0-2/OpenLineage.json), for catalogs that read those.
//
// It promises: every event is valid under the specification's own JSON Schemas, as are its
// facets under theirs; the last event of a run repeats all of its inputs and outputs, so that
// a reader who missed the first has everything; and the same run gives the same bytes,
// whoever asks and whenever.
//
// It reads nothing and knows nothing that its caller does not pass.
//
// Names: a job's namespace is "runink://<cluster>/<herd>" and its name the pipeline's; a
// dataset's namespace is the same and its name the URI as the pipeline has it. A file:// URI
// is no file of a machine: it names content that the cluster keeps for the herd.
package openlineage
