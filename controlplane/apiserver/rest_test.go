package apiserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/routers"
	"go.yaml.in/yaml/v3"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/apiserver/rest"
	"github.com/runink/runink/controlplane/identity"
	"github.com/runink/runink/internal/errs"
	"github.com/runink/runink/internal/pki"
)

// restRule is how an RPC is reached over HTTP.
type restRule struct{ method, path string }

// restRules reads the mapping that the generated code was made from, by gRPC method.
func restRules(t *testing.T) map[string]restRule {
	t.Helper()
	data, err := os.ReadFile("../../api/runink/v1/rest.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		HTTP struct{ Rules []map[string]string }
	}
	if err := yaml.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	out := map[string]restRule{
		v1.ArtifactService_Upload_FullMethodName: {http.MethodPut, rest.UploadPath},
		v1.ClusterService_Restore_FullMethodName: {http.MethodPut, rest.RestorePath},
	}
	for _, r := range doc.HTTP.Rules {
		i := strings.LastIndexByte(r["selector"], '.')
		method := "/" + r["selector"][:i] + "/" + r["selector"][i+1:]
		for _, verb := range []string{"get", "put", "post", "patch", "delete"} {
			if p := r[verb]; p != "" {
				out[method] = restRule{strings.ToUpper(verb), p}
			}
		}
	}
	return out
}

// internalRPCs are those that only nodes and netboot services call: they are not of the API over HTTP.
var internalRPCs = map[string]bool{
	"BootstrapService/Offer": true, "BootstrapService/Bootstrap": true, "ClusterService/RecordRefusal": true,
	"JoinService/Clock": true, "JoinService/Join": true, "JoinService/Renew": true,
	"AgentService/Session": true, "AgentService/SliceGrant": true, "AgentService/PushLog": true,
	"ArtifactService/Replicate": true, "MachineService/Boot": true,
}

// TestEveryRPCIsMappedOrInternal fails when the protocol grows an RPC that nobody decided
// about, and holds what the gateway takes for granted before it reads a body.
func TestEveryRPCIsMappedOrInternal(t *testing.T) {
	rules := restRules(t)
	for m := range methodsOf() {
		r, mapped := rules[m]
		if mapped == internalRPCs[short(m)] {
			t.Errorf("%s: mapped: %v, internal: %v", m, mapped, internalRPCs[short(m)])
		}
		if mapped && r.method != http.MethodGet && policy()[m].allows(Anonymous) {
			t.Errorf("%s changes something, and anybody may call it: the gateway refuses it to those without credentials", m)
		}
	}
	for m := range rules {
		if methodsOf()[m] == nil {
			t.Errorf("rest.yaml maps %s, which the protocol has not", m)
		}
	}
}

// restClient calls one control node over HTTP.
type restClient struct {
	c    *testCluster
	hc   *http.Client
	base string
	key  string

	describes routers.Router
}

func (c *testCluster) rest(id credential, addr string) *restClient {
	c.t.Helper()
	tr := &http.Transport{TLSClientConfig: pki.ClientTLS(pki.ClientOptions{
		Root: c.root.Cert(), Now: time.Now, Certificate: id.cert, NextProtos: []string{"h2", "http/1.1"},
	})}
	c.t.Cleanup(tr.CloseIdleConnections)
	return &restClient{c: c, hc: &http.Client{Transport: tr}, base: "https://" + addr, key: id.key}
}

// send makes a request; header is name, value, ….
func (r *restClient) send(method, path string, body io.Reader, header ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(r.c.ctx(), method, r.base+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
		if method == http.MethodPut && (strings.Contains(path, "/blobs/") || strings.HasSuffix(path, "/snapshot")) {
			req.Header.Set("Content-Type", "application/octet-stream")
		}
	}
	if r.key != "" {
		req.Header.Set("Authorization", "Bearer "+r.key)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return r.hc.Do(req)
}

// do is send, with the answer read. What is no success is the error it says. While nobody can
// answer, it asks again, as Retry-After has it.
func (r *restClient) do(method, path, body string, header ...string) (string, error) {
	ctx := r.c.ctx()
	for {
		answer, err := r.once(method, path, body, header...)
		if !errors.Is(err, errs.Unavailable) || ctx.Err() != nil {
			return answer, err
		}
		wait(ctx, 50*time.Millisecond)
	}
}

func (r *restClient) once(method, path, body string, header ...string) (string, error) {
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	resp, err := r.send(method, path, in, header...)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	r.asDescribed(resp.Request, body, resp, data)
	if resp.StatusCode < 300 {
		return string(data), nil
	}
	return "", restError(resp, data)
}

// answered is an error with the HTTP status it came with.
type answered struct {
	code int
	body rest.Error
	err  *errs.Error
}

func (a *answered) Error() string { return a.err.Error() }
func (a *answered) Unwrap() error { return a.err }

func restError(resp *http.Response, data []byte) error {
	var e rest.Error
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("%s: %q is no error of ours: %w", resp.Status, data, err)
	}
	k, ok := errs.ParseKind(e.Kind)
	if !ok {
		return fmt.Errorf("%s: %q is no kind", resp.Status, e.Kind)
	}
	return &answered{resp.StatusCode, e, errs.E(k, "", "%s", e.Message).WithField(e.Field).WithHint("%s", e.Hint).At(e.Place)}
}

// get is a GET whose answer is decoded.
func (r *restClient) get(path string, into any, header ...string) error {
	body, err := r.do(http.MethodGet, path, "", header...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(body), into)
}

var pathParameter = regexp.MustCompile(`\{([a-z.]+)(=\*\*)?\}`)

// callMethod calls an RPC with as empty a request as its path allows. Its request id is too
// short: what changes something is authorized, and then refused.
func (r *restClient) callMethod(method string) error {
	rule := restRules(r.c.t)[method]
	path := pathParameter.ReplaceAllStringFunc(rule.path, func(p string) string {
		switch pathParameter.FindStringSubmatch(p)[1] {
		case "herd", "herd.name":
			return "analytics"
		case "digest":
			return "sha256:" + strings.Repeat("0", 64)
		}
		return "x"
	})
	var body io.Reader
	switch rule.method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		body = strings.NewReader("{}")
	}
	resp, err := r.send(rule.method, path, body, "Idempotency-Key", "short")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// One byte is enough of a stream that goes on.
	if resp.StatusCode < 300 {
		if _, err := resp.Body.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		return nil
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return restError(resp, data)
}

// asOperator is a credential with the operator's certificate.
func (c *testCluster) asOperator() credential {
	return credential{cert: c.operatorCertificate}
}

// TestRESTCallers: who may come in, and as whom, is the same as over gRPC.
func TestRESTCallers(t *testing.T) {
	c := newTestCluster(t)
	n := c.bootstrap()
	op := c.operator()
	key := func(herd, role string) credential {
		t.Helper()
		if _, err := v1.NewHerdServiceClient(op).Put(c.ctx(), &v1.PutHerdRequest{Herd: &v1.Herd{Name: herd}}); err != nil {
			t.Fatal(err)
		}
		k, err := v1.NewIdentityServiceClient(op).CreateKey(c.ctx(), &v1.CreateKeyRequest{Herd: herd, Role: role})
		if err != nil {
			t.Fatal(err)
		}
		return credential{key: k.GetSecret()}
	}
	admin, other := key("analytics", "admin"), key("other", "admin")
	w := c.joinWorker("w1")

	t.Run("who am I", func(t *testing.T) {
		for name, tc := range map[string]struct {
			id   credential
			want string
		}{
			"no certificate": {credential{}, "anonymous"},
			"operator":       {c.asOperator(), "operator:alice"},
			"worker":         {credential{cert: w.NodeDir.TLSCertificate}, "node:w1"},
			"control node":   {credential{cert: n.nodeDir().TLSCertificate}, "node:n1"},
			"API key":        {admin, "key:"},
		} {
			var who struct{ Principal, Role, Herd string }
			if err := c.rest(tc.id, n.addr).get("/v1/whoami", &who); err != nil || !strings.HasPrefix(who.Principal, tc.want) {
				t.Errorf("%s: %+v, %v", name, who, err)
			}
		}
	})
	t.Run("refused", func(t *testing.T) {
		both := c.asOperator()
		both.key = admin.key
		for name, tc := range map[string]struct {
			id         credential
			method, to string
			kind       errs.Kind
			code       int
		}{
			"no certificate":                {credential{}, http.MethodGet, "/v1/herds", errs.Unauthenticated, 401},
			"no certificate, with a body":   {credential{}, http.MethodPut, "/v1/herds/x", errs.Unauthenticated, 401},
			"an expired certificate":        {credential{cert: c.expiredCertificate(w.NodeDir, "w1")}, http.MethodGet, "/v1/herds", errs.Unauthenticated, 401},
			"a key that does not exist":     {credential{key: "rk_aaaaaaaa_" + strings.Repeat("b", 43)}, http.MethodGet, "/v1/herds", errs.Unauthenticated, 401},
			"what is no key":                {credential{key: "hello"}, http.MethodGet, "/v1/herds", errs.Unauthenticated, 401},
			"a certificate and a key":       {both, http.MethodGet, "/v1/herds", errs.Invalid, 400},
			"another herd's key, its herd":  {other, http.MethodGet, "/v1/herds/analytics", errs.NotFound, 404},
			"another herd's key, a secret":  {other, http.MethodPut, "/v1/herds/analytics/secrets/a", errs.Denied, 403},
			"another herd's key, its keys":  {other, http.MethodGet, "/v1/keys?herd=analytics", errs.Denied, 403},
			"a role that may not":           {admin, http.MethodGet, "/v1/audit", errs.Denied, 403},
			"an operator's RPC by a worker": {credential{cert: w.NodeDir.TLSCertificate}, http.MethodPut, "/v1/herds/x", errs.Denied, 403},
		} {
			body := ""
			if tc.method != http.MethodGet {
				body = "{}"
			}
			_, err := c.rest(tc.id, n.addr).do(tc.method, tc.to, body)
			a, ok := errors.AsType[*answered](err)
			if !ok || a.err.Kind != tc.kind || a.code != tc.code || a.body.Message == "" {
				t.Errorf("%s: %v, want %s and %d", name, err, tc.kind, tc.code)
			}
		}
	})
	t.Run("a wrong certificate ends the handshake", func(t *testing.T) {
		stranger, err := pki.NewRoot("stranger", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		cert, err := stranger.IssueOperator("alice", c.operKey.Public(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		id := credential{cert: certificate(pki.TLSCertificate(c.operKey, certs(cert, stranger.Cert())))}
		if _, err := c.rest(id, n.addr).do(http.MethodGet, "/v1/whoami", ""); err == nil || !strings.Contains(err.Error(), "tls") {
			t.Errorf("it was answered: %v", err)
		}
	})
	t.Run("a revoked key", func(t *testing.T) {
		id, _, _ := strings.Cut(strings.TrimPrefix(other.key, "rk_"), "_")
		if _, err := c.rest(c.asOperator(), n.addr).do(http.MethodDelete, "/v1/keys/"+id, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := c.rest(other, n.addr).do(http.MethodGet, "/v1/herds", ""); !errors.Is(err, errs.Unauthenticated) {
			t.Errorf("it is let in: %v", err)
		}
	})
}

// TestRESTForgedIdentity: no header makes anybody somebody else.
func TestRESTForgedIdentity(t *testing.T) {
	c := newTestCluster(t)
	n := c.bootstrap()
	w := c.joinWorker("w1")
	der := string(c.operatorTLS().Certificate[0])
	for name, id := range map[string]credential{
		"anonymous":    {},
		"worker":       {cert: w.NodeDir.TLSCertificate},
		"control node": {cert: n.nodeDir().TLSCertificate},
	} {
		r := c.rest(id, n.addr)
		for _, prefix := range []string{"", "Grpc-Metadata-", "grpcgateway-", "Grpc-Metadata-Grpcgateway-"} {
			var who struct{ Principal string }
			err := r.get("/v1/whoami", &who,
				prefix+mdPrincipal, "operator:alice", prefix+mdKey, c.operatorPin(),
				prefix+rest.CertificateKey, base64Of(der), prefix+strings.TrimSuffix(rest.CertificateKey, "-bin"), base64Of(der))
			if err != nil || strings.HasPrefix(who.Principal, "operator") {
				t.Errorf("%s with %s… is %v, %v", name, prefix, who, err)
			}
		}
	}
}

// TestCertificateMetadataOverTLS: what the gateway says is believed of the gateway only.
func TestCertificateMetadataOverTLS(t *testing.T) {
	c := newTestCluster(t)
	c.bootstrap()
	w := c.joinWorker("w1")
	for name, cl := range map[string]credential{"anonymous": {}, "worker": {cert: w.NodeDir.TLSCertificate}} {
		var chain []string
		for _, der := range c.operatorTLS().Certificate {
			chain = append(chain, rest.CertificateKey, string(der))
		}
		who, err := v1.NewIdentityServiceClient(c.dialAs(cl)).WhoAmI(outgoing(c.ctx(), chain...), &v1.WhoAmIRequest{})
		if err != nil || strings.HasPrefix(who.GetPrincipal(), "operator") {
			t.Errorf("%s is %v, %v", name, who, err)
		}
	}
}

// TestRESTRequestIDs: a mutation that is sent again has one effect, and its first answer.
func TestRESTRequestIDs(t *testing.T) {
	c := newTestCluster(t)
	n := c.bootstrap()
	r := c.rest(c.asOperator(), n.addr)
	const body = `{"node": "w1", "role": "worker"}`
	post := func(header ...string) string {
		t.Helper()
		s, err := r.do(http.MethodPost, "/v1/tokens", body, header...)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := post("Idempotency-Key", "the-same-one")
	if again := post("Idempotency-Key", "the-same-one"); again != first {
		t.Errorf("%s and then %s", first, again)
	}
	if other := post(); other == first {
		t.Error("another request has the same answer")
	}
	if _, err := r.do(http.MethodPost, "/v1/tokens", `{"node": "w2", "role": "worker"}`, "Idempotency-Key", "the-same-one"); !errors.Is(err, errs.Conflict) {
		t.Errorf("another request with the same key: %v", err)
	}
	if _, err := r.do(http.MethodPost, "/v1/tokens", body, "Idempotency-Key", "short"); !errors.Is(err, errs.Invalid) || fieldOf(err) != "request_id" {
		t.Errorf("a key that is too short: %v", err)
	}
}

// TestRESTBadRequests: what is wrong is named with its place, and nothing is changed.
func TestRESTBadRequests(t *testing.T) {
	c := newTestCluster(t)
	n := c.bootstrap()
	r := c.rest(c.asOperator(), n.addr)
	before := len(c.audit(""))
	for name, tc := range map[string]struct {
		method, path, body string
		header             []string
		code               int
		field, place       string
	}{
		"no JSON":                {http.MethodPost, "/v1/tokens", "{\"node\":\n nonsense}", nil, 400, "", "body:2:3"},
		"two values":             {http.MethodPost, "/v1/tokens", `{} {}`, nil, 400, "", "body:1:4"},
		"an unknown field":       {http.MethodPost, "/v1/tokens", "{\n  \"nodes\": 1}", nil, 400, "", "body:2:3"},
		"a wrong type":           {http.MethodPost, "/v1/tokens", `{"node": [1]}`, nil, 400, "", "body:1:10"},
		"a rule of the .proto":   {http.MethodPost, "/v1/tokens", `{"node": "Not A Label", "role": "worker"}`, nil, 400, "node", ""},
		"no body":                {http.MethodPost, "/v1/tokens", "", nil, 400, "node", ""},
		"another type":           {http.MethodPost, "/v1/tokens", `{}`, []string{"Content-Type", "text/plain"}, 415, "Content-Type", ""},
		"an unknown parameter":   {http.MethodGet, "/v1/runs?herds=x", "", nil, 400, "herds", ""},
		"a parameter of no use":  {http.MethodGet, "/v1/runs?limit=many", "", nil, 400, "", ""},
		"a path there is not":    {http.MethodGet, "/v1/sheep", "", nil, 404, "", ""},
		"a method there is not":  {http.MethodDelete, "/v1/nodes", "", nil, 405, "", ""},
		"a form there is not":    {http.MethodGet, "/v1/nodes", "", []string{"Accept", "text/csv"}, 406, "Accept", ""},
		"another site's page":    {http.MethodDelete, "/v1/herds/x", "", []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}, 403, "", ""},
		"a malformed path":       {http.MethodGet, "/v1/nodes/%25zz%2f", "", nil, 404, "", ""},
		"a verb that overrides":  {http.MethodPost, "/v1/nodes", "{}", []string{"X-HTTP-Method-Override", "GET"}, 405, "", ""},
		"no pipelines are built": {http.MethodGet, "/v1/runs", "", nil, 501, "", ""},
	} {
		_, err := r.do(tc.method, tc.path, tc.body, tc.header...)
		a, ok := errors.AsType[*answered](err)
		if !ok || a.code != tc.code || a.body.Field != tc.field || a.body.Place != tc.place || a.body.Message == "" {
			t.Errorf("%s: %v (%+v)", name, err, a)
		}
		if ok && a.body.Hint == "" && tc.code != 501 {
			t.Errorf("%s: no next step: %v", name, err)
		}
	}
	if after := len(c.audit("")); after != before {
		t.Errorf("%d records of audit before, %d after", before, after)
	}
}

// TestRESTThroughFollowers: calls are forwarded, and streams redirected, in the caller's own
// name.
func TestRESTThroughFollowers(t *testing.T) {
	c := newTestCluster(t)
	c.ext = []Extension{Pipelines(PipelineOptions{})}
	c.three()
	f := c.follower()
	r := c.rest(c.asOperator(), f.addr)
	if _, err := r.do(http.MethodPut, "/v1/herds/analytics", `{"quota": {"milli_cpu": "100"}}`); err != nil {
		t.Fatal(err)
	}
	if got := c.audit(identity.CmdHerdPut); len(got) != 1 || got[0].GetPrincipal() != "operator:alice" {
		t.Errorf("audit: %v", got)
	}
	var key struct{ Secret string }
	body, err := r.do(http.MethodPost, "/v1/herds/analytics/keys", `{"role": "admin"}`)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(body), &key); err != nil {
		t.Fatal(err)
	}
	// A key that the follower may not have heard of yet, at once.
	var who struct{ Principal, Herd string }
	if err := c.rest(credential{key: key.Secret}, f.addr).get("/v1/whoami", &who); err != nil || who.Herd != "analytics" {
		t.Errorf("through a follower I am %v, %v", who, err)
	}
	var st struct {
		AnsweredBy string `json:"answered_by"`
		Leader     string
	}
	if err := r.get("/v1/cluster?consistency=CONSISTENCY_STALE", &st); err != nil || st.AnsweredBy != f.name {
		t.Errorf("a stale read: %v, %v", st, err)
	}
	if err := r.get("/v1/cluster", &st); err != nil || st.AnsweredBy != st.Leader {
		t.Errorf("a linearizable read: %v, %v", st, err)
	}
	for name, tc := range map[string]struct {
		method, path, body string
	}{
		"a stream out": {http.MethodGet, "/v1/cluster/snapshot", ""},
		"a stream in":  {http.MethodPut, "/v1/herds/analytics/blobs/sha256:" + strings.Repeat("0", 64) + "?size=7", "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			// On a busy machine the leadership may move between two questions.
			c.eventually("redirected", func() error {
				f, l := c.follower(), c.leader()
				r := c.rest(c.asOperator(), f.addr)
				r.hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				resp, err := r.send(tc.method, tc.path, strings.NewReader(tc.body))
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if want := "https://" + l.addr + tc.path; resp.StatusCode != http.StatusTemporaryRedirect || resp.Header.Get("Location") != want {
					return fmt.Errorf("%s to %q, want %q", resp.Status, resp.Header.Get("Location"), want)
				}
				var e rest.Error
				if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || e.Kind != "unavailable" || e.Leader == nil || e.Leader.Node != l.name {
					return fmt.Errorf("%+v, %w", e, err)
				}
				return nil
			})
		})
	}
	// A client that follows redirects has what it wanted.
	body, err = r.do(http.MethodGet, "/v1/cluster/snapshot", "")
	if err != nil || !strings.HasPrefix(body, "RKBARN") {
		t.Errorf("a snapshot through a follower: %.20q, %v", body, err)
	}
}

// TestRESTSnapshotRestore: bytes go out and come in as they are.
func TestRESTSnapshotRestore(t *testing.T) {
	c := newTestCluster(t)
	n := c.bootstrap()
	r := c.rest(c.asOperator(), n.addr)
	put := func(herd string) {
		t.Helper()
		if _, err := r.do(http.MethodPut, "/v1/herds/"+herd, ""); err != nil {
			t.Fatal(err)
		}
	}
	put("before")
	snapshot, err := r.do(http.MethodGet, "/v1/cluster/snapshot", "")
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := r.do(http.MethodGet, "/v1/cluster/snapshot", "", "Accept", "application/x-ndjson")
	if err != nil || !strings.HasPrefix(asJSON, `{"result":{"data":"`) {
		t.Errorf("as lines: %.40q, %v", asJSON, err)
	}
	put("after")
	if _, err := r.do(http.MethodPut, "/v1/cluster/snapshot", "not a snapshot"); !errors.Is(err, errs.Corrupt) {
		t.Errorf("a broken one: %v", err)
	}
	if _, err := r.do(http.MethodPut, "/v1/cluster/snapshot?from=x", snapshot); !errors.Is(err, errs.Invalid) {
		t.Errorf("an unknown parameter: %v", err)
	}
	// A client that goes away in the middle of one: nothing is restored.
	body := io.MultiReader(strings.NewReader(snapshot[:len(snapshot)-1]), failing{})
	if resp, err := r.send(http.MethodPut, "/v1/cluster/snapshot", body); err == nil {
		resp.Body.Close()
		t.Errorf("a client that stopped half-way was answered %s", resp.Status)
	}
	if err := r.get("/v1/herds/after", &struct{}{}); err != nil {
		t.Errorf("a refused restore changed something: %v", err)
	}
	if _, err := r.do(http.MethodPut, "/v1/cluster/snapshot", snapshot, "Idempotency-Key", "restore-1"); err != nil {
		t.Fatal(err)
	}
	if got := c.audit(identity.CmdRestored); len(got) != 1 || got[0].GetRequestId() != "restore-1" || got[0].GetPrincipal() != "operator:alice" {
		t.Errorf("audit: %v", got)
	}
	if err := r.get("/v1/herds/after", &struct{}{}); !errors.Is(err, errs.NotFound) {
		t.Errorf("what came after: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the client's disk failed") }

// TestRESTAfterThePanic: a defect in a handler is one answer here as well.
func TestRESTAfterThePanic(t *testing.T) {
	c := newTestCluster(t)
	c.ext = []Extension{{Nodes: func(*Host) NodeState { return panicky{} }}}
	n := c.bootstrap()
	r := c.rest(c.asOperator(), n.addr)
	_, err := r.do(http.MethodGet, "/v1/nodes/n1", "")
	if a, ok := errors.AsType[*answered](err); !ok || a.code != 500 || a.err.Kind != errs.Internal {
		t.Errorf("got %v", err)
	}
	if _, err := r.do(http.MethodGet, "/v1/whoami", ""); err != nil {
		t.Error(err)
	}
}

// TestRESTBeforeTheBootstrap: a node without a cluster says so.
func TestRESTBeforeTheBootstrap(t *testing.T) {
	c := newTestCluster(t)
	n := c.node("n1", nil, "")
	c.start(n)
	hc := &http.Client{Transport: anyServer()}
	for _, path := range []string{"/v1/runs", "/healthz"} {
		req, err := http.NewRequestWithContext(c.ctx(), http.MethodGet, "https://"+n.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := hc.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 503 || !bytes.Contains(data, []byte("runink cluster bootstrap")) {
			t.Errorf("%s: %s %s, %v", path, resp.Status, data, err)
		}
	}
}
