package main

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
)

// forward accepts connections on an inherited listener and joins each to a connection of its
// own to an address of the tree. The listener belongs to the host's network, for a socket
// stays in the namespace it was made in; what is dialed is in the tree's. stop ends it; wg
// then falls to where it was.
func forward(wg *sync.WaitGroup, fd uintptr, to string) (stop func(), err error) {
	f := os.NewFile(fd, "listener")
	ln, err := net.FileListener(f)
	err = errors.Join(err, f.Close())
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	open := map[net.Conn]struct{}{} // nil: stopped
	hold := func(c net.Conn) bool {
		mu.Lock()
		defer mu.Unlock()
		if open == nil {
			c.Close()
			return false
		}
		open[c] = struct{}{}
		return true
	}
	drop := func(c net.Conn) {
		c.Close()
		mu.Lock()
		defer mu.Unlock()
		delete(open, c)
	}
	wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return // closed
			}
			if !hold(in) {
				return
			}
			wg.Go(func() {
				defer drop(in)
				out, err := net.Dial("tcp", to)
				if err != nil || !hold(out) {
					return // the server does not listen: as if this port did not
				}
				defer drop(out)
				join(in.(*net.TCPConn), out.(*net.TCPConn))
			})
		}
	})
	return func() {
		ln.Close()
		mu.Lock()
		defer mu.Unlock()
		for c := range open {
			c.Close()
		}
		open = nil
	}, nil
}

// join copies both ways until both have ended.
func join(a, b *net.TCPConn) {
	var wg sync.WaitGroup
	for _, d := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		wg.Go(func() {
			_, err := io.Copy(d[0], d[1])
			if err != nil {
				d[1].Close()
			}
			if d[0].CloseWrite() != nil {
				d[0].Close()
			}
		})
	}
	wg.Wait()
}
