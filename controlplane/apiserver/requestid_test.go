package apiserver

import (
	"errors"
	"testing"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/plan"
)

// TestRequestIDOfAnotherRequest: a request id answers the request it was chosen for, and
// refuses any other, whichever field or RPC differs.
func TestRequestIDOfAnotherRequest(t *testing.T) {
	c := oneNode(t)
	api := c.operator()
	herds, secrets, keys, nodes := v1.NewHerdServiceClient(api), v1.NewSecretServiceClient(api), v1.NewIdentityServiceClient(api), v1.NewNodeServiceClient(api)
	submission := c.request(slicesPlan(1, plan.Requires{}, plan.Affinity{}))
	// Each does something, or with other set something else, and says what came of it.
	for name, do := range map[string]func(id string, other bool) (string, error){
		"herd": func(id string, other bool) (string, error) {
			q := &v1.Resources{MilliCpu: 100}
			if other {
				q.MilliCpu = 200
			}
			h, err := herds.Put(c.ctx(), &v1.PutHerdRequest{RequestId: id, Herd: &v1.Herd{Name: "h", Quota: q}})
			return h.String(), err
		},
		"secret": func(id string, other bool) (string, error) {
			value := []byte("one")
			if other {
				value = []byte("two")
			}
			s, err := secrets.Put(c.ctx(), &v1.PutSecretRequest{RequestId: id, Herd: "analytics", Path: "p", Value: value})
			return s.String(), err
		},
		"key": func(id string, other bool) (string, error) {
			role := "viewer"
			if other {
				role = "admin"
			}
			k, err := keys.CreateKey(c.ctx(), &v1.CreateKeyRequest{RequestId: id, Herd: "analytics", Role: role})
			return k.String(), err
		},
		"token": func(id string, other bool) (string, error) {
			node := "w1"
			if other {
				node = "w2"
			}
			k, err := nodes.CreateToken(c.ctx(), &v1.CreateTokenRequest{RequestId: id, Node: node, Role: "worker"})
			return k.String(), err
		},
		"label": func(id string, other bool) (string, error) {
			disk := "ssd"
			if other {
				disk = "none"
			}
			n, err := nodes.Label(c.ctx(), &v1.LabelNodeRequest{RequestId: id, Name: "n1", Set: map[string]string{"disk": disk}})
			return n.GetLabels()["disk"], err
		},
		"drain and resume": func(id string, other bool) (string, error) {
			if other {
				_, err := nodes.Resume(c.ctx(), &v1.ResumeNodeRequest{RequestId: id, Name: "n1"})
				return "", err
			}
			n, err := nodes.Drain(c.ctx(), &v1.DrainNodeRequest{RequestId: id, Name: "n1", Reason: "test"})
			return n.GetState(), err
		},
		"run, a parameter given and then not": func(id string, other bool) (string, error) {
			submission.RequestId, submission.Params = id, map[string]string{"min": "7"}
			if other {
				submission.Params = nil
			}
			r, err := c.runs().Submit(c.ctx(), submission)
			return r.GetId(), err
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := apiclient.NewRequestID()
			first, err := do(id, false)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := do(id, true); !errors.Is(err, errs.Conflict) || fieldOf(err) != "request_id" || errs.HintOf(err) == "" {
				t.Errorf("another request: %v", err)
			}
			if again, err := do(id, false); err != nil || again != first {
				t.Errorf("the same request: %q after %q, %v", again, first, err)
			}
		})
	}
}
