package keeper

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxFDs is the kernel's SCM_MAX_FD (unix(7)).
const maxFDs = 253

// writePacket sends b and fds as one packet.
func writePacket(c *net.UnixConn, b []byte, fds []int) error {
	if len(fds) > maxFDs {
		return fmt.Errorf("%d descriptors exceed %d", len(fds), maxFDs)
	}
	// The kernel refuses a packet larger than the send buffer; it doubles what it is given.
	if err := c.SetWriteBuffer(MaxPacket); err != nil {
		return err
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err := c.WriteMsgUnix(b, oob, nil)
	return err
}

// readPacket reads one packet. io.EOF: the peer hung up. The files are close-on-exec.
func readPacket(c *net.UnixConn) ([]byte, []*os.File, error) {
	size, err := nextPacket(c)
	if err != nil {
		return nil, nil, err
	}
	if size > MaxPacket {
		return nil, nil, errors.New("packet too large")
	}
	// One byte more, because a read into none gives no descriptors either.
	buf := make([]byte, size+1)
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, nil, err
	}
	files, err := rights(oob[:oobn])
	switch {
	case err != nil:
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("packet too large")
	case n == 0:
		err = io.EOF
	}
	if err != nil {
		closeAll(files)
		return nil, nil, err
	}
	return buf[:n], files, nil
}

// nextPacket waits for a packet and returns its size, 0 if the peer hung up. Room for the
// largest one, cleared for each request and each reply, would be most of the work of small
// ones.
func nextPacket(c *net.UnixConn) (size int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var perr error
	err = raw.Read(func(fd uintptr) bool {
		for {
			size, _, perr = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_TRUNC)
			if perr != unix.EINTR {
				return perr != unix.EAGAIN
			}
		}
	})
	if err == nil {
		err = os.NewSyscallError("recvfrom", perr)
	}
	return size, err
}

func rights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close() // nothing is written through these
		}
	}
}

// rawFDs are the files' descriptors, which Fd would make blocking for all who share them.
// They are good as long as the files are open.
func rawFDs(files []*os.File) ([]int, error) {
	out := make([]int, len(files))
	for i, f := range files {
		c, err := f.SyscallConn()
		if err == nil {
			err = c.Control(func(fd uintptr) { out[i] = int(fd) })
		}
		if err != nil {
			return nil, fmt.Errorf("descriptor %d: %w", i, err)
		}
	}
	return out, nil
}

func dupFile(f *os.File) (*os.File, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var n int
	var derr error
	if err := c.Control(func(fd uintptr) { n, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if derr != nil {
		return nil, os.NewSyscallError("fcntl", derr)
	}
	return os.NewFile(uintptr(n), f.Name()), nil
}
