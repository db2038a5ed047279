package fault

import (
	"fmt"
	"os"
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
	return syscall.Kill(os.Getpid(), syscall.SIGSTOP)
}
