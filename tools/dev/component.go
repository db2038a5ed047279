package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/slice/cgroup"
)

// component is one of the node's processes.
type component struct {
	name string
	argv []string

	log  string // its standard error
	cmd  *exec.Cmd
	done chan struct{} // closed after it was waited for
	err  error         // how it ended, once done is closed
}

// patience is from SIGTERM to SIGKILL.
const patience = 10 * time.Second

func (c *component) start(logs string) error {
	c.log = filepath.Join(logs, c.name+".log")
	f, err := os.Create(c.log)
	if err != nil {
		return err
	}
	defer f.Close()
	c.cmd = exec.Command(c.argv[0], c.argv[1:]...)
	c.cmd.Stdout, c.cmd.Stderr = f, f
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start the %s: %w", c.name, err)
	}
	c.done = make(chan struct{})
	go func() {
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	return nil
}

// stop ends the process and waits for it.
func (c *component) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-c.done:
	case <-t.C:
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// failure says that the process ended, with the last it wrote.
func (c *component) failure() error {
	how := "exit status 0"
	if c.err != nil {
		how = c.err.Error()
	}
	return fmt.Errorf("the %s ended (%s); its last lines, of %s:\n%s", c.name, how, c.log, tail(c.log, 8))
}

// tail returns the last n lines of a file.
func tail(file string, n int) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	var last []string
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if last = append(last, "  "+sc.Text()); len(last) > n {
			last = last[1:]
		}
	}
	return strings.Join(last, "\n")
}

// cleanTimeout bounds the removal of the tree's cgroup.
const cleanTimeout = 10 * time.Second

// removeCgroup removes the one thing of the tree that does not end with its processes, and
// kills what may still be in it. It is no error when there is none.
func removeCgroup(dir string) error {
	herds := filepath.Join(dir, herdsName)
	if _, err := os.Stat(herds); errors.Is(err, fs.ErrNotExist) {
		return rmdir(dir)
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	c, err := cgroup.Open(herds)
	if err == nil {
		err = c.Sweep(ctx)
	}
	return errors.Join(err, rmdir(herds), rmdir(dir))
}

func rmdir(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "rmdir", Path: dir, Err: err}
}
