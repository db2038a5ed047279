package fault

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// sigevent is the kernel's struct sigevent (sigevent(7), 64 bytes on 64-bit machines).
type sigevent struct {
	value  uint64
	signo  int32
	notify int32
	_      [48]byte
}

// itimerspec is struct itimerspec (timer_settime(2)).
type itimerspec struct{ interval, value syscall.Timespec }

const clockMonotonic = 1 // CLOCK_MONOTONIC, clock_gettime(2)

// stopFor stops this process as SIGSTOP does, every thread of it, and has the kernel send
// it SIGCONT after d: on a machine without a shell nobody else could. A timer's signal
// continues a stopped process as any other SIGCONT does.
func stopFor(d time.Duration) error {
	ev := sigevent{signo: int32(syscall.SIGCONT)} // notify 0 is SIGEV_SIGNAL
	var id int32
	if _, _, no := syscall.Syscall(syscall.SYS_TIMER_CREATE, clockMonotonic, uintptr(unsafe.Pointer(&ev)), uintptr(unsafe.Pointer(&id))); no != 0 {
		return fmt.Errorf("stop for %s: %w", d, os.NewSyscallError("timer_create", no))
	}
	when := itimerspec{value: syscall.NsecToTimespec(int64(d))}
	if _, _, no := syscall.Syscall6(syscall.SYS_TIMER_SETTIME, uintptr(id), 0, uintptr(unsafe.Pointer(&when)), 0, 0, 0); no != 0 {
		return fmt.Errorf("stop for %s: %w", d, os.NewSyscallError("timer_settime", no))
	}
	return stop()
}

// stop stops this process as SIGSTOP does, and returns when it has been continued. The
// signal is for the calling thread, which takes it before it leaves the call; one for the
// process (kill) may go to another thread, and until that runs, the caller goes on past the
// point at which it was to stop.
func stop() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return os.NewSyscallError("tgkill", syscall.Tgkill(os.Getpid(), syscall.Gettid(), syscall.SIGSTOP))
}
