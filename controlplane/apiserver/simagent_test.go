package apiserver

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/runink/runink/api/runink/v1"
	"github.com/runink/runink/controlplane/artifacts"
	"github.com/runink/runink/internal/apiclient"
	"github.com/runink/runink/internal/nodecfg"
	"github.com/runink/runink/internal/pki"
)

// simAgent speaks the agent's side of the protocol against a real server: session,
// heartbeats, desired state, uploads, exits, and the keeper's deadman. Its slices are
// goroutines.
type simAgent struct {
	t    *testing.T
	c    *testCluster
	name string
	api  *apiclient.Client
	cap  *v1.Resources
	work func(ctx context.Context, a *v1.SliceAssignment) simExit
	live *liveSet
	log  func(*v1.LogRequest) string // nil: empty

	mu       sync.Mutex
	boot     string
	slices   map[string]*simSlice
	deadline time.Time // the keeper's
	cut      bool      // no session may be held
	stream   v1.AgentService_SessionClient
	seq      uint64
	lease    time.Duration
	desired  *v1.DesiredState
	sendMu   sync.Mutex
	cancel   context.CancelFunc
	done     chan struct{}
}

// simExit is how a slice ends, and what it wrote, by block.
type simExit struct {
	exit   *v1.SliceExit
	parts  map[string]string
	counts map[string]*v1.BlockCount
}

type simSlice struct {
	status *v1.SliceStatus
	cancel context.CancelFunc
}

func simKey(k *v1.SliceKey) string { return fmt.Sprintf("%s/%s@%d", k.Run, k.Slice, k.Epoch) }

// liveSet watches over "one live attempt": no slice of a run may start while one of an
// older epoch of its region runs anywhere.
type liveSet struct {
	mu    sync.Mutex
	live  map[string]*v1.SliceAssignment
	bad   []string
	began []string
}

func newLiveSet() *liveSet { return &liveSet{live: map[string]*v1.SliceAssignment{}} }

func (l *liveSet) begin(node string, a *v1.SliceAssignment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.live {
		if o.Key.Run == a.Key.Run && o.Region == a.Region && o.Key.Epoch != a.Key.Epoch {
			l.bad = append(l.bad, fmt.Sprintf("%s began on %s while %s lived", simKey(a.Key), node, simKey(o.Key)))
		}
	}
	l.live[node+"/"+simKey(a.Key)] = a
	l.began = append(l.began, node+"/"+simKey(a.Key))
}

func (l *liveSet) end(node string, a *v1.SliceAssignment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.live, node+"/"+simKey(a.Key))
}

func (l *liveSet) check(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.bad {
		t.Error(b)
	}
}

// worker joins a machine that runs slices only, and returns its agent, not started.
func (c *testCluster) worker(name string, live *liveSet) *simAgent {
	c.t.Helper()
	tok := c.token(name, string(nodecfg.RoleWorker))
	n := &testNode{name: name, dir: c.t.TempDir(), addr: freePort(c.t), raft: freePort(c.t)}
	n.cfg = nodecfg.Config{
		Cluster: "test", Node: name, Role: nodecfg.RoleWorker, Join: c.addrs()[:1], Token: tok.GetToken(),
		CA: c.rootPin(), TimeScale: 1,
	}
	if _, err := apiclient.Join(c.ctx(), n.joinOptions()); err != nil {
		c.t.Fatal(err)
	}
	return c.agent(n, live)
}

// agent returns the agent of an admitted node.
func (c *testCluster) agent(n *testNode, live *liveSet) *simAgent {
	return &simAgent{
		t: c.t, c: c, name: n.name, live: live, slices: map[string]*simSlice{}, boot: n.name + "-boot-1",
		cap:  &v1.Resources{MilliCpu: 2000, Memory: 1 << 30, Disk: 1 << 30},
		work: func(context.Context, *v1.SliceAssignment) simExit { return success(nil) },
		api: c.dial(apiclient.Config{}, pki.ClientOptions{
			Certificate: func() (*tls.Certificate, error) { return n.nodeDir().TLSCertificate() },
		}),
	}
}

func success(parts map[string]string) simExit {
	return simExit{exit: &v1.SliceExit{Reason: "success"}, parts: parts}
}

func (a *simAgent) start() *simAgent {
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel, a.done = cancel, make(chan struct{})
	a.t.Cleanup(a.stop)
	go func() {
		defer close(a.done)
		go a.deadman(ctx)
		for ctx.Err() == nil {
			a.mu.Lock()
			cut := a.cut
			a.mu.Unlock()
			if !cut {
				if err := a.session(ctx); err != nil && ctx.Err() == nil {
					a.t.Logf("agent %s: %v", a.name, err)
				}
			}
			wait(ctx, 20*time.Millisecond)
		}
	}()
	return a
}

func (a *simAgent) stop() {
	if a.cancel == nil {
		return
	}
	a.cancel()
	<-a.done
	a.cancel = nil
}

// deadman kills every slice when the keeper's deadline passes.
func (a *simAgent) deadman(ctx context.Context) {
	for ctx.Err() == nil {
		a.mu.Lock()
		fire := !a.deadline.IsZero() && time.Now().After(a.deadline)
		var all []*simSlice
		if fire {
			for _, s := range a.slices {
				all = append(all, s)
			}
		}
		a.mu.Unlock()
		for _, s := range all {
			s.cancel()
		}
		wait(ctx, 5*time.Millisecond)
	}
}

// setCut cuts the node off from the control plane, or connects it again.
func (a *simAgent) setCut(cut bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cut = cut
}

// reboot loses everything that ran, and comes back with another boot id.
func (a *simAgent) reboot(boot string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.slices {
		s.cancel()
	}
	a.slices = map[string]*simSlice{}
	a.boot, a.deadline = boot, time.Time{}
	if a.stream != nil {
		a.stream.CloseSend()
	}
}

func (a *simAgent) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := v1.NewAgentServiceClient(a.api).Session(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	hello := &v1.Hello{Node: a.name, BootId: a.boot, Version: "sim", Capacity: a.cap}
	for _, sl := range a.slices {
		hello.Slices = append(hello.Slices, sl.status)
	}
	a.stream = s
	boot := a.boot
	a.mu.Unlock()
	if err := a.send(s, &v1.AgentMessage{Message: &v1.AgentMessage_Hello{Hello: hello}}); err != nil {
		return err
	}
	sent := map[uint64]time.Time{}
	var beats sync.Mutex
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		switch {
		case m.GetWelcome() != nil:
			w := m.GetWelcome()
			a.mu.Lock()
			a.lease = time.Duration(w.LeaseMs) * time.Millisecond
			a.mu.Unlock()
			go func() {
				for n := uint64(1); ctx.Err() == nil; n++ {
					a.mu.Lock()
					over := a.cut || a.boot != boot
					a.mu.Unlock()
					if over {
						cancel()
						return
					}
					now := time.Now()
					beats.Lock()
					sent[n] = now
					beats.Unlock()
					if a.send(s, &v1.AgentMessage{Message: &v1.AgentMessage_Heartbeat{Heartbeat: &v1.Heartbeat{Seq: n, SentBoottime: now.UnixNano(), Healthy: true}}}) != nil {
						return
					}
					wait(ctx, time.Duration(w.HeartbeatMs)*time.Millisecond)
				}
			}()
		case m.GetHeartbeatAck() != nil:
			beats.Lock()
			at := sent[m.GetHeartbeatAck().Seq]
			beats.Unlock()
			a.mu.Lock()
			if d := at.Add(a.lease); a.boot == boot && d.After(a.deadline) {
				a.deadline = d
			}
			a.mu.Unlock()
		case m.GetLogRequest() != nil && !m.GetLogRequest().Cancel:
			go a.pushLog(ctx, m.GetLogRequest())
		case m.GetDesired() != nil:
			a.apply(m.GetDesired())
		}
	}
}

// pushLog serves what log says of a stream, in chunks of three bytes.
func (a *simAgent) pushLog(ctx context.Context, req *v1.LogRequest) {
	up, err := v1.NewAgentServiceClient(a.api).PushLog(ctx)
	if err != nil {
		return
	}
	at := req.Offset
	err = up.Send(&v1.LogChunk{Id: req.Id})
	data := ""
	if a.log != nil {
		data = a.log(req)
	}
	for err == nil && at < int64(len(data)) {
		n := min(3, int64(len(data))-at)
		err = up.Send(&v1.LogChunk{Id: req.Id, Stream: req.Stream, Offset: at, Data: []byte(data[at : at+n])})
		at += n
	}
	_, _ = up.CloseAndRecv() // a reader that left is no failure
}

func (a *simAgent) send(s v1.AgentService_SessionClient, m *v1.AgentMessage) error {
	a.sendMu.Lock()
	defer a.sendMu.Unlock()
	return s.Send(m)
}

// apply makes what runs equal to what is desired.
func (a *simAgent) apply(d *v1.DesiredState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.desired = d
	for _, k := range d.Acknowledged {
		if s := a.slices[simKey(k)]; s != nil && s.status.Phase == "exited" {
			delete(a.slices, simKey(k))
		}
	}
	want := map[string]bool{}
	for _, as := range d.Slices {
		k := simKey(as.Key)
		want[k] = true
		if a.slices[k] == nil {
			a.launch(as)
		}
	}
	for k, s := range a.slices {
		if !want[k] {
			s.cancel()
		}
	}
}

// launch runs with a.mu held.
func (a *simAgent) launch(as *v1.SliceAssignment) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &simSlice{cancel: cancel, status: &v1.SliceStatus{
		Run: as.Key.Run, Slice: as.Key.Slice, Epoch: as.Key.Epoch, Phase: "running", Started: timestamppb.Now(),
	}}
	a.slices[simKey(as.Key)] = s
	a.live.begin(a.name, as)
	go a.report(s.status)
	go func() {
		e := a.work(ctx, as)
		if ctx.Err() != nil {
			e = simExit{exit: &v1.SliceExit{Reason: "killed"}}
		}
		a.live.end(a.name, as)
		st := &v1.SliceStatus{
			Run: as.Key.Run, Slice: as.Key.Slice, Epoch: as.Key.Epoch, Phase: "exited",
			Started: s.status.Started, Ended: timestamppb.Now(), Exit: e.exit, Counts: e.counts,
		}
		for block, data := range e.parts {
			digest, err := upload(a.c.ctx(), a.api, as.Herd, []byte(data))
			if err != nil {
				st.Exit = &v1.SliceExit{Reason: "launch_failed", Message: err.Error(), Kind: "unavailable"}
				break
			}
			st.Parts = append(st.Parts, &v1.OutputPart{Block: block, Rows: 1, Bytes: int64(len(data)), Digest: digest})
		}
		a.mu.Lock()
		if a.slices[simKey(as.Key)] == s { // not rebooted meanwhile
			s.status = st
		}
		a.mu.Unlock()
		a.report(st)
	}()
}

func (a *simAgent) report(st *v1.SliceStatus) {
	a.mu.Lock()
	a.seq++
	s, seq, cut := a.stream, a.seq, a.cut
	a.mu.Unlock()
	if s != nil && !cut {
		_ = a.send(s, &v1.AgentMessage{Message: &v1.AgentMessage_Status{Status: &v1.StatusReport{Seq: seq, Slices: []*v1.SliceStatus{st}}}})
	}
}

// upload stores a blob for a herd.
func upload(ctx context.Context, api *apiclient.Client, herd string, data []byte) (string, error) {
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	up, err := v1.NewArtifactServiceClient(api).Upload(ctx)
	if err != nil {
		return "", err
	}
	head := &v1.UploadBlobRequest{Digest: digest, Size: int64(len(data)), Herd: herd}
	if err := artifacts.Send(&sliceReader{data}, head, up.Send); err != nil && err != io.EOF {
		return "", err
	}
	_, err = up.CloseAndRecv()
	return digest, err
}

type sliceReader struct{ left []byte }

func (r *sliceReader) Read(p []byte) (int, error) {
	if len(r.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}
