//go:build cluster

package netboot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/runink/runink/qemu"
)

// hostCommand makes the test's program the first process of a host of its own.
const hostCommand = "host-on-the-switch"

// hostAddress is the host's on the switch; machines have those from .11 on.
const hostAddress = "10.77.0.5"

// cableFD is the host's end of its cable to the switch.
const cableFD = 3

// host is a Linux host with one network card, on which one program runs.
type host struct {
	cmd   *exec.Cmd
	out   lockedBuffer
	ended chan struct{}
	err   error
}

// startHost plugs a host into the switch and runs a program on it. It ends with the test.
func startHost(t *testing.T, c *qemu.Cluster, env []string, argv ...string) *host {
	t.Helper()
	port, err := c.Switch.AddPort("host")
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "switch"), os.NewFile(uintptr(fds[1]), "host")
	defer theirs.Close()
	cable, err := net.FileConn(ours)
	if err = errors.Join(err, ours.Close()); err != nil {
		t.Fatal(err)
	}
	h := &host{ended: make(chan struct{})}
	h.cmd = exec.Command("/proc/self/exe", append([]string{hostCommand}, argv...)...)
	h.cmd.Env = append(os.Environ(), env...)
	h.cmd.Stdout, h.cmd.Stderr = &h.out, &h.out
	h.cmd.ExtraFiles = []*os.File{theirs}
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if uid := os.Geteuid(); uid != 0 {
		h.cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		h.cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		h.cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatalf("start a host in a network namespace: %v", errors.Join(err, cable.Close()))
	}
	ctx, cancel := context.WithCancel(context.Background())
	plugged := make(chan error, 1)
	go func() { plugged <- port.Serve(ctx, cable) }()
	go func() {
		h.err = h.cmd.Wait()
		close(h.ended)
	}()
	t.Cleanup(func() {
		cancel() // which closes the cable, and so ends the host
		if err := <-plugged; err != nil && !errors.Is(err, io.EOF) {
			t.Logf("the host's cable: %v", err)
		}
		<-h.ended
		if t.Failed() {
			t.Logf("the host ended (%v) and said:\n%s", h.err, h.out.String())
		}
	})
	return h
}

// hostMain runs as the first process in the host's network namespace: it makes the card, and
// ends the program when the cable is pulled.
func hostMain(argv []string) int {
	if err := runHost(argv); err != nil {
		fmt.Fprintln(os.Stderr, "host:", err)
		return 1
	}
	return 0
}

func runHost(argv []string) error {
	card, err := makeCard()
	if err != nil {
		return err
	}
	cable := os.NewFile(cableFD, "cable")
	// The thread that starts the program stays: Pdeathsig is its thread's.
	runtime.LockOSThread()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	rom := plainROM{}
	var mu sync.Mutex // one frame after the other
	send := func(frame []byte) error {
		mu.Lock()
		defer mu.Unlock()
		_, err := cable.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...))
		return err
	}
	var g errgroup.Group
	var pulled atomic.Bool
	g.Go(func() error { // from the switch
		for {
			frame, err := readFrame(cable)
			if err != nil {
				pulled.Store(true)
				return errors.Join(cmd.Process.Signal(unix.SIGTERM), card.Close())
			}
			if len(frame) >= 14 {
				rom.pass(frame)
			}
			if answer := advertisement(frame); answer != nil {
				if err := send(answer); err != nil {
					return err
				}
			}
			if _, err := card.Write(frame); err != nil && !errors.Is(err, os.ErrClosed) {
				return fmt.Errorf("write to the card: %w", err)
			}
		}
	})
	g.Go(func() error { // to the switch
		buf := make([]byte, 64<<10)
		for {
			n, err := card.Read(buf)
			if err != nil {
				return nil // closed
			}
			if send(buf[:n]) != nil {
				return nil // pulled
			}
		}
	})
	err = cmd.Wait()
	if pulled.Load() {
		return errors.Join(err, g.Wait())
	}
	return fmt.Errorf("%s ended by itself: %w", argv[0], err) // and with this process the rest
}

func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(r, frame)
	return frame, err
}

// makeCard makes the host's network card, whose other side is the file.
func makeCard() (*os.File, error) {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return nil, fmt.Errorf("loopback: %w", err)
	}
	tap := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI, NonPersist: true, Queues: 1,
	}
	if err := netlink.LinkAdd(tap); err != nil {
		return nil, fmt.Errorf("make a network card (it needs /dev/net/tun): %w", err)
	}
	addr, err := netlink.ParseAddr(hostAddress + "/24")
	if err == nil {
		err = netlink.AddrAdd(tap, addr)
	}
	if err == nil {
		err = netlink.LinkSetUp(tap)
	}
	if err != nil {
		return nil, fmt.Errorf("set up a network card: %w", err)
	}
	// A second descriptor, that does not block, so that Close ends a read.
	fd, err := unix.Dup(int(tap.Fds[0].Fd()))
	if err == nil {
		unix.CloseOnExec(fd)
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "card"), tap.Fds[0].Close()
}

// plainROM makes of QEMU's boot ROMs, which are iPXE and say so, ones as other cards have them:
// until a machine has fetched its first file by TFTP nobody hears what it is. Those that have
// are kept by their MAC address.
type plainROM map[[6]byte]bool

func (p plainROM) pass(frame []byte) {
	if p[[6]byte(frame[6:12])] {
		return
	}
	port, datagram := udpTo(frame)
	switch port {
	case 69:
		p[[6]byte(frame[6:12])] = true
	case 67, 4011:
		if class := bytes.Index(datagram, []byte("\x4d\x04iPXE")); class > 0 {
			clear(datagram[class : class+6]) // padding, as DHCP has it
			clear(datagram[6:8])             // no checksum, as UDP has it
		}
	}
}

// udpTo is the UDP datagram over IPv4 in a frame, with its header, and the port that it is for;
// zero for any other frame.
func udpTo(frame []byte) (port uint16, datagram []byte) {
	const ethernet, udp = 14, 17
	if len(frame) < ethernet+28 || frame[12] != 8 || frame[13] != 0 || frame[ethernet+9] != udp {
		return 0, nil
	}
	datagram = frame[min(ethernet+int(frame[ethernet]&15)*4, len(frame)):]
	if len(datagram) < 8 {
		return 0, nil
	}
	return binary.BigEndian.Uint16(datagram[2:]), datagram
}

// advertisement answers a router solicitation (RFC 4861): there is a router, and it has nothing
// to give. Without one iPXE looks for it for half a minute, once in each of its lives; nil for
// any other frame.
func advertisement(frame []byte) []byte {
	const ethernet, ipv6, icmpv6, solicitation = 14, 40, 58, 133
	if len(frame) < ethernet+ipv6+8 || frame[12] != 0x86 || frame[13] != 0xdd || frame[ethernet+6] != icmpv6 || frame[ethernet+ipv6] != solicitation {
		return nil
	}
	mac := []byte{0x52, 0x54, 0x00, 0x4d, 0x00, 0x05}
	self := netip.MustParseAddr("fe80::5054:ff:fe4d:5").As16()
	all := netip.MustParseAddr("ff02::1").As16()
	message := []byte{134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // lifetime 0: no default router
	// The checksum is over the addresses, the length, the protocol and the message.
	binary.BigEndian.PutUint16(message[2:], checksum(uint32(len(message))+icmpv6, self[:], all[:], message))
	out := append([]byte{0x33, 0x33, 0, 0, 0, 1}, mac...)
	out = append(out, 0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(len(message)), icmpv6, 255)
	return slices.Concat(out, self[:], all[:], message)
}

// checksum is the Internet's (RFC 1071), of parts of even lengths.
func checksum(sum uint32, parts ...[]byte) uint16 {
	for _, part := range parts {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
