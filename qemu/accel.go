package qemu

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"time"
)

// Accel is how guests are run on this machine.
type Accel struct {
	KVM       bool
	TimeScale float64 // what every timeout of a guest is multiplied by
	Why       string  // for people: why not KVM
}

// emulatedTimeScale is what emulation costs: about ten times in speed, of which a third
// shows in timeouts, because machines wait for each other more than they compute.
const emulatedTimeScale = 3

var virtualization = regexp.MustCompile(`(?m)^flags\s*:.* (vmx|svm)( |$)`)

// ProbeAccel decides between KVM and emulation. That /dev/kvm opens proves nothing: on
// machines that are virtual themselves it may open and hang every guest. So KVM is used
// only if the processor has the feature and a probe guest writes to its console within a
// second.
func ProbeAccel(ctx context.Context) Accel {
	emulated := func(why string) Accel { return Accel{TimeScale: emulatedTimeScale, Why: why} }
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return emulated(err.Error())
	}
	if !virtualization.Match(info) {
		return emulated("the processor shows neither vmx nor svm")
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return emulated(err.Error())
	}
	f.Close()
	if err := probeGuest(ctx); err != nil {
		return emulated(fmt.Sprintf("a probe guest did not answer: %v", err))
	}
	return Accel{KVM: true, TimeScale: 1}
}

// probeSector is a boot sector that writes "K" to the first serial port and halts:
// mov dx,0x3f8; mov al,'K'; out dx,al; mov al,'\n'; out dx,al; cli; hlt.
var probeSector = []byte{0xba, 0xf8, 0x03, 0xb0, 'K', 0xee, 0xb0, '\n', 0xee, 0xfa, 0xf4}

func probeGuest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	f, err := os.CreateTemp("", "runink-probe-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	sector := make([]byte, 512)
	copy(sector, probeSector)
	sector[510], sector[511] = 0x55, 0xaa
	_, err = f.Write(sector)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	console := newConsole("probe", NewJournal(), nil)
	console.ended = false
	p, err := startProcess("qemu-system-x86_64", []string{
		"-nodefaults", "-display", "none", "-machine", "q35", "-accel", "kvm", "-m", "16M", "-serial", "stdio",
		"-drive", "if=none,id=d,format=raw,readonly=on,file=" + f.Name(), "-device", "ide-hd,drive=d",
	}, console.drain)
	if err != nil {
		return err
	}
	defer p.kill()
	_, _, err = console.Wait(ctx, 0, regexp.MustCompile(`K$`))
	return err
}
