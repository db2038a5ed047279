package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
)

// reachPatience bounds how long doctor waits for a control node.
const reachPatience = 10 * time.Second

// checkCluster looks at the certificates of this machine, and for the control plane.
func checkCluster(ctx context.Context, c *cobra.Command) []finding {
	var out []finding
	if m, err := pki.NodeDir(nodecfg.NodeDir).TLSCertificate(); err == nil && m.Leaf != nil {
		out = append(out, expiry("this node's certificate", m.Leaf, time.Now(), "a node renews by itself: see its console for why it cannot"))
	}
	cfg, err := loadClientConfig()
	if err != nil {
		return append(out, found("configuration", "", err))
	}
	if cfg.Current == "" && flagOrEnv(c, "context", envContext) == "" {
		return append(out, finding{
			Name: "configuration", Result: checkUnknown, Why: "no cluster is configured in " + cfg.path,
			Next: "`runink context add` adds one; `runink cluster init NAME` begins one",
		})
	}
	name, cc, err := cfg.context(c)
	if err != nil {
		return append(out, found("configuration", "", err))
	}
	out = append(out, finding{Name: "configuration", Result: checkOK, Why: "context " + name + " of " + cfg.path})
	if cc.APIKey == "" && os.Getenv(envAPIKey) == "" {
		certs, err := pki.LoadCerts(cfg.file(name, "operator.crt"))
		if err != nil {
			return append(out, found("operator's certificate", "", errs.E(errs.KindOf(err), "", "%w", err).WithHint("use the machine where the cluster was made, or an API key ($%s)", envAPIKey)))
		}
		out = append(out, expiry("operator's certificate", certs[0], time.Now(), "the root signs another: it is on the machine of `runink cluster init`"))
	}
	return append(out, checkControlPlane(ctx, c, cfg, name, cc)...)
}

// expiry warns in the last tenth of a certificate's life, too.
func expiry(name string, cert *x509.Certificate, now time.Time, next string) finding {
	c := finding{Name: name, Result: checkOK, Why: "good until " + cert.NotAfter.Local().Format(time.DateTime)}
	switch life := cert.NotAfter.Sub(cert.NotBefore); {
	case now.After(cert.NotAfter):
		c.Result, c.Why, c.Next = checkLacking, "it expired at "+cert.NotAfter.Local().Format(time.DateTime), next
	case now.Before(cert.NotBefore):
		c.Result, c.Why, c.Next = checkLacking, "it is good from "+cert.NotBefore.Local().Format(time.DateTime)+" on: this clock is behind", "set the clock"
	case cert.NotAfter.Sub(now) < life/10:
		c.Result, c.Why, c.Next = checkUnknown, "it expires at "+cert.NotAfter.Local().Format(time.DateTime)+", soon", next
	}
	return c
}

func checkControlPlane(ctx context.Context, c *cobra.Command, cfg *clientConfig, name string, cc *clientContext) []finding {
	const what = "control plane"
	ctx, cancel := context.WithTimeout(ctx, reachPatience)
	defer cancel()
	api, err := cfg.dial(c, name, cc)
	if err != nil {
		return []finding{found(what, "", err)}
	}
	defer api.Close()
	before := time.Now()
	st, err := v1.NewClusterServiceClient(api).Status(ctx, &v1.ClusterStatusRequest{})
	if err != nil {
		x := found(what, "", err)
		if x.Next == "" {
			x.Next = "is the address right (runink context list), and does the machine run?"
		}
		return []finding{x}
	}
	out := []finding{{
		Name: what, Result: checkOK,
		Why: fmt.Sprintf("%s answers for %s in %s: %d control nodes vote, %d of %d nodes are ready", st.GetAnsweredBy(), st.GetName(),
			time.Since(before).Round(time.Millisecond), st.GetVoters(), st.GetNodesReady(), st.GetNodes()),
	}}
	before = time.Now()
	clock, err := v1.NewJoinServiceClient(api).Clock(ctx, &v1.ClockRequest{})
	if err != nil {
		return append(out, found("clock of the cluster", "", err))
	}
	return append(out, skewCheck(clock.GetNow().AsTime(), before, time.Now(), cc.ClockOffset))
}

// maxSkew is how far two clocks may differ before certificates that were just made are not
// good yet for somebody.
const maxSkew = time.Minute

// skewCheck compares the cluster's clock with this one's, which showed from before to after
// while it was asked. offset is by how much they differ on purpose.
func skewCheck(theirs, before, after time.Time, offset string) finding {
	c := finding{Name: "clock of the cluster", Result: checkOK, Why: "as this machine's, within a minute"}
	if offset != "" {
		c.Why = "differs by " + offset + ", on purpose"
		return c
	}
	off := time.Duration(0)
	switch {
	case theirs.Before(before):
		off = theirs.Sub(before)
	case theirs.After(after):
		off = theirs.Sub(after)
	}
	if off.Abs() > maxSkew {
		c.Result, c.Why, c.Next = checkLacking, "it differs from this machine's by "+off.Round(time.Second).String(), "set the clock of whichever is wrong: certificates are judged by it"
	}
	return c
}

// checkRemote says of a node what the control plane knows.
func checkRemote(c *cobra.Command, name string) (out []finding, err error) {
	err = withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
		n, err := v1.NewNodeServiceClient(api).Get(c.Context(), &v1.GetNodeRequest{Name: name})
		if err != nil {
			return err
		}
		st, err := v1.NewClusterServiceClient(api).Status(c.Context(), &v1.ClusterStatusRequest{})
		if err != nil {
			return err
		}
		out = nodeChecks(n, st)
		return nil
	})(c, nil)
	return out, err
}

func nodeChecks(n *v1.Node, leader *v1.ClusterStatusResponse) []finding {
	state := finding{Name: "state", Result: checkOK, Why: n.GetState()}
	switch n.GetState() {
	case "ready":
	case "draining", "drained":
		state.Result, state.Why, state.Next = checkLacking, n.GetState()+": "+n.GetDrainReason(), "runink node resume "+n.GetName()
	case "joining":
		state.Result, state.Next = checkLacking, "its agent has not reported in this boot: look at its console"
	case "lost":
		state.Result, state.Why, state.Next = checkLacking, "lost since "+when(n.GetLastChange()), "start it again; what ran there is placed elsewhere"
	default:
		state.Result, state.Next = checkLacking, "look at its console"
	}
	out := []finding{state}
	if len(n.GetNotEnforced()) == 0 && n.GetBootId() != "" {
		out = append(out, finding{Name: "isolation", Result: checkOK, Why: "everything is enforced"})
	}
	if n.GetBootId() == "" {
		out = append(out, finding{Name: "isolation", Result: checkUnknown, Why: "its agent has never reported"})
	}
	for _, what := range n.GetNotEnforced() {
		name, _, _ := strings.Cut(what, ":")
		out = append(out, finding{Name: name, Result: checkLacking, Why: what, Next: "`runink doctor --for node` on the machine says more"})
	}
	for _, what := range n.GetFailing() {
		name, why, _ := strings.Cut(what, ": ")
		out = append(out, finding{Name: name, Result: checkLacking, Why: why, Next: "its console says what to do; the rest of the node works"})
	}
	version := finding{Name: "version", Result: checkOK, Why: join(", image ", n.GetVersion(), n.GetImageDigest())}
	switch {
	case n.GetVersion() == "":
		version.Result, version.Why = checkUnknown, "its agent has not said"
	case n.GetVersion() != leader.GetVersion() || n.GetImageDigest() != leader.GetImageDigest():
		version.Result = checkUnknown
		version.Next = fmt.Sprintf("control node %s has another: %s", leader.GetAnsweredBy(), join(", image ", leader.GetVersion(), leader.GetImageDigest()))
	}
	out = append(out, version)
	if n.GetRole() != "control" {
		room := finding{Name: "capacity", Result: checkOK, Why: "cpu " + used(cpu(n.GetAllocated().GetMilliCpu()), cpu(n.GetCapacity().GetMilliCpu())) + ", memory " + used(size(n.GetAllocated().GetMemory()), size(n.GetCapacity().GetMemory()))}
		if n.GetCapacity().GetMilliCpu() == 0 || n.GetCapacity().GetMemory() == 0 {
			room.Result, room.Next = checkLacking, "its agent offers nothing for slices: the machine is too small, or it has never reported"
		}
		out = append(out, room)
	}
	for i := range out {
		out[i].For = n.GetName()
	}
	return out
}
