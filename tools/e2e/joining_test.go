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
//
// Two machines are tried at a time: one that starts uses one processor.
func TestRefusedMachines(t *testing.T) {
	c := shared.Cluster(t)
	ctx := limit(t, c, 4*time.Minute)
	before := members(ctx, t, c)
	type refusal struct {
		name   string
		line   func(t *testing.T, spare string) string
		says   string            // the console, in its own words
		action string            // in the audit log
		detail map[string]string // there; nil: the spare is its node
	}
	token := func(t *testing.T, node, role string, more ...string) string {
		t.Helper()
		var tok struct {
			CommandLine string `json:"command_line"`
		}
		if err := c.CLI.JSON(ctx, &tok, append([]string{"token", "create", "--node", node, "--role", role}, more...)...); err != nil {
			t.Fatal(err)
		}
		return tok.CommandLine
	}
	for spare, refusals := range map[string][]refusal{
		"n4": {
			{
				"expired", func(t *testing.T, spare string) string {
					return token(t, spare, "worker", "--ttl", "1s") // it takes longer than that to boot
				},
				"the token expired at", "identity.join", nil,
			},
			{
				// A second machine with the command line of a node that has joined.
				"reused", func(*testing.T, string) string { return c.CommandLine("n2") },
				"the token was used at", "identity.join",
				map[string]string{"node": "n2"},
			},
		},
		"n5": {
			{
				"wrong pin", func(t *testing.T, spare string) string {
					return word(token(t, spare, "worker"), "runink.ca", "sha256:"+strings.Repeat("5", 64))
				},
				"pin", "identity.refused",
				map[string]string{"what": "handshake"},
			},
			{
				"another node's", func(t *testing.T, spare string) string {
					return word(token(t, "n6", "worker"), "runink.node", spare)
				},
				`the token is for node "n6", and this is "n5"`, "identity.join", nil,
			},
			{
				"another role's", func(t *testing.T, spare string) string {
					return word(token(t, spare, "worker"), "runink.role", "control+worker")
				},
				"the token is for role worker, and this node has role control+worker", "identity.join", nil,
			},
		},
	} {
		t.Run(spare, func(t *testing.T) {
			t.Parallel()
			for _, tc := range refusals {
				t.Run(tc.name, func(t *testing.T) {
					detail := tc.detail
					if detail == nil {
						detail = map[string]string{"node": spare}
					}
					last := newestRefusal(ctx, t, c, tc.action, nil)
					if err := c.SetCommandLine(spare, tc.line(t, spare)); err != nil {
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
					for newestRefusal(ctx, t, c, tc.action, detail) <= last {
						select {
						case <-ctx.Done():
							t.Fatalf("no %s with %v in the audit log", tc.action, detail)
						case <-time.After(300 * time.Millisecond): // a poll, not an assertion
						}
					}
					if now := members(ctx, t, c); !maps.Equal(before, now) {
						t.Errorf("nodes were %v and are %v", before, now)
					}
				})
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
