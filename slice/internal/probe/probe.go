// Package probe is the bundle of the tests of slice and netpol: a program that tries, from
// inside a sandbox, what a slice must not be able to do, and says how far it got. The same
// program outside of a sandbox, or in one with a guard taken away, is the positive control.
//
// Nothing but tests may run it.
package probe

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Main executes one command and returns its exit status.
func Main(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "probe: no command")
		return 2
	}
	do, ok := commands[args[0]]
	if !ok {
		fmt.Fprintln(os.Stderr, "probe: unknown command", args[0])
		return 2
	}
	return do(args[1:])
}

// Result is what came of one attempt.
type Result struct {
	OK   bool   `json:"ok"`             // it succeeded
	Text string `json:"text,omitempty"` // what was read, or the error
}

var commands = map[string]func([]string) int{
	"exit":     func(a []string) int { return number(a[0]) },
	"sleep":    sleep,
	"spin":     spin,
	"crash":    crash,
	"lines":    lines,
	"forkbomb": forkBomb,
	"memhog":   memHog,
	"filltmp":  fillTmp,
	"bigfile":  bigFile,
	"channel":  channel,
	"edge":     edge,
	"try":      try,
	"listen":   listen,
	"ticks":    ticks,
	"child":    child,
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// sleep prints "ready" and waits for SIGTERM, which it answers with the given status.
func sleep(a []string) int {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	fmt.Println("ready")
	<-c
	if len(a) > 0 {
		return number(a[0])
	}
	return 0
}

// spin uses its CPU until it is killed.
func spin([]string) int {
	fmt.Println("ready")
	sum := sha256.Sum256(nil)
	for sum != [sha256.Size]byte{} {
		sum = sha256.Sum256(sum[:])
	}
	return 0
}

// crash dies by a signal of the kernel's, not by Go's panic: PID 1 of a namespace survives
// all others.
func crash([]string) int {
	type sigaction struct {
		handler  uintptr
		flags    uint64
		restorer uintptr
		mask     uint64
	}
	var dfl sigaction
	if _, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGSEGV), uintptr(unsafe.Pointer(&dfl)), 0, 8, 0, 0); e != 0 {
		fmt.Fprintln(os.Stderr, "rt_sigaction:", e)
		return 2
	}
	var nowhere *int
	return *nowhere
}

// ticks computes, allocates, forks and writes a file for each line it prints, for ever; the
// first that fails ends it.
func ticks([]string) int {
	for i := 0; ; i++ {
		b := make([]byte, 1<<20)
		for j := range b {
			b[j] = byte(j)
		}
		err := os.WriteFile("/tmp/tick", b[:4096], 0o600)
		if err == nil {
			c := exec.Command("/proc/self/exe", "exit", "0")
			c.Args[0] = os.Args[0]
			err = c.Run()
		}
		if err != nil {
			fmt.Println("tick failed:", err)
			return 1
		}
		fmt.Println("tick", i)
	}
}

// lines prints N lines "PREFIX i" and exits with STATUS.
func lines(a []string) int {
	n, prefix := number(a[0]), a[1]
	for i := range n {
		fmt.Println(prefix, i)
	}
	return number(a[2])
}

// child lives on. It sleeps, because without cgo a program that waits for nothing ends itself.
func child([]string) int {
	for {
		time.Sleep(time.Hour)
	}
}

// forkBomb starts children until that is refused, says how many there are and waits for
// SIGTERM. What the Go runtime needs threads for begins before: one that is refused ends it.
func forkBomb([]string) int {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	debug.SetGCPercent(-1)
	n := 0
	for ; n < 100_000; n++ {
		c := exec.Command("/proc/self/exe", "child")
		c.Args[0] = os.Args[0]
		if err := c.Start(); err != nil {
			fmt.Println("refused", n, err)
			fmt.Println("ready")
			<-end
			return 0
		}
	}
	fmt.Println("unlimited", n)
	return 1
}

func memHog([]string) int {
	var all [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = byte(i)
		}
		all = append(all, b)
		fmt.Println("have", len(all), "MiB")
	}
}

// fillTmp writes to /tmp until that fails, says why, and still works: status 28 is ENOSPC.
func fillTmp([]string) int {
	f, err := os.Create("/tmp/fill")
	if err != nil {
		fmt.Println("create:", err)
		return 1
	}
	b := make([]byte, 64<<10)
	var n int64
	for n < 1<<30 {
		m, err := f.Write(b)
		n += int64(m)
		if err != nil {
			fmt.Println("full", n, err)
			if errors.Is(err, unix.ENOSPC) {
				return int(unix.ENOSPC)
			}
			return 1
		}
	}
	fmt.Println("unlimited", n)
	return 1
}

// bigFile writes N bytes to descriptor 4.
func bigFile(a []string) int {
	f := os.NewFile(4, "output")
	signal.Ignore(syscall.SIGXFSZ)
	if _, err := f.Write(make([]byte, number(a[0]))); err != nil {
		fmt.Println("write:", err)
		return 1
	}
	return 0
}

// channel echoes N messages of the slice channel.
func channel(a []string) int {
	f := os.NewFile(3, "channel")
	b := make([]byte, 128<<10)
	for range number(a[0]) {
		n, err := f.Read(b)
		if err == nil {
			_, err = f.Write(b[:n])
		}
		if err != nil {
			fmt.Println("channel:", err)
			return 1
		}
	}
	return 0
}

// edge copies TEXT into, or all of the stream out of, descriptor FD: "edge FD send TEXT",
// "edge FD recv".
func edge(a []string) int {
	f := os.NewFile(uintptr(number(a[0])), "edge")
	var err error
	if a[1] == "send" {
		_, err = f.WriteString(a[2])
	} else {
		_, err = io.Copy(os.Stdout, f)
	}
	if err != nil {
		fmt.Println("edge:", err)
		return 1
	}
	return 0
}

// listen accepts connections on ADDR and answers each with TEXT until SIGTERM.
func listen(a []string) int {
	l, err := net.Listen("tcp", a[0])
	if err != nil {
		fmt.Println("listen:", err)
		return 1
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, a[1])
			_ = c.Close()
		}
	}()
	return sleep(nil)
}

// try makes each attempt "NAME[=ARGUMENT]" and prints a JSON object of their Results.
func try(a []string) int {
	out := map[string]Result{}
	for _, s := range a {
		name, arg, _ := strings.Cut(s, "=")
		f, ok := attempts[name]
		if !ok {
			fmt.Fprintln(os.Stderr, "probe: unknown attempt", name)
			return 2
		}
		text, err := f(arg)
		r := Result{OK: err == nil, Text: text}
		if err != nil {
			r.Text = err.Error()
		}
		out[s] = r
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return 1
	}
	return 0
}

var attempts = map[string]func(string) (string, error){
	"read": func(p string) (string, error) {
		b, err := os.ReadFile(p)
		return string(b[:min(len(b), 4096)]), err
	},
	"write": func(p string) (string, error) {
		return "", os.WriteFile(p, []byte("x"), 0o644)
	},
	"list": func(p string) (string, error) {
		es, err := os.ReadDir(p)
		var names []string
		for _, e := range es {
			names = append(names, e.Name())
		}
		sort.Strings(names)
		return strings.Join(names, " "), err
	},
	"processes": processes,
	"dial": func(addr string) (string, error) {
		c, err := net.DialTimeout("tcp", addr, 3*time.Second)
		if err != nil {
			return "", err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		b, err := io.ReadAll(c)
		return string(b), err
	},
	// loopback connects two sockets by each of the device's addresses.
	"loopback": func(string) (string, error) {
		for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				return "", err
			}
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				l.Close()
				return "", err
			}
			c.Close()
			l.Close()
		}
		return "", nil
	},
	"udp": func(addr string) (string, error) {
		c, err := net.Dial("udp", addr)
		if err != nil {
			return "", err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		if _, err := io.WriteString(c, "ping"); err != nil {
			return "", err
		}
		b := make([]byte, 64)
		n, err := c.Read(b)
		return string(b[:n]), err
	},
	"unix": func(p string) (string, error) {
		c, err := net.Dial("unixpacket", p)
		if err == nil {
			c.Close()
		}
		return "", err
	},
	"uid":    func(string) (string, error) { return strconv.Itoa(os.Getuid()), nil },
	"exec":   func(p string) (string, error) { return "", exec.Command(p, "exit", "0").Run() },
	"caps":   caps,
	"status": func(k string) (string, error) { return status(k) },
	"fds":    func(string) (string, error) { return fds() },

	"mount":   func(string) (string, error) { return "", unix.Mount("none", "/tmp", "tmpfs", 0, "") },
	"unshare": call(unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0),
	"newuser": func(string) (string, error) {
		c := exec.Command("/proc/self/exe", "exit", "0")
		c.Args[0] = os.Args[0]
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
		return "", c.Run()
	},
	"chroot":    func(string) (string, error) { return "", unix.Chroot("/tmp") },
	"hostname":  func(string) (string, error) { return "", unix.Sethostname([]byte("mine")) },
	"ptrace":    onThread(func() error { return unix.PtraceSeize(os.Getppid()) }),
	"keyctl":    call(unix.SYS_KEYCTL, 0 /* KEYCTL_GET_KEYRING_ID */, ^uintptr(2) /* session */, 0),
	"bpf":       call(unix.SYS_BPF, 0, 0, 0),
	"perf":      perf,
	"userfault": call(unix.SYS_USERFAULTFD, 1 /* user mode only */, 0, 0),
	"uring":     call(unix.SYS_IO_URING_SETUP, 0, 0, 0),
	"module":    call(unix.SYS_DELETE_MODULE, uintptr(unsafe.Pointer(&[]byte("runink_none\x00")[0])), 0, 0),
	"kexec":     call(unix.SYS_KEXEC_LOAD, 0, 0, 0),
	"reboot":    call(unix.SYS_REBOOT, 0, 0, 0),
	"dmesg":     call(unix.SYS_SYSLOG, 10 /* SIZE_BUFFER */, 0, 0),
	"clock": func(string) (string, error) {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME, &ts); err != nil {
			return "", err
		}
		return "", unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
	},
	"vsock":   socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
	"packet":  socket(unix.AF_PACKET, unix.SOCK_RAW, 0),
	"netlink": socket(unix.AF_NETLINK, unix.SOCK_RAW, 0),
	"raw":     socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6),
	"setuid":  func(id string) (string, error) { return "", unix.Setuid(number(id)) },
	"mknod": func(string) (string, error) {
		return "", unix.Mknod("/tmp/mem", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 1)))
	},
	"kill": func(pid string) (string, error) { return "", unix.Kill(number(pid), 0) },
}

func socket(family, kind, proto int) func(string) (string, error) {
	return func(string) (string, error) {
		fd, err := unix.Socket(family, kind, proto)
		if err == nil {
			unix.Close(fd)
		}
		return "", err
	}
}

// call succeeds when the kernel looks at the arguments, even if it does not like them: what
// is tested is whether the call can be made at all.
func call(nr, a, b, c uintptr) func(string) (string, error) {
	return func(string) (string, error) {
		_, _, e := unix.Syscall6(nr, a, b, c, 0, 0, 0)
		switch e {
		case 0, unix.EINVAL, unix.EFAULT, unix.ENOKEY, unix.ENOENT, unix.E2BIG:
			return e.Error(), nil
		}
		return "", e
	}
}

func perf(string) (string, error) {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK}
	attr.Size = uint32(unsafe.Sizeof(attr))
	attr.Bits = unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, 0)
	if err == nil {
		unix.Close(fd)
	}
	return "", err
}

// onThread runs f on a thread that is thrown away afterwards.
func onThread(f func() error) func(string) (string, error) {
	return func(string) (string, error) {
		c := make(chan error)
		go func() {
			lockThread()
			c <- f()
		}()
		return "", <-c
	}
}

// processes lists the command lines of all processes in sight.
func processes(string) (string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return "", err
	}
	var all []string
	for _, d := range dirs {
		b, err := os.ReadFile(d)
		if err == nil {
			all = append(all, string(bytes.ReplaceAll(bytes.TrimRight(b, "\x00"), []byte{0}, []byte{' '})))
		}
	}
	return strings.Join(all, "\n"), nil
}

func status(key string) (string, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(v), nil
		}
	}
	return "", fmt.Errorf("no %s in status", key)
}

// caps fails when the process has no capability, nor can get one.
func caps(string) (string, error) {
	all := ""
	for _, k := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		v, err := status(k)
		if err != nil {
			return "", err
		}
		all += v
	}
	if strings.Trim(all, "0") == "" {
		return "", errors.New("none")
	}
	return all, nil
}

// fds lists the open descriptors and what they are.
func fds() (string, error) {
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return "", err
	}
	var out []string
	for _, e := range es {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue // the folder's own, closed by now
		}
		kind, _, _ := strings.Cut(to, ":")
		out = append(out, e.Name()+"="+kind)
	}
	return strings.Join(out, " "), nil
}
