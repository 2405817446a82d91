package transport

import (
	"errors"
	"net"
)

// What a listener reads of a peer that has not proven its name: a TLS handshake, of which crypto/tls alone would take a quarter
// of a mebibyte of certificates, and then a hello in its frame and record.
const (
	maxStrangeTLS   = 16 << 10
	maxStrangeHello = maxHello + 256
)

var errStrangeLength = errors.New("more bytes than a peer may send before its name is proven")

// stranger is a line that is told when its peer has proven its name.
type stranger interface{ proven() }

// meter is a line of which only so many bytes are read until it is opened. One goroutine uses it until then.
type meter struct {
	net.Conn
	left int // bytes
	free bool
}

// open lets everything through from now on.
func (m *meter) open() {
	m.free = true
	if s, ok := m.Conn.(stranger); ok {
		s.proven()
	}
}

func (m *meter) Read(p []byte) (int, error) {
	if m.free {
		return m.Conn.Read(p)
	}
	if m.left == 0 {
		return 0, errStrangeLength
	}
	n, err := m.Conn.Read(p[:min(len(p), m.left)])
	m.left -= n
	return n, err
}
