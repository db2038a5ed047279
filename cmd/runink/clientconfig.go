package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/fsx"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
)

// Variables that override the configuration file; flags override both.
const (
	envConfig  = "RUNINK_CONFIG"  // path of the file
	envContext = "RUNINK_CONTEXT" // name of a context in it
	envAddress = "RUNINK_ADDRESS" // host:port of a control node
	envAPIKey  = "RUNINK_API_KEY"
)

// clientConfig is ~/.config/runink/config.json: the clusters this user knows.
type clientConfig struct {
	Current  string                    `json:"current,omitempty"`
	Contexts map[string]*clientContext `json:"contexts"`

	path string
}

// clientContext is one way to one cluster. Its files are beside config.json, in a folder of
// the context's name: root.crt, and for an operator root.key, operator.crt, operator.key.
type clientContext struct {
	Cluster   string   `json:"cluster"`
	Addresses []string `json:"addresses,omitempty"` // host:port of control nodes
	// Nodes is where each control node is reached from here, by node name, where that is not
	// the cluster's own address: port forwarding, address translation.
	Nodes     map[string]string `json:"nodes,omitempty"`
	CA        string            `json:"ca"`                 // fingerprint of the root
	Operator  string            `json:"operator,omitempty"` // fingerprint of the operator's key
	APIKey    string            `json:"api_key,omitempty"`
	TimeScale float64           `json:"time_scale,omitempty"`
	// ClockOffset is how far the cluster's clock is ahead of this machine's, a duration: for
	// clusters whose clocks were moved on purpose. Certificates are judged by that time.
	ClockOffset string `json:"clock_offset,omitempty"`

	Bootstrap *bootstrapRecord `json:"bootstrap,omitempty"`
}

// bootstrapRecord is what keeps an operator from founding a cluster twice.
type bootstrapRecord struct {
	Node      string    `json:"node"`
	RequestID string    `json:"request_id"`
	ClusterID string    `json:"cluster_id,omitempty"` // empty: it was begun, and no answer came
	Time      time.Time `json:"time"`
}

func configPath() (string, error) {
	if p := os.Getenv(envConfig); p != "" {
		return p, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", errs.E(errs.Invalid, "find configuration", "%w", err).WithHint("set %s to a path", envConfig)
	}
	return filepath.Join(dir, "runink", "config.json"), nil
}

// loadClientConfig reads the user's configuration; an absent file is an empty one.
func loadClientConfig() (*clientConfig, error) {
	const op = "read configuration"
	path, err := configPath()
	if err != nil {
		return nil, err
	}
	c := &clientConfig{path: path, Contexts: map[string]*clientContext{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, errs.E(errs.Internal, op, "%w", err)
	}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, errs.E(errs.Invalid, op, "%w", err).At(path).WithHint("correct the file, or move it away")
	}
	if c.Contexts == nil {
		c.Contexts = map[string]*clientContext{}
	}
	return c, nil
}

func (c *clientConfig) save() error {
	const op = "write configuration"
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	if err := fsx.WriteFileAtomic(c.path, append(data, '\n'), 0o600); err != nil {
		return errs.E(errs.Internal, op, "%w", err)
	}
	return nil
}

// file is the path of one of a context's files.
func (c *clientConfig) file(context, name string) string {
	return filepath.Join(filepath.Dir(c.path), context, name)
}

// addClientFlags adds the flags of every command that calls a cluster.
func addClientFlags(c *cobra.Command) {
	c.PersistentFlags().String("context", "", "context of the configuration file to use ($"+envContext+")")
	c.PersistentFlags().StringSlice("address", nil, "HOST[:PORT] of control nodes, instead of the context's ($"+envAddress+")")
}

func flagOrEnv(c *cobra.Command, flag, env string) string {
	if f := c.Flags().Lookup(flag); f != nil && f.Changed {
		return f.Value.String()
	}
	return os.Getenv(env)
}

// context chooses the context of a command.
func (c *clientConfig) context(cmd *cobra.Command) (string, *clientContext, error) {
	const op = "choose context"
	name := flagOrEnv(cmd, "context", envContext)
	if name == "" {
		name = c.Current
	}
	if name == "" {
		return "", nil, errs.E(errs.Invalid, op, "no cluster is configured in %s", c.path).WithField("--context").
			WithHint("`runink cluster init NAME` makes one; `runink context add` adds one that exists")
	}
	ctx, ok := c.Contexts[name]
	if !ok {
		return "", nil, errs.E(errs.NotFound, op, "%s has no context %q", c.path, name).WithField("--context").
			WithHint("`runink context list` shows them")
	}
	return name, ctx, nil
}

// addressesOf are the flag's or the variable's addresses, else the context's.
func addressesOf(cmd *cobra.Command, ctx *clientContext) ([]string, error) {
	list := ctx.Addresses
	for _, n := range slices.Sorted(maps.Keys(ctx.Nodes)) {
		if !slices.Contains(list, ctx.Nodes[n]) {
			list = append(list, ctx.Nodes[n])
		}
	}
	if f := cmd.Flags().Lookup("address"); f != nil && f.Changed {
		v, err := cmd.Flags().GetStringSlice("address")
		if err != nil {
			return nil, err
		}
		list = v
	} else if v := os.Getenv(envAddress); v != "" {
		list = []string{v}
	}
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = withPort(a)
	}
	return out, nil
}

// withPort adds the API's port to a host that has none.
func withPort(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(nodecfg.PortAPI))
}

// dialAPI connects to the cluster that the command's flags, the environment or the
// configuration file name. Close the client after use.
func dialAPI(cmd *cobra.Command) (*apiclient.Client, error) {
	cfg, err := loadClientConfig()
	if err != nil {
		return nil, err
	}
	name, ctx, err := cfg.context(cmd)
	if err != nil {
		return nil, err
	}
	return cfg.dial(cmd, name, ctx)
}

func (c *clientConfig) dial(cmd *cobra.Command, name string, ctx *clientContext) (*apiclient.Client, error) {
	addrs, err := addressesOf(cmd, ctx)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 && ctx.Bootstrap == nil && ctx.Operator != "" {
		return nil, errs.E(errs.Invalid, "reach the control plane", "cluster %s is not founded yet, no control node of it is known", ctx.Cluster).
			WithHint("start the first control node with the words that `runink cluster init` printed, then `runink cluster bootstrap --node n1 --address ADDRESS`")
	}
	var offset time.Duration
	if ctx.ClockOffset != "" {
		if offset, err = time.ParseDuration(ctx.ClockOffset); err != nil {
			return nil, errs.E(errs.Invalid, "read configuration", "%w", err).At(c.path).WithField("clock_offset")
		}
	}
	opts := pki.ClientOptions{Pin: ctx.CA, Now: func() time.Time { return time.Now().Add(offset) }}
	key := os.Getenv(envAPIKey)
	if key == "" {
		key = ctx.APIKey
	}
	if key == "" {
		if opts.Certificate, err = c.operator(name); err != nil {
			return nil, err
		}
	}
	return apiclient.New(apiclient.Config{
		Addresses: addrs, Nodes: ctx.Nodes, TLS: pki.ClientTLS(opts), APIKey: key, TimeScale: ctx.TimeScale,
		Log: clientLog(cmd),
	})
}

// operator is the operator's certificate of a context.
func (c *clientConfig) operator(name string) (func() (*tls.Certificate, error), error) {
	key, err := pki.LoadKey(c.file(name, "operator.key"))
	if err != nil {
		return nil, errs.E(errs.KindOf(err), "load operator's key", "%w", err).
			WithHint("set %s, or use the machine where the cluster was made", envAPIKey)
	}
	chain, err := pki.LoadCerts(c.file(name, "operator.crt"))
	if err != nil {
		return nil, err
	}
	cert := pki.TLSCertificate(key, chain)
	return func() (*tls.Certificate, error) { return cert, nil }, nil
}

// clientLog is where retries are told, with RUNINK_DEBUG set.
func clientLog(cmd *cobra.Command) *slog.Logger {
	if os.Getenv("RUNINK_DEBUG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}
