package qemu

import (
	"bufio"
	"encoding/binary"
	"io"
	"sync"
	"time"
)

// pcapWriter writes a libpcap file with nanosecond times (magic 0xa1b23c4d, link type 1:
// Ethernet; draft-ietf-opsawg-pcap). Safe for concurrent use.
type pcapWriter struct {
	mu  sync.Mutex
	w   *bufio.Writer
	err error
}

func newPcap(w io.Writer) (*pcapWriter, error) {
	p := &pcapWriter{w: bufio.NewWriterSize(w, 64<<10)}
	head := make([]byte, 24)
	binary.LittleEndian.PutUint32(head[0:], 0xa1b23c4d)
	binary.LittleEndian.PutUint16(head[4:], 2)
	binary.LittleEndian.PutUint16(head[6:], 4)
	binary.LittleEndian.PutUint32(head[16:], maxFrame)
	binary.LittleEndian.PutUint32(head[20:], 1)
	_, err := p.w.Write(head)
	return p, err
}

func (p *pcapWriter) write(frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return
	}
	now := time.Now()
	var head [16]byte
	binary.LittleEndian.PutUint32(head[0:], uint32(now.Unix()))
	binary.LittleEndian.PutUint32(head[4:], uint32(now.Nanosecond()))
	binary.LittleEndian.PutUint32(head[8:], uint32(len(frame)))
	binary.LittleEndian.PutUint32(head[12:], uint32(len(frame)))
	if _, p.err = p.w.Write(head[:]); p.err == nil {
		_, p.err = p.w.Write(frame)
	}
}

func (p *pcapWriter) finish() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.w.Flush(); p.err == nil {
		p.err = err
	}
	return p.err
}
