package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/pki"
)

func newClusterCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "cluster",
		Short: "Found a cluster, see how it is, back it up",
		Example: `  runink cluster init prod
  runink cluster bootstrap --node n1 --address 10.0.0.11 --fingerprint sha256:3f…
  runink cluster status`,
	}
	addClientFlags(c)
	c.AddCommand(
		newClusterInitCmd(), newClusterBootstrapCmd(), newClusterStatusCmd(), newClusterMembersCmd(),
		newClusterRemoveMemberCmd(), newClusterTransferCmd(), newClusterSnapshotCmd(), newClusterRestoreCmd(),
	)
	return c
}

func newClusterInitCmd() *cobra.Command {
	var operator string
	var timeScale float64
	var reach map[string]string
	c := &cobra.Command{
		Use:   "init NAME",
		Short: "Make the operator's root of a new cluster on this machine",
		Long: `Make the operator's root and the operator's own key of a new cluster. Both stay on this
machine, in ~/.config/runink/NAME. Nothing else is touched: machines are started with the
kernel command line that this prints, and the first of them is bootstrapped next.`,
		Example: "  runink cluster init prod",
		Args:    exactArgs(1, "NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return clusterInit(c, args[0], operator, timeScale, reach)
		},
	}
	c.Flags().StringToStringVar(&reach, "reach", nil, "NODE=HOST:PORT where a control node is reached from here, if not by its own address")
	addOutputFlag(c)
	c.Flags().StringVar(&operator, "operator", userName(), "name of the operator in the audit log")
	c.Flags().Float64Var(&timeScale, "timescale", 1, "multiplies every timeout; for emulated machines")
	return c
}

func userName() string {
	if u := os.Getenv("USER"); u != "" && dnsLabel(u) {
		return u
	}
	return "operator"
}

func dnsLabel(s string) bool {
	return len(s) <= 63 && s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" && s[0] != '-' && s[len(s)-1] != '-'
}

func clusterInit(c *cobra.Command, name, operator string, timeScale float64, reach map[string]string) error {
	const op = "cluster init"
	if !dnsLabel(name) {
		return errs.E(errs.Invalid, op, "%q is not a DNS label", name).WithField("NAME").WithHint("1 to 63 of a-z, 0-9 and -")
	}
	if !dnsLabel(operator) {
		return errs.E(errs.Invalid, op, "%q is not a DNS label", operator).WithField("--operator").WithHint("1 to 63 of a-z, 0-9 and -")
	}
	cfg, err := loadClientConfig()
	if err != nil {
		return err
	}
	if _, ok := cfg.Contexts[name]; ok {
		return errs.E(errs.Exists, op, "%s has a context %q already", cfg.path, name).WithField("NAME").
			WithHint("choose another name; whoever holds the old root owns the old cluster")
	}
	if _, err := os.Stat(cfg.file(name, "root.key")); err == nil {
		return errs.E(errs.Exists, op, "%s exists", cfg.file(name, "root.key")).WithHint("move the folder away, if no cluster was made with it")
	}
	now := time.Now()
	root, err := pki.NewRoot(name, now)
	if err != nil {
		return err
	}
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	cert, err := root.IssueOperator(operator, key.Public(), now)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.file(name, ""), 0o700); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	if err := pki.SaveKey(cfg.file(name, "root.key"), root.Key); err != nil {
		return err
	}
	if err := pki.SaveCerts(cfg.file(name, "root.crt"), root.Cert()); err != nil {
		return err
	}
	if err := pki.SaveKey(cfg.file(name, "operator.key"), key); err != nil {
		return err
	}
	if err := pki.SaveCerts(cfg.file(name, "operator.crt"), cert, root.Cert()); err != nil {
		return err
	}
	ctx := &clientContext{Cluster: name, CA: pki.CertFingerprint(root.Cert()), Operator: pki.CertFingerprint(cert), Nodes: reach}
	if timeScale != 1 {
		ctx.TimeScale = timeScale
	}
	cfg.Contexts[name] = ctx
	cfg.Current = name
	if err := cfg.save(); err != nil {
		return err
	}
	line := fmt.Sprintf("runink.cluster=%s runink.node=n1 runink.role=control+worker runink.ca=%s runink.operator=%s", name, ctx.CA, ctx.Operator)
	if timeScale != 1 {
		line += fmt.Sprintf(" runink.timescale=%g", timeScale)
	}
	return emitJSON(c, map[string]string{"cluster": name, "ca": ctx.CA, "operator": ctx.Operator, "command_line": line}, func(w io.Writer) {
		fmt.Fprintf(w, `Made the root of cluster %s in %s
Keep that folder safe: who holds root.key owns the cluster.

Start the first control node with this on its kernel command line:

  %s

It keeps the cluster's state on the disk with serial runink-state. A machine that has none is
told its disk as well: runink.install=path:/dev/sda to boot from it, too, or
runink.state=path:/dev/sdb for the state alone.

When its console shows a fingerprint:

  runink cluster bootstrap --node n1 --address ADDRESS --fingerprint FINGERPRINT
`, name, cfg.file(name, ""), line)
	})
}

func newClusterBootstrapCmd() *cobra.Command {
	var node, fingerprint string
	var force bool
	c := &cobra.Command{
		Use:   "bootstrap --node NAME --address HOST",
		Short: "Found the cluster on its first control node, once",
		Long: `Found the cluster on its first control node. The node shows the fingerprint of its key on
its console; compare it, or pass it with --fingerprint. This machine signs the node's
intermediate authority with the root and hands it over. That happens once in the life of a
cluster: other nodes join with tokens, and so does this one if its disk is ever emptied.

It prints the recovery copy of the key-encryption key, once. Keep it offline.`,
		Example: "  runink cluster bootstrap --node n1 --address 10.0.0.11 --fingerprint sha256:3f…",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return clusterBootstrap(c, node, fingerprint, force)
		},
	}
	c.Flags().StringVar(&node, "node", "n1", "name of the node")
	c.Flags().StringVar(&fingerprint, "fingerprint", "", "fingerprint of the node's key, as its console shows it")
	c.Flags().BoolVar(&force, "force", false, "found another cluster although one was founded with this root: the old one is lost to this context")
	return c
}

func clusterBootstrap(c *cobra.Command, node, fingerprint string, force bool) error {
	const op = "cluster bootstrap"
	cfg, err := loadClientConfig()
	if err != nil {
		return err
	}
	name, cc, err := cfg.context(c)
	if err != nil {
		return err
	}
	if b := cc.Bootstrap; b != nil && b.ClusterID != "" && !force {
		return errs.E(errs.Conflict, op, "cluster %s was founded on node %s at %s", cc.Cluster, b.Node, b.Time.Local().Format(time.DateTime)).
			WithHint("a node whose disk was emptied joins again: runink token create --node %s --role control+worker", node)
	}
	addrs, err := addressesOf(c, cc)
	if err != nil {
		return err
	}
	if len(addrs) != 1 {
		return errs.E(errs.Invalid, op, "%d addresses were given, and one is needed", len(addrs)).WithField("--address").WithHint("the address that the node's console shows")
	}
	rootKey, err := pki.LoadKey(cfg.file(name, "root.key"))
	if err != nil {
		return errs.E(errs.KindOf(err), op, "%w", err).WithHint("bootstrap on the machine where `runink cluster init` was run")
	}
	rootCerts, err := pki.LoadCerts(cfg.file(name, "root.crt"))
	if err != nil {
		return err
	}
	operCerts, err := pki.LoadCerts(cfg.file(name, "operator.crt"))
	if err != nil {
		return err
	}
	if fingerprint == "" {
		if fingerprint, err = askFingerprint(c, node, addrs[0]); err != nil {
			return err
		}
	}
	operator, err := cfg.operator(name)
	if err != nil {
		return err
	}
	client, err := apiclient.New(apiclient.Config{
		Addresses: addrs, TimeScale: cc.TimeScale, Log: clientLog(c),
		TLS: pki.ClientTLS(pki.ClientOptions{KeyPin: fingerprint, Certificate: operator}),
	})
	if err != nil {
		return err
	}
	defer client.Close()
	// Recorded first: if the answer is lost, the next try is the same request.
	if cc.Bootstrap == nil || cc.Bootstrap.Node != node || force && cc.Bootstrap.ClusterID != "" {
		cc.Bootstrap = &bootstrapRecord{Node: node, RequestID: apiclient.NewRequestID(), Time: time.Now()}
		if err := cfg.save(); err != nil {
			return err
		}
	}
	resp, err := apiclient.Bootstrap(c.Context(), client, apiclient.BootstrapOptions{
		Root: &pki.Authority{Key: rootKey, Chain: rootCerts[:1]}, Operator: operCerts[0],
		Cluster: cc.Cluster, Node: node, Fingerprint: fingerprint, RequestID: cc.Bootstrap.RequestID,
	})
	if err != nil {
		return err
	}
	cc.Bootstrap.ClusterID, cc.Bootstrap.Time = resp.GetClusterId(), time.Now()
	cc.Addresses = addrs
	if err := cfg.save(); err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), `Cluster %s is founded on %s.
  id            %s
  recovery key  %s

The recovery key opens the cluster's secrets if every control node loses its copy. It is
shown this once: keep it offline.

Add nodes with:  runink token create --node n2 --role control+worker
`, cc.Cluster, node, resp.GetClusterId(), resp.GetRecoveryKey())
	return nil
}

// askFingerprint shows the key the machine has and lets the operator compare.
func askFingerprint(c *cobra.Command, node, addr string) (string, error) {
	const op = "cluster bootstrap"
	if st, err := os.Stdin.Stat(); err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return "", errs.E(errs.Invalid, op, "it is needed where nobody can be asked").WithField("--fingerprint").
			WithHint("the console of %s shows it", node)
	}
	d := &tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, InsecureSkipVerify: true}} // only to show the key
	ctx, cancel := context.WithTimeout(c.Context(), 20*time.Second)
	defer cancel()
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", errs.E(errs.Unavailable, op, "%w", err).WithField("--address").WithHint("is the node up, and is this its address?")
	}
	defer conn.Close()
	t, ok := conn.(*tls.Conn)
	if !ok || len(t.ConnectionState().PeerCertificates) == 0 {
		return "", errs.E(errs.Unauthenticated, op, "the machine shows no key")
	}
	fp := pki.CertFingerprint(t.ConnectionState().PeerCertificates[0])
	fmt.Fprintf(c.OutOrStdout(), "The machine at %s has the key\n\n  %s\n\nDoes the console of %s show the same? [yes/no] ", addr, fp, node)
	line, err := bufio.NewReader(c.InOrStdin()).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", errs.E(errs.Invalid, op, "%w", err)
	}
	if strings.TrimSpace(line) != "yes" {
		return "", errs.E(errs.Denied, op, "the fingerprint was not confirmed").WithHint("somebody may be in between; nothing was sent")
	}
	return fp, nil
}

func newClusterStatusCmd() *cobra.Command {
	var stale bool
	c := &cobra.Command{
		Use: "status", Short: "Show who leads, and how many nodes are there", Args: cobra.NoArgs,
		Example: "  runink cluster status\n  runink cluster status --stale -o json",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
			req := &v1.ClusterStatusRequest{}
			if stale {
				req.Consistency = v1.Consistency_CONSISTENCY_STALE
			}
			st, err := v1.NewClusterServiceClient(api).Status(c.Context(), req)
			if err != nil {
				return err
			}
			return emit(c, st, func(w io.Writer) {
				row(w, "cluster", st.GetName()+" ("+st.GetClusterId()+")")
				row(w, "leader", st.GetLeader())
				row(w, "voters", st.GetVoters())
				row(w, "nodes", fmt.Sprintf("%d, %d ready", st.GetNodes(), st.GetNodesReady()))
				row(w, "applied", fmt.Sprintf("%d in term %d, answered by %s", st.GetApplied(), st.GetTerm(), st.GetAnsweredBy()))
				row(w, "keys at rest", st.GetKekProtection())
			})
		}),
	}
	c.Flags().BoolVar(&stale, "stale", false, "take any control node's word, without asking the leader")
	addOutputFlag(c)
	return c
}

func newClusterMembersCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "members", Short: "List the control nodes of the quorum", Args: cobra.NoArgs,
		Example: "  runink cluster members",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
			resp, err := v1.NewClusterServiceClient(api).ListMembers(c.Context(), &v1.ListMembersRequest{})
			if err != nil {
				return err
			}
			return emit(c, resp, func(w io.Writer) {
				row(w, "NODE", "ADDRESS", "VOTER", "LEADER", "REPLICA")
				for _, m := range resp.GetMembers() {
					row(w, m.GetNode(), m.GetAddress(), m.GetVoter(), m.GetLeader(), m.GetRaftId())
				}
			})
		}),
	}
	addOutputFlag(c)
	return c
}

func newClusterRemoveMemberCmd() *cobra.Command {
	return &cobra.Command{
		Use: "remove-member NODE", Short: "Take a control node out of the quorum", Args: exactArgs(1, "NODE"),
		Long:    "Take a control node out of the quorum. It stays a node; `runink node remove` takes that away too.",
		Example: "  runink cluster remove-member n3",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			_, err := v1.NewClusterServiceClient(api).RemoveMember(c.Context(), &v1.RemoveMemberRequest{Node: args[0]})
			return err
		}),
	}
}

func newClusterTransferCmd() *cobra.Command {
	return &cobra.Command{
		Use: "transfer-leadership [NODE]", Short: "Let another control node lead", Args: cobra.MaximumNArgs(1),
		Example: "  runink cluster transfer-leadership n2",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			req := &v1.TransferLeadershipRequest{}
			if len(args) > 0 {
				req.Node = args[0]
			}
			_, err := v1.NewClusterServiceClient(api).TransferLeadership(c.Context(), req)
			return err
		}),
	}
}

func newClusterSnapshotCmd() *cobra.Command {
	return &cobra.Command{
		Use: "snapshot FILE", Short: "Write a backup of the cluster's state", Args: exactArgs(1, "FILE"),
		Long: `Write a backup of the cluster's state. Secrets in it stay sealed, and the key that opens
them is not in it: keep the recovery key of the bootstrap too.`,
		Example: "  runink cluster snapshot prod-2026-11-22.barn",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			return clusterSnapshot(c, api, args[0])
		}),
	}
}

func clusterSnapshot(c *cobra.Command, api *apiclient.Client, path string) (err error) {
	const op = "cluster snapshot"
	stream, err := v1.NewClusterServiceClient(api).Snapshot(c.Context(), &v1.SnapshotRequest{})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return errs.E(errs.Invalid, op, "%w", err).WithField("FILE")
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	var n int64
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		k, err := f.Write(m.GetData())
		if err != nil {
			return errs.E(errs.Exhausted, op, "%w", err)
		}
		n += int64(k)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return errs.E(errs.Exhausted, op, "%w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	fmt.Fprintf(c.OutOrStdout(), "%s: %s\n", path, size(n))
	return nil
}

func newClusterRestoreCmd() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "restore FILE", Short: "Replace the cluster's state by a backup", Args: exactArgs(1, "FILE"),
		Long:    "Replace the cluster's state by a backup. Everything written since the backup is gone.",
		Example: "  runink cluster restore prod-2026-11-22.barn --yes",
		RunE: withAPI(func(c *cobra.Command, api *apiclient.Client, args []string) error {
			if !yes {
				return errs.E(errs.Invalid, "cluster restore", "it destroys what was written since the backup").WithField("--yes").WithHint("pass --yes if that is what you want")
			}
			return clusterRestore(c, api, args[0])
		}),
	}
	c.Flags().BoolVar(&yes, "yes", false, "I know what is lost")
	return c
}

func clusterRestore(c *cobra.Command, api *apiclient.Client, path string) error {
	const op = "cluster restore"
	f, err := os.Open(path)
	if err != nil {
		return errs.E(errs.NotFound, op, "%w", err).WithField("FILE")
	}
	defer f.Close()
	stream, err := v1.NewClusterServiceClient(api).Restore(c.Context())
	if err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	id := apiclient.NewRequestID()
	for {
		n, rerr := f.Read(buf)
		if n > 0 {
			if err := stream.Send(&v1.RestoreChunk{RequestId: id, Data: buf[:n]}); err != nil {
				break // the reason comes with the answer
			}
		}
		if errors.Is(rerr, io.EOF) {
			break
		}
		if rerr != nil {
			return errs.E(errs.Internal, op, "%w", rerr)
		}
	}
	resp, err := stream.CloseAndRecv()
	if err = apiclient.FromStatus("restore", err); err != nil {
		return errs.E(errs.KindOf(err), op, "%w", err).At(path)
	}
	fmt.Fprintf(c.OutOrStdout(), "restored; the state is at index %d\n", resp.GetIndex())
	return nil
}

// withAPI gives a command its connection.
func withAPI(fn func(c *cobra.Command, api *apiclient.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		api, err := dialAPI(c)
		if err != nil {
			return err
		}
		defer api.Close()
		return fn(c, api, args)
	}
}

// exactArgs is cobra.ExactArgs with our kind of error.
func exactArgs(n int, names string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return errs.E(errs.Invalid, c.CommandPath(), "it takes %s, and %d arguments were given", names, len(args)).WithHint("see `%s --help`", c.CommandPath())
	}
}
