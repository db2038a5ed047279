// Package exits has one step that ends its slice in the way a parameter says.
package exits

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/runink/runink/sdk"

	"example.com/exits/contracts"
)

// Act prints "HOW line N" for N from 1 to the parameter "lines", then does what the
// parameter "how" says:
//
//	ok                  goes on
//	fail:TEXT           rejects the row, which fails the run
//	exit:CODE           leaves
//	signal:NUMBER       dies of a signal that the kernel raises
//	oom                 takes more memory than it may
//	threads             starts more threads than it may
//	forever             runs until its time limit
//	until:MILLISECONDS  goes on at that Unix time, printing a line now and then
//
// The first row does it, the others go on: all of a slice's rows may be one batch.
func Act(ctx *sdk.Context, o contracts.Order) (contracts.Order, error) {
	if o.N != 1 {
		return o, nil
	}
	how, _ := ctx.Param("how")
	text, _ := ctx.Param("lines")
	lines, err := strconv.Atoi(text)
	if err != nil {
		return o, err
	}
	for n := range lines {
		fmt.Printf("%s line %d\n", how, n+1)
		time.Sleep(10 * time.Millisecond) // so that whoever collects lines is met in between
	}
	verb, arg, _ := strings.Cut(how, ":")
	switch verb {
	case "ok":
	case "fail":
		return o, fmt.Errorf("%s", arg)
	case "exit":
		os.Exit(number(arg))
	case "signal":
		die(syscall.Signal(number(arg)))
	case "oom":
		hog()
	case "threads":
		threads()
	case "forever":
		select {}
	case "until":
		for end := time.UnixMilli(int64(number(arg))); time.Now().Before(end); {
			fmt.Println("waiting")
			time.Sleep(min(time.Until(end)+time.Millisecond, 500*time.Millisecond))
		}
	default:
		return o, fmt.Errorf("how=%q", how)
	}
	return o, nil
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// die ends the process by a signal. A slice is PID 1 of its namespace: what processes send
// it without its wish is ignored, and only what the kernel raises for a fault kills.
func die(s syscall.Signal) {
	signal.Reset(s)
	defaultAction(s)
	runtime.LockOSThread()
	switch s {
	case syscall.SIGSEGV: // read from where nothing is
		fault(1)
	case syscall.SIGBUS: // read behind the end of a mapped file
		f, err := os.CreateTemp("", "")
		check(err)
		b, err := syscall.Mmap(int(f.Fd()), 0, 4096, syscall.PROT_READ, syscall.MAP_SHARED)
		check(err)
		fault(uintptr(unsafe.Pointer(&b[0])))
	case syscall.SIGTRAP:
		runtime.Breakpoint()
	case syscall.SIGILL:
		execute(0x0f, 0x0b) // ud2
	case syscall.SIGFPE:
		execute(0x31, 0xc9, 0xf7, 0xf1) // xor ecx, ecx; div ecx
	case syscall.SIGKILL: // the hard limit of processor time
		l := syscall.Rlimit{Cur: 1, Max: 1}
		_, _, no := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, 0, 0 /* RLIMIT_CPU */, uintptr(unsafe.Pointer(&l)), 0, 0, 0)
		if no != 0 {
			panic(no)
		}
		for {
		}
	case syscall.SIGSYS: // a system call that a filter of its own forbids
		type filter struct {
			code   uint16
			jt, jf uint8
			k      uint32
		}
		prog := []filter{
			{0x20, 0, 0, 0},                       // load the call's number
			{0x15, 0, 1, syscall.SYS_GETPRIORITY}, // if it is this one
			{0x06, 0, 0, 0x80000000},              // SECCOMP_RET_KILL_PROCESS
			{0x06, 0, 0, 0x7fff0000},              // else SECCOMP_RET_ALLOW
		}
		p := struct {
			len    uint16
			filter *filter
		}{uint16(len(prog)), &prog[0]}
		const setSeccomp, modeFilter = 22, 2 // prctl(2)
		if _, _, no := syscall.RawSyscall(syscall.SYS_PRCTL, setSeccomp, modeFilter, uintptr(unsafe.Pointer(&p))); no != 0 {
			panic(no)
		}
		_, _, _ = syscall.RawSyscall(syscall.SYS_GETPRIORITY, 0, 0, 0)
	}
	panic(fmt.Sprintf("still alive after signal %d", s))
}

// defaultAction takes the Go runtime's handler of a signal away, which would turn it into
// a panic.
func defaultAction(s syscall.Signal) {
	var sa [4]uintptr // struct sigaction of the kernel: handler, flags, restorer, mask
	// It fails for SIGKILL, which has no handler.
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&sa)), 0, 8, 0, 0)
}

// execute jumps to machine code.
func execute(code ...byte) {
	page, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE|syscall.PROT_EXEC, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	check(err)
	copy(page, code)
	entry := uintptr(unsafe.Pointer(&page[0]))
	closure := &entry // a func value is the address of a word that holds the code's
	(*(*func())(unsafe.Pointer(&closure)))()
}

//go:noinline
func fault(at uintptr) {
	p := *(**byte)(unsafe.Pointer(&at))
	fmt.Println(*p)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// hog writes to memory until there is none.
func hog() {
	var all [][]byte
	for {
		b := make([]byte, 8<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
		runtime.KeepAlive(all)
	}
}

// threads keeps every goroutine on a thread of its own until the kernel gives no more, which
// ends a Go program.
func threads() {
	var ready sync.WaitGroup
	for {
		ready.Add(1)
		go func() {
			runtime.LockOSThread()
			ready.Done()
			select {}
		}()
		ready.Wait()
	}
}
