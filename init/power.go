package pid1

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/runink/runink/internal/errs"
)

// Events of linux/input-event-codes.h.
const (
	evKey    = 1
	keyPower = 116
)

// inputEvent is struct input_event on 64-bit machines.
const inputEventSize = int(unsafe.Sizeof(unix.Timeval{})) + 8

// findPowerButton reads the input devices from here on, so that the button works when a
// later phase fails too. A machine without any can still be ended by its processes.
func (m *machine) findPowerButton(ctx context.Context) error {
	files, err := filepath.Glob("/dev/input/event*")
	if err != nil {
		return errs.E(errs.Internal, "find the power button", "%w", err)
	}
	if len(files) == 0 {
		m.log.Info("no power button on this machine")
	}
	for _, f := range files {
		dev, err := os.OpenFile(f, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			m.log.Warn("input device not read", "name", f, "err", err)
			continue
		}
		stop := context.AfterFunc(ctx, func() { dev.Close() })
		m.spawn("power button "+f, func() {
			defer stop()
			defer dev.Close()
			if err := m.readKeys(dev); !errors.Is(err, os.ErrClosed) {
				m.log.Warn("input device lost", "name", f, "err", err)
			}
		})
	}
	return nil
}

// readKeys reads events until that fails, and returns why.
func (m *machine) readKeys(dev io.Reader) error {
	buf := make([]byte, inputEventSize)
	for {
		if _, err := io.ReadFull(dev, buf); err != nil {
			return err
		}
		if isPowerKey(buf) {
			m.askEnd(request{powerOff, "power button"})
		}
	}
}

func isPowerKey(event []byte) bool {
	e := event[inputEventSize-8:]
	typ, code := binary.NativeEndian.Uint16(e), binary.NativeEndian.Uint16(e[2:])
	return typ == evKey && code == keyPower && binary.NativeEndian.Uint32(e[4:]) == 1
}
