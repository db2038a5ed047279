package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listener is a TCP port of the host's loopback, to be inherited by the tree.
type listener struct {
	file    *os.File
	address string
}

func listen() (*listener, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	return &listener{file: f, address: l.Addr().String()}, nil
}

func (l *listener) Close() { l.file.Close() }

// process is the tree as the foreground process sees it.
type process struct {
	cmd      *exec.Cmd
	lifeline *os.File
	cgroup   string

	fingerprint chan string
	ready       chan string
	ended       chan struct{}   // closed once the tree's first process was waited for
	over        context.Context // ends with it

	// Once ended is closed:
	failed, left string
	exit         error
}

// cgroupName names the tree's cgroup after its folder: one that a killed tree left is then
// found, emptied and removed by the next.
func cgroupName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "runink-dev-" + hex.EncodeToString(sum[:6])
}

// startTree starts the tree's first process in namespaces of its own.
func startTree(cfg treeConfig, listener *os.File) (*process, error) {
	arg, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	logf, err := os.Create(filepath.Join(cfg.Dir, "log", "tree.log"))
	if err != nil {
		w.Close()
		return nil, err
	}
	defer logf.Close()
	cmd := exec.Command("/proc/self/exe", treeCommand, string(arg))
	cmd.Stderr = logf
	cmd.ExtraFiles = []*os.File{lifelineFD - 3: r, listenerFD - 3: listener}
	cmd.SysProcAttr = namespaces(os.Geteuid(), os.Getegid())
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		w.Close()
		return nil, explain(err)
	}
	p := &process{
		cmd: cmd, lifeline: w, cgroup: cfg.Cgroup,
		fingerprint: make(chan string, 1), ready: make(chan string, 1), ended: make(chan struct{}),
	}
	over, end := context.WithCancel(context.Background())
	p.over = over
	go func() {
		defer end()
		dec := json.NewDecoder(out)
		for {
			var e event
			if dec.Decode(&e) != nil {
				break // its end, which Wait explains
			}
			switch {
			case e.Fingerprint != "":
				p.fingerprint <- e.Fingerprint
			case e.Ready:
				p.ready <- "ready"
			case e.Failed != "":
				p.failed = e.Failed
			case e.Left != "":
				p.left = e.Left
			}
		}
		p.exit = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// namespaces are the tree's own. A session of its own keeps the terminal's Ctrl-C from it:
// it is told when the foreground process has done with it.
func namespaces(uid, gid int) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if uid != 0 {
		// Root of a user namespace that holds nobody else: enough for all but users of the
		// slices' own, and cgroups.
		a.Cloneflags |= unix.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: gid, Size: 1}}
	}
	return a
}

// explain adds what to do to an error of making namespaces.
func explain(err error) error {
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("start the process tree: %w", err)
	}
	what := "it needs root"
	if os.Geteuid() != 0 {
		what = "it needs root, or a kernel that lets plain users make user namespaces (sysctl user.max_user_namespaces > 0, " +
			"kernel.unprivileged_userns_clone=1 on Debian, kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu)"
	}
	return fmt.Errorf("start the process tree in namespaces of its own: %w: %s", err, what)
}

// with derives a context that ends with the tree.
func (p *process) with(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(p.over, cancel)
	return ctx, func() { stop(); cancel() }
}

// await returns what the tree tells.
func await(ctx context.Context, c <-chan string) (string, error) {
	select {
	case s := <-c:
		return s, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// why says, once the tree has ended without being told to, for what reason.
func (p *process) why() error {
	switch {
	case p.failed != "":
		return errors.New(p.failed)
	case p.exit != nil:
		return fmt.Errorf("the process tree ended: %w", p.exit)
	}
	return errors.New("the process tree ended")
}

// endTimeout bounds an ordered end; killing the tree's first process then ends the rest.
const endTimeout = 45 * time.Second

// stop ends the tree and lists what is left of it.
func (p *process) stop() (left []string) {
	_ = p.lifeline.Close() // nothing was written: nothing can be lost
	t := time.NewTimer(endTimeout)
	defer t.Stop()
	select {
	case <-p.ended:
	case <-t.C:
		left = append(left, "it did not end by itself and was killed")
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	if p.left != "" {
		left = append(left, p.left)
	}
	// The kernel ends a pid namespace with its first process, and what lived in the other
	// namespaces with the last that was in them. A cgroup stays until it is removed, which a
	// first process that was killed has not done.
	mount, err := cgroupMount()
	if err == nil && mount != "" {
		err = removeCgroup(filepath.Join(mount, p.cgroup))
	}
	if err != nil {
		left = append(left, err.Error())
	}
	return left
}
