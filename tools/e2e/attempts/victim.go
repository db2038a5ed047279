package attempts

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// VictimPort is where Serve listens, beside what the engine does.
const VictimPort = 9999

// AbstractName is the abstract socket of a victim.
const AbstractName = "runink-victim"

// SecretFile holds the victim's word.
const SecretFile = "/tmp/victim"

// Serve is what others want of a victim: a port, an abstract socket, and a file with a
// word. All last as long as the process.
func Serve(word string) error {
	tcp, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", VictimPort))
	if err != nil {
		return err
	}
	abstract, err := net.Listen("unix", "@"+AbstractName)
	if err != nil {
		return err
	}
	for _, l := range []net.Listener{tcp, abstract} {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, "victim\n")
				_ = c.Close()
			}
		}()
	}
	return os.WriteFile(SecretFile, []byte(word), 0o600)
}

// Tick does a little of everything a healthy slice does: it computes, allocates, writes a
// file and starts a process.
func Tick() error {
	b := make([]byte, 1<<20)
	for i := range b {
		b[i] = byte(i)
	}
	if err := os.WriteFile("/tmp/tick", b[:4096], 0o600); err != nil {
		return err
	}
	p, err := os.StartProcess("/proc/self/exe", []string{"child"}, &os.ProcAttr{Env: []string{ChildEnv + "=exit"}})
	if err != nil {
		return err
	}
	_, err = p.Wait()
	return err
}

// Peer finds the consumer of this slice's edge: an open connection to the edges' port.
func Peer(edgePort int) (string, error) {
	b, err := os.ReadFile("/proc/self/net/tcp6")
	if err != nil {
		return "", err
	}
	const established = "01"
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line) // sl, local, remote, state: proc(5)
		if len(f) < 4 || f[3] != established {
			continue
		}
		host, port, _ := strings.Cut(f[2], ":")
		n, err := strconv.ParseUint(port, 16, 16)
		if err != nil || int(n) != edgePort {
			continue
		}
		raw, err := hex.DecodeString(host)
		if err != nil || len(raw) != net.IPv6len {
			return "", fmt.Errorf("address %q", host)
		}
		for i := 0; i < len(raw); i += 4 { // words in the machine's order
			raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
		}
		return net.JoinHostPort(net.IP(raw).String(), strconv.Itoa(edgePort)), nil
	}
	return "", errors.New("no edge is connected")
}

// Address is this slice's own.
func Address() (string, error) {
	f, err := os.Open("/proc/self/net/if_inet6")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		w := strings.Fields(s.Text()) // address, index, length, scope, flags, name
		if len(w) != 6 || w[5] == "lo" {
			continue
		}
		raw, err := hex.DecodeString(w[0])
		if err != nil {
			return "", err
		}
		return net.IP(raw).String(), nil
	}
	return "", errors.New("no address but loopback's")
}

// ForkBomb makes processes that make processes, until that is refused. It returns how this
// process was refused; the others go on.
//
// They are made by fork(2) without exec, so that each costs next to nothing and it is
// their number that meets a limit. A child makes system calls and nothing else: of the
// runtime only this thread has come along.
func ForkBomb() error {
	for n := 0; n < 1<<20; n++ {
		pid, _, e := syscall.RawSyscall(syscall.SYS_FORK, 0, 0, 0)
		if e != 0 {
			return fmt.Errorf("fork refused after %d: %w", n, e)
		}
		for pid == 0 {
			if _, _, e := syscall.RawSyscall(syscall.SYS_FORK, 0, 0, 0); e != 0 {
				syscall.RawSyscall(syscall.SYS_PAUSE, 0, 0, 0)
			}
		}
	}
	return errors.New("nothing refused a million processes")
}

// MemoryHog takes memory until it is killed.
func MemoryHog() error {
	var all [][]byte
	for range 1 << 14 {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = byte(i)
		}
		all = append(all, b)
	}
	return fmt.Errorf("%d MiB were to be had", len(all))
}

// FillTmp writes to /tmp until that is refused.
func FillTmp() error {
	f, err := os.Create("/tmp/fill")
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 64<<10)
	for n := 0; n < 1<<30; {
		m, err := f.Write(b)
		n += m
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", n, err)
		}
	}
	return errors.New("/tmp took a GiB")
}

// Hold lasts for good; it works at each beat, and tells heard how that went.
func Hold(beat time.Duration, heard func(n int, err error)) {
	t := time.NewTicker(beat)
	for n := 0; ; n++ {
		heard(n, Tick())
		<-t.C
	}
}
