package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
)

func newNodeCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "node", Short: "See, admit, drain and remove nodes",
		Example: "  runink node list\n  runink node drain n2 --reason 'new disk'\n  runink node admit 52:54:00:12:34:56 --node n7 --role worker",
	}
	addClientFlags(c)
	c.AddCommand(newNodeListCmd(), newNodeGetCmd(), newNodeDrainCmd(), newNodeResumeCmd(), newNodeLabelCmd(), newNodeRemoveCmd(),
		newNodeMachinesCmd(), newNodeAdmitCmd(), newNodeForgetCmd())
	return c
}

func newNodeListCmd() *cobra.Command {
	var stale bool
	c := &cobra.Command{
		Use: "list", Short: "List nodes", Args: cobra.NoArgs, Example: "  runink node list -o yaml",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
			req := &v1.ListNodesRequest{}
			if stale {
				req.Consistency = v1.Consistency_CONSISTENCY_STALE
			}
			resp, err := v1.NewNodeServiceClient(api).List(c.Context(), req)
			if err != nil {
				return err
			}
			return emit(c, resp, func(w io.Writer) {
				row(w, "NAME", "ROLE", "STATE", "ADDRESS", "CPU", "MEMORY", "LABELS")
				for _, n := range resp.GetNodes() {
					row(w, n.GetName(), n.GetRole(), nodeState(n), strings.Join(n.GetAddresses(), ","),
						used(cpu(n.GetAllocated().GetMilliCpu()), cpu(n.GetCapacity().GetMilliCpu())),
						used(size(n.GetAllocated().GetMemory()), size(n.GetCapacity().GetMemory())), labels(n.GetLabels()))
				}
			})
		}),
	}
	c.Flags().BoolVar(&stale, "stale", false, "take any control node's word, without asking the leader")
	addOutputFlag(c)
	return c
}

func nodeState(n *v1.Node) string {
	s := n.GetState()
	if n.GetCordoned() && s == "ready" {
		s += ",cordoned"
	}
	if len(n.GetNotEnforced()) > 0 {
		s += ",not-enforced"
	}
	if len(n.GetFailing()) > 0 {
		s += ",failing"
	}
	return s
}

func used(a, b string) string { return a + "/" + b }

func cpu(milli int64) string { return fmt.Sprintf("%g", float64(milli)/1000) }

func labels(m map[string]string) string {
	out := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, ",")
}

func newNodeGetCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "get NAME", Short: "Show a node", Args: exactArgs(1, "NAME"), Example: "  runink node get n2",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			n, err := v1.NewNodeServiceClient(api).Get(c.Context(), &v1.GetNodeRequest{Name: args[0]})
			if err != nil {
				return err
			}
			return emitNode(c, n)
		}),
	}
	addOutputFlag(c)
	return c
}

func emitNode(c *cobra.Command, n *v1.Node) error {
	return emit(c, n, func(w io.Writer) {
		row(w, "name", n.GetName())
		row(w, "role", n.GetRole())
		row(w, "state", nodeState(n))
		if n.GetDrainReason() != "" {
			row(w, "drained for", n.GetDrainReason())
		}
		row(w, "addresses", strings.Join(n.GetAddresses(), " "))
		row(w, "prefix", n.GetPrefix())
		row(w, "labels", labels(n.GetLabels()))
		row(w, "cpu", used(cpu(n.GetAllocated().GetMilliCpu()), cpu(n.GetCapacity().GetMilliCpu())))
		row(w, "memory", used(size(n.GetAllocated().GetMemory()), size(n.GetCapacity().GetMemory())))
		row(w, "disk", used(size(n.GetAllocated().GetDisk()), size(n.GetCapacity().GetDisk())))
		row(w, "key", n.GetFingerprint())
		row(w, "version", n.GetVersion())
		row(w, "image", n.GetImageDigest())
		row(w, "boot", n.GetBootId())
		row(w, "joined", when(n.GetJoined()))
		row(w, "last change", when(n.GetLastChange()))
		for _, what := range n.GetNotEnforced() {
			row(w, "not enforced", what)
		}
		for _, what := range n.GetFailing() {
			row(w, "failing", what)
		}
	})
}

func newNodeDrainCmd() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "drain NAME --reason TEXT", Short: "Move a node's work away and give it no more", Args: exactArgs(1, "NAME"),
		Example: "  runink node drain n2 --reason 'new disk'",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			if reason == "" {
				return errs.E(errs.Invalid, "node drain", "it is missing").WithField("--reason").
					WithHint("say why, for whoever looks next: --reason 'new disk'")
			}
			n, err := v1.NewNodeServiceClient(api).Drain(c.Context(), &v1.DrainNodeRequest{Name: args[0], Reason: reason})
			if err != nil {
				return err
			}
			return emitNode(c, n)
		}),
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for whoever looks next")
	addOutputFlag(c)
	return c
}

func newNodeResumeCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "resume NAME", Short: "Give a drained node work again", Args: exactArgs(1, "NAME"), Example: "  runink node resume n2",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			n, err := v1.NewNodeServiceClient(api).Resume(c.Context(), &v1.ResumeNodeRequest{Name: args[0]})
			if err != nil {
				return err
			}
			return emitNode(c, n)
		}),
	}
	addOutputFlag(c)
	return c
}

func newNodeLabelCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "label NAME KEY=VALUE… KEY-…", Short: "Set and remove labels of a node", Args: cobra.MinimumNArgs(2),
		Example: "  runink node label n2 zone=east gpu-",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			req := &v1.LabelNodeRequest{Name: args[0], Set: map[string]string{}}
			for _, a := range args[1:] {
				k, v, set := strings.Cut(a, "=")
				switch {
				case set && k != "":
					req.Set[k] = v
				case !set && strings.HasSuffix(a, "-") && len(a) > 1:
					req.Remove = append(req.Remove, strings.TrimSuffix(a, "-"))
				default:
					return errs.E(errs.Invalid, "node label", "%q is neither KEY=VALUE nor KEY-", a).WithHint("runink node label n2 zone=east gpu-")
				}
			}
			n, err := v1.NewNodeServiceClient(api).Label(c.Context(), req)
			if err != nil {
				return err
			}
			return emitNode(c, n)
		}),
	}
	addOutputFlag(c)
	return c
}

func newNodeRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Forget a node and revoke its key", Args: exactArgs(1, "NAME"),
		Long:    "Forget a node and revoke its key. A control node leaves the quorum. Drain it first: its slices are given up only when they are known to be dead.",
		Example: "  runink node remove n4",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			_, err := v1.NewNodeServiceClient(api).Remove(c.Context(), &v1.RemoveNodeRequest{Name: args[0]})
			return err
		}),
	}
}
