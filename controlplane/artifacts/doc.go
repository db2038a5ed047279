// Package artifacts keeps content-addressed blobs on control nodes: bundles, inputs and
// outputs of runs.
//
// It owns the blob files of a control node, below one directory, and in Barn
//
//	/blob/<digest>               Blob: size, owners, when it was registered
//	/blobref/<digest>/<run>      a run that refers to it
//
// It promises:
//   - A blob is registered in Barn only after a majority of the control nodes has it on
//     disk, synced and checked against its digest. Handlers of other owners refuse digests
//     that are not registered (Lookup), so nothing ever refers to what a minority holds.
//   - A file below blobs/ is complete and was checked when it was written; what is being
//     received is elsewhere, and may be resumed.
//   - Every control node pulls registered blobs it does not hold, in the background, so
//     that after membership grew each one can serve each blob.
//   - A blob that a run refers to is not collected. What nothing refers to is, once it is
//     older than a grace period by the leader's monotonic clock alone; the command that
//     forgets it looks again, in the entry.
//   - A disk that is nearly full refuses uploads with errs.Exhausted and changes nothing.
//
// It never interprets a blob, except that ReadPlan finds plan.json in a bundle. It
// authorizes nobody: owners (herds) are recorded, the API server asks.
package artifacts
