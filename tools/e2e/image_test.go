//go:build cluster

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/runink/runink/image"
)

// Every node says which image it was booted from, and doctor finds nothing that one lacks.
func TestVersionAndDoctorOfNodes(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c, time.Minute)
	text, err := os.ReadFile(filepath.Join(root, "build", "image", image.ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	var built image.Manifest
	if err := json.Unmarshal(text, &built); err != nil {
		t.Fatal(err)
	}
	var v struct {
		Cluster struct {
			Server struct {
				Image string `json:"image"`
			} `json:"server"`
			Nodes []struct {
				Node  string `json:"node"`
				Image string `json:"image"`
			} `json:"nodes"`
		} `json:"cluster"`
	}
	if err := c.CLI.JSON(ctx, &v, "version"); err != nil {
		t.Fatal(err)
	}
	if v.Cluster.Server.Image != built.Version {
		t.Errorf("the control node that answers has image %q, and %q was built", v.Cluster.Server.Image, built.Version)
	}
	has := map[string]string{}
	for _, n := range v.Cluster.Nodes {
		has[n.Node] = n.Image
	}
	for _, n := range c.Names() {
		if has[n] != built.Version {
			t.Errorf("%s has image %q, and %q was built", n, has[n], built.Version)
		}
	}

	var said struct {
		Checks []struct {
			For    string `json:"for"`
			Name   string `json:"check"`
			Result string `json:"result"`
			Why    string `json:"why"`
		} `json:"checks"`
		Lacking int `json:"lacking"`
	}
	// What an earlier test did to n1 it may still be getting over.
	for {
		err := c.CLI.JSON(ctx, &said, "doctor", "--node", "n1")
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("doctor finds n1 lacking: %v", err)
		case <-time.After(300 * time.Millisecond): // a poll, not an assertion
		}
	}
	ok := map[string]bool{}
	for _, x := range said.Checks {
		if x.For != "n1" || x.Result != "ok" || x.Why == "" {
			t.Errorf("doctor says %+v", x)
		}
		ok[x.Name] = true
	}
	for _, what := range []string{"state", "isolation", "version", "capacity"} {
		if !ok[what] {
			t.Errorf("doctor did not look at %s of n1: %+v", what, said.Checks)
		}
	}
	if said.Lacking != 0 {
		t.Errorf("doctor counts %d that are lacking", said.Lacking)
	}
}
