//go:build cluster

package e2e

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/runink/runink/tools/harness"
	"github.com/runink/runink/tools/operator"
)

var joinFailed = regexp.MustCompile(`status join: failed: (.*)`)

// A machine with a command line that must not admit it: the console says why and what to
// do, the audit log has it, and the cluster's nodes are what they were. The control is how
// the cluster came to be: Join powers machines on with command lines that differ in no more.
func TestRefusedMachines(t *testing.T) {
	c := demo(t)
	ctx := limit(t, c, 4*time.Minute)
	const spare = "n4"
	before := members(ctx, t, c)
	token := func(node, role string, more ...string) string {
		var tok struct {
			CommandLine string `json:"command_line"`
		}
		if err := c.CLI.JSON(ctx, &tok, append([]string{"token", "create", "--node", node, "--role", role}, more...)...); err != nil {
			t.Fatal(err)
		}
		return tok.CommandLine
	}
	for _, tc := range []struct {
		name, line string
		says       string            // the console, in its own words
		action     string            // in the audit log
		detail     map[string]string // there
	}{
		{
			"wrong pin", word(token(spare, "worker"), "runink.ca", "sha256:"+strings.Repeat("5", 64)),
			"pin", "identity.refused",
			map[string]string{"what": "handshake"},
		},
		{
			"expired", token(spare, "worker", "--ttl", "1s"), // it takes longer than that to boot
			"the token expired at", "identity.join", map[string]string{"node": spare},
		},
		{
			// A second machine with the command line of a node that has joined.
			"reused", c.CommandLine("n2"),
			"the token was used at", "identity.join",
			map[string]string{"node": "n2"},
		},
		{
			"another node's", word(token("n5", "worker"), "runink.node", spare),
			`the token is for node "n5", and this is "n4"`, "identity.join",
			map[string]string{"node": spare},
		},
		{
			"another role's", word(token(spare, "worker"), "runink.role", "control+worker"),
			"the token is for role worker, and this node has role control+worker", "identity.join",
			map[string]string{"node": spare},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			last := newestRefusal(ctx, t, c, tc.action, nil)
			if err := c.SetCommandLine(spare, tc.line); err != nil {
				t.Fatal(err)
			}
			mark := powerOn(ctx, t, c, spare)
			defer c.Machine(spare).PowerCut()
			_, got, err := c.Machine(spare).Console.Wait(ctx, mark, joinFailed)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(got[1], tc.says) || !strings.Contains(got[1], "; what to do: ") {
				t.Errorf("the console says %q; expected are %q and what to do", got[1], tc.says)
			}
			for newestRefusal(ctx, t, c, tc.action, tc.detail) <= last {
				select {
				case <-ctx.Done():
					t.Fatalf("no %s with %v in the audit log", tc.action, tc.detail)
				case <-time.After(300 * time.Millisecond): // a poll, not an assertion
				}
			}
			if now := members(ctx, t, c); !maps.Equal(before, now) {
				t.Errorf("nodes were %v and are %v", before, now)
			}
		})
	}
}

// word changes one word of a kernel command line.
func word(line, key, value string) string {
	words := strings.Fields(line)
	for i, w := range words {
		if strings.HasPrefix(w, key+"=") {
			words[i] = key + "=" + value
		}
	}
	return strings.Join(words, " ")
}

// members maps the cluster's nodes to their keys' fingerprints.
func members(ctx context.Context, t *testing.T, c *harness.Cluster) map[string]string {
	t.Helper()
	var list struct {
		Nodes []struct {
			Name        string `json:"name"`
			Fingerprint string `json:"fingerprint"`
		} `json:"nodes"`
	}
	if err := c.CLI.JSON(ctx, &list, "node", "list"); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, n := range list.Nodes {
		all[n.Name] = n.Fingerprint
	}
	return all
}

// newestRefusal is the index of the newest denied entry of the audit log with these
// details, 0 if there is none.
func newestRefusal(ctx context.Context, t *testing.T, c *harness.Cluster, action string, detail map[string]string) (index uint64) {
	t.Helper()
	var log struct {
		Entries []struct {
			Index   uint64            `json:"index,string"`
			Outcome string            `json:"outcome"`
			Detail  map[string]string `json:"detail"`
		} `json:"entries"`
	}
	if err := c.CLI.JSON(ctx, &log, "audit", "--action", action); err != nil {
		var ee *operator.Error
		if errors.As(err, &ee) && ctx.Err() == nil {
			return 0 // the leader moves; asked again
		}
		t.Fatal(err)
	}
	for _, e := range log.Entries { // newest first
		matches := e.Outcome == "denied"
		for k, v := range detail {
			matches = matches && e.Detail[k] == v
		}
		if matches {
			return e.Index
		}
	}
	return 0
}
