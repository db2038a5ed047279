package main

import (
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/buildinfo"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/nodecfg"
)

// versions is what this program is, and what the cluster runs.
type versions struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	System  string `json:"system"`
	Program string `json:"program"` // digest of the file
	// Commit is the time of the commit that the image was built from, Image its digest; both
	// only where the machine was booted from one.
	Commit  *time.Time       `json:"commit_time,omitempty"`
	Image   string           `json:"image,omitempty"`
	Cluster *clusterVersions `json:"cluster,omitempty"`
}

type clusterVersions struct {
	Name   string        `json:"name"`
	Server nodeVersion   `json:"server"` // the control node that answered
	Nodes  []nodeVersion `json:"nodes"`
}

type nodeVersion struct {
	Node    string `json:"node"`
	Role    string `json:"role,omitempty"`
	State   string `json:"state,omitempty"`
	Version string `json:"version"`
	Go      string `json:"go,omitempty"`
	Image   string `json:"image"`
}

func newVersionCmd() *cobra.Command {
	var alone bool
	c := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program, of the servers and of the nodes",
		Long: `Version shows what this program is: its version, the Go that built it, the digest of its
file (the same source gives the same), and on a node the image it was booted from. Where a
cluster is configured it shows the same of the control node that answers and of every node.`,
		Example: `  runink version
  runink version --client -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return showVersion(c, nodecfg.ImageFile, alone) },
	}
	addClientFlags(c)
	addOutputFlag(c)
	c.Flags().BoolVar(&alone, "client", false, "only this program; ask nobody")
	return c
}

// showVersion prints what is known here whatever the cluster answers.
func showVersion(c *cobra.Command, imageFile string, alone bool) error {
	v, err := thisProgram(imageFile)
	if err != nil {
		return err
	}
	var unanswered error
	if !alone {
		v.Cluster, unanswered = askVersions(c)
	}
	if err := emitJSON(c, v, v.print); err != nil {
		return err
	}
	return unanswered
}

func thisProgram(imageFile string) (versions, error) {
	b := buildinfo.Read()
	v := versions{Version: b.Version, Go: b.Go, System: b.OS + "/" + b.Arch}
	var err error
	if v.Program, err = buildinfo.Digest(); err != nil {
		return v, err
	}
	image, err := nodecfg.LoadImage(imageFile)
	if err != nil && !errors.Is(err, errs.NotFound) { // an ordinary host has none
		return v, err
	}
	if v.Image = image.Version; !image.Time.IsZero() {
		v.Commit = &image.Time
	}
	return v, nil
}

// askVersions asks the configured cluster; nil if none is.
func askVersions(c *cobra.Command) (*clusterVersions, error) {
	cfg, err := loadClientConfig()
	if err != nil {
		return nil, err
	}
	if cfg.Current == "" && flagOrEnv(c, "context", envContext) == "" {
		return nil, nil
	}
	var out *clusterVersions
	err = withAPI(func(c *cobra.Command, api *apiclient.Client, _ []string) error {
		st, err := v1.NewClusterServiceClient(api).Status(c.Context(), &v1.ClusterStatusRequest{})
		if err != nil {
			return err
		}
		list, err := v1.NewNodeServiceClient(api).List(c.Context(), &v1.ListNodesRequest{})
		if err != nil {
			return err
		}
		out = &clusterVersions{
			Name: st.GetName(), Nodes: []nodeVersion{},
			Server: nodeVersion{Node: st.GetAnsweredBy(), Version: st.GetVersion(), Go: st.GetGoVersion(), Image: st.GetImageDigest()},
		}
		for _, n := range list.GetNodes() {
			out.Nodes = append(out.Nodes, nodeVersion{Node: n.GetName(), Role: n.GetRole(), State: nodeState(n), Version: n.GetVersion(), Image: n.GetImageDigest()})
		}
		return nil
	})(c, nil)
	return out, err
}

func (v *versions) print(w io.Writer) {
	row(w, "version", v.Version)
	row(w, "go", v.Go)
	row(w, "system", v.System)
	row(w, "program", v.Program)
	if v.Image != "" {
		row(w, "image", v.Image)
	}
	if v.Commit != nil {
		row(w, "commit", v.Commit.Format(time.RFC3339))
	}
	if v.Cluster == nil {
		return
	}
	row(w, "cluster", v.Cluster.Name)
	row(w, "server", v.Cluster.Server.Version+" on "+v.Cluster.Server.Node+", "+v.Cluster.Server.Go)
	if v.Cluster.Server.Image != "" {
		row(w, "server's image", v.Cluster.Server.Image)
	}
	row(w, "\nNODE", "ROLE", "STATE", "VERSION", "IMAGE")
	for _, n := range v.Cluster.Nodes {
		row(w, n.Node, n.Role, n.State, n.Version, n.Image)
	}
}
