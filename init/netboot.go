package pid1

import (
	"context"

	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/nodedisk"
)

// netbootComponent is the node's own netboot service, which boots other machines with what this
// one booted from.
const netbootComponent = "netboot"

// mountForOthers mounts what this machine booted from, for as long as it runs: the service reads
// it when it starts. Where there is nothing of the kind the service is not started, and the rest
// of the node is as it would be without it.
func (m *machine) mountForOthers(ctx context.Context) error {
	why, err := m.findMedium(ctx, nodecfg.MediumDir, nodedisk.ESPLabel, nodedisk.ISOLabel)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil || why != "":
		return m.bootsNobody(nodecfg.StatusDir, why, err)
	}
	return nil
}

// bootsNobody says on the console and in the service's status, which is below dir, that this
// node has nothing that others could boot, and why: a node that was handed kernel and initramfs
// has them in memory, unpacked. It returns the error that it says.
func (m *machine) bootsNobody(dir, why string, err error) error {
	if err == nil {
		err = errs.E(errs.NotFound, "boot other machines", "this node has no medium and no boot disk with the image that it runs (%s)", why).
			WithHint("give it the ISO that this image is on, or install it on a disk, and start it again; the rest of the node works without")
	}
	m.log.Warn("this node boots no other machine", "err", err)
	status := nodecfg.Status{State: nodecfg.StateFailed, Message: err.Error(), Hint: errs.HintOf(err)}
	if werr := nodecfg.WriteStatus(dir, netbootComponent, status); werr != nil {
		m.log.Error("status of a component not written", "name", netbootComponent, "err", werr)
	}
	return err
}
