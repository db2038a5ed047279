package main

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
)

// Completion of arguments and flags in a shell. What is named by its place in a command's
// usage line is looked up: files by their ending, contexts in the configuration, and runs,
// nodes, herds, tokens and keys on the cluster. A cluster that does not answer at once has no
// candidates: nobody waits for a Tab.

// completionPatience bounds what a Tab waits for.
const completionPatience = 2 * time.Second

// lister asks a cluster for the names of a kind, each with a word about it after a tab.
type lister func(ctx context.Context, api *apiclient.Client) ([]string, error)

// addCompletions gives every command below c its completions. It reads the commands' usage
// lines, so a new command has them by being written like the others.
func addCompletions(c *cobra.Command) {
	for _, sub := range c.Commands() {
		addCompletions(sub)
	}
	if c.ValidArgsFunction == nil && !c.HasSubCommands() {
		c.ValidArgsFunction = completeArgs
	}
	for _, f := range []struct {
		name string
		of   cobra.CompletionFunc
	}{
		{"herd", fromCluster(listHerds)},
		{"node", fromCluster(listNodes)},
		{"context", completeContexts},
		{"output", completeOutput},
		{"state", fixed("pending", "running", "committing", "succeeded", "failed", "cancelled")},
		{"role", nil},
		{"kind", fixed(eventKinds()...)},
		{"for", fixed(checkupNames()...)},
	} {
		if c.LocalFlags().Lookup(f.name) == nil && c.PersistentFlags().Lookup(f.name) == nil {
			continue
		}
		if f.name == "role" {
			f.of = fixed("control", "worker", "control+worker")
			if c.Parent() != nil && c.Parent().Name() == "apikey" {
				f.of = fixed("viewer", "runner", "admin", "netboot")
			}
			if c.Name() == "admit" {
				f.of = fixed("worker")
			}
		}
		// It fails for a flag that is not there or has one: neither is so here.
		_ = c.RegisterFlagCompletionFunc(f.name, f.of)
	}
}

// completeArgs completes the next argument of a command by its name in the usage line.
func completeArgs(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	switch name, repeats := placeholder(c, len(args)); {
	case strings.Contains(name, "FILE.dsl"):
		if strings.Contains(name, "FILE.bundle") {
			return []string{"dsl", "bundle"}, cobra.ShellCompDirectiveFilterFileExt
		}
		return []string{"dsl"}, cobra.ShellCompDirectiveFilterFileExt
	case name == "FILE":
		return nil, cobra.ShellCompDirectiveDefault
	case name == "RUN", name == "RUN|HERD/URI":
		return fromCluster(listRuns)(c, args, prefix)
	case name == "RUN/SINK":
		return completeSinks(c, args, prefix)
	case name == "SLICE":
		return fromCluster(slicesOf(args[0]))(c, args, prefix)
	case name == "NODE", name == "NAME" && parent(c) == "node" && !repeats:
		return fromCluster(listNodes)(c, args, prefix)
	case name == "NAME" && parent(c) == "herd":
		return fromCluster(listHerds)(c, args, prefix)
	case name == "NAME" && parent(c) == "context" && c.Name() != "add":
		return completeContexts(c, args, prefix)
	case name == "ID" && parent(c) == "token":
		return fromCluster(listTokens)(c, args, prefix)
	case name == "MAC-or-UUID":
		return fromCluster(listMachines(c.Name() == "admit"))(c, args, prefix)
	case name == "ID" && parent(c) == "apikey":
		return fromCluster(listKeys)(c, args, prefix)
	case name == "PATH" && c.Name() == "delete":
		herd, err := c.Flags().GetString("herd")
		if err != nil || herd == "" {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return fromCluster(secretsOf(herd))(c, args, prefix)
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

func parent(c *cobra.Command) string {
	if c.HasParent() {
		return c.Parent().Name()
	}
	return ""
}

// placeholder is the name of the n-th argument in the usage line: of "drain NAME --reason
// TEXT" the first is NAME. The last one repeats if it ends with an ellipsis.
func placeholder(c *cobra.Command, n int) (name string, repeats bool) {
	words := strings.Fields(c.Use)[1:]
	var names []string
	for i := 0; i < len(words); i++ {
		if strings.HasPrefix(words[i], "--") {
			i++ // and its value
			continue
		}
		names = append(names, strings.Trim(words[i], "[]"))
	}
	if len(names) == 0 {
		return "", false
	}
	if n >= len(names) {
		last := names[len(names)-1]
		if !strings.HasSuffix(last, "…") {
			return "", false
		}
		n = len(names) - 1
	}
	name, repeats = strings.CutSuffix(names[n], "…")
	return name, repeats
}

func fixed(words ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}

// completeOutput offers the forms that -o of this command takes.
func completeOutput(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	if f, ok := c.Flags().Lookup("output").Value.(*outputForm); ok {
		return f.of, cobra.ShellCompDirectiveNoFileComp
	}
	return []string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp
}

func completeContexts(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	cfg, err := loadClientConfig()
	if err != nil {
		cobra.CompDebugln(err.Error(), false)
		return nil, cobra.ShellCompDirectiveError
	}
	return slices.Sorted(maps.Keys(cfg.Contexts)), cobra.ShellCompDirectiveNoFileComp
}

// fromCluster completes by what the cluster has. Failures are for the shell's debug file.
func fromCluster(list lister) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		parentCtx := c.Context()
		if parentCtx == nil {
			parentCtx = context.Background()
		}
		ctx, cancel := context.WithTimeout(parentCtx, completionPatience)
		defer cancel()
		api, err := dialAPI(c)
		if err != nil {
			cobra.CompDebugln(err.Error(), false)
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer api.Close()
		all, err := list(ctx, api)
		if err != nil {
			cobra.CompDebugln(err.Error(), false)
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, x := range all {
			if strings.HasPrefix(x, prefix) {
				out = append(out, x)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

func listRuns(ctx context.Context, api *apiclient.Client) ([]string, error) {
	resp, err := v1.NewRunServiceClient(api).List(ctx, &v1.ListRunsRequest{Consistency: v1.Consistency_CONSISTENCY_STALE})
	var out []string
	for _, r := range resp.GetRuns() {
		out = append(out, r.GetId()+"\t"+r.GetName()+", "+r.GetState())
	}
	return out, err
}

func slicesOf(run string) lister {
	return func(ctx context.Context, api *apiclient.Client) ([]string, error) {
		r, err := v1.NewRunServiceClient(api).Get(ctx, &v1.GetRunRequest{Id: run, Consistency: v1.Consistency_CONSISTENCY_STALE})
		var out []string
		for _, reg := range r.GetRegions() {
			for _, s := range reg.GetSlices() {
				out = append(out, s.GetName())
			}
		}
		return out, err
	}
}

// completeSinks completes RUN/SINK: first the run, then what it wrote.
func completeSinks(c *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	run, _, named := strings.Cut(prefix, "/")
	if !named {
		out, d := fromCluster(func(ctx context.Context, api *apiclient.Client) ([]string, error) {
			all, err := listRuns(ctx, api)
			for i, r := range all {
				all[i] = strings.Replace(r, "\t", "/\t", 1)
			}
			return all, err
		})(c, args, prefix)
		return out, d | cobra.ShellCompDirectiveNoSpace
	}
	return fromCluster(func(ctx context.Context, api *apiclient.Client) ([]string, error) {
		r, err := v1.NewRunServiceClient(api).Get(ctx, &v1.GetRunRequest{Id: run, Consistency: v1.Consistency_CONSISTENCY_STALE})
		var out []string
		for _, o := range r.GetOutputs() {
			out = append(out, run+"/"+o.GetBlock()+"\t"+o.GetUri())
		}
		return out, err
	})(c, args, prefix)
}

func listNodes(ctx context.Context, api *apiclient.Client) ([]string, error) {
	resp, err := v1.NewNodeServiceClient(api).List(ctx, &v1.ListNodesRequest{Consistency: v1.Consistency_CONSISTENCY_STALE})
	var out []string
	for _, n := range resp.GetNodes() {
		out = append(out, n.GetName()+"\t"+n.GetRole()+", "+nodeState(n))
	}
	return out, err
}

func listHerds(ctx context.Context, api *apiclient.Client) ([]string, error) {
	resp, err := v1.NewHerdServiceClient(api).List(ctx, &v1.ListHerdsRequest{})
	var out []string
	for _, h := range resp.GetHerds() {
		out = append(out, h.GetName())
	}
	return out, err
}

func listTokens(ctx context.Context, api *apiclient.Client) ([]string, error) {
	resp, err := v1.NewNodeServiceClient(api).ListTokens(ctx, &v1.ListTokensRequest{})
	var out []string
	for _, t := range resp.GetTokens() {
		if t.GetState() == "unused" {
			out = append(out, t.GetId()+"\tfor "+t.GetNode())
		}
	}
	return out, err
}

func listKeys(ctx context.Context, api *apiclient.Client) ([]string, error) {
	resp, err := v1.NewIdentityServiceClient(api).ListKeys(ctx, &v1.ListKeysRequest{})
	var out []string
	for _, k := range resp.GetKeys() {
		if !k.GetRevoked() {
			what := k.GetRole() + " of " + k.GetHerd()
			if k.GetHerd() == "" {
				what = k.GetRole() + " " + k.GetName()
			}
			out = append(out, k.GetId()+"\t"+what)
		}
	}
	return out, err
}

// listMachines names machines, those that wait or all.
func listMachines(waiting bool) lister {
	return func(ctx context.Context, api *apiclient.Client) ([]string, error) {
		resp, err := v1.NewMachineServiceClient(api).List(ctx, &v1.ListMachinesRequest{})
		var out []string
		for _, m := range resp.GetMachines() {
			if m.GetState() == "pending" {
				out = append(out, m.GetId()+"\tpending "+m.GetUuid())
			} else if !waiting {
				out = append(out, m.GetId()+"\tnode "+m.GetNode())
			}
		}
		return out, err
	}
}

func secretsOf(herd string) lister {
	return func(ctx context.Context, api *apiclient.Client) ([]string, error) {
		resp, err := v1.NewSecretServiceClient(api).List(ctx, &v1.ListSecretsRequest{Herd: herd})
		var out []string
		for _, s := range resp.GetSecrets() {
			out = append(out, s.GetPath())
		}
		return out, err
	}
}
