package transport

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"consilium.dev/internal/attest"
)

// A frame is type u8, length u32 big-endian, body.
type frameType uint8

const (
	frameHelloC    frameType = 1
	frameHelloS    frameType = 2
	frameEvidence  frameType = 3
	frameFinished  frameType = 4
	frameManifests frameType = 5
	frameAlert     frameType = 6
)

const (
	frameHead   = 5
	maxHello    = 4 << 10
	maxBody     = 1 << 20
	lenFinished = 32
)

// alertError says that an ALERT arrived in place of the frame that was due.
type alertError struct{ class attest.Class }

func (e alertError) Error() string { return "refused by the peer, class " + e.class.String() }

func appendFrame(dst []byte, t frameType, body []byte) []byte {
	dst = append(dst, byte(t))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(body)))
	return append(dst, body...)
}

// readFrame reads one frame of the type want, of at most limit bytes, and nothing beyond it. An ALERT in its place is an
// alertError; everything else is an *attest.Error. Nothing is allocated for a length that is refused.
func readFrame(r io.Reader, want frameType, limit int) ([]byte, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, ioError(err, "reading the head of frame %d", want)
	}
	t, n := frameType(head[0]), binary.BigEndian.Uint32(head[1:])
	if t == frameAlert && n == 1 {
		var class [1]byte
		if _, err := io.ReadFull(r, class[:]); err != nil {
			return nil, ioError(err, "reading an alert")
		}
		if c := attest.Class(class[0]); c >= attest.ClassTLS && c <= attest.ClassRate {
			return nil, alertError{c}
		}
		return nil, attest.Refuse(attest.ClassFrame, "alert of class %d, which does not exist", class[0])
	}
	if t != want {
		return nil, attest.Refuse(attest.ClassFrame, "frame %d, want %d", t, want)
	}
	if uint64(n) > uint64(limit) {
		return nil, attest.Refuse(attest.ClassFrame, "frame %d of %d bytes, at most %d allowed", t, n, limit)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, ioError(err, "reading the body of frame %d", want)
	}
	return body, nil
}

// ioError gives what went wrong with the connection a class: RATE for a deadline, TLS where the record layer or a TLS alert
// says so, FRAME for a line that was cut.
func ioError(err error, format string, args ...any) *attest.Error {
	class := attest.ClassFrame
	var op *net.OpError
	var head tls.RecordHeaderError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		class = attest.ClassRate
	case errors.As(err, &head), errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		class = attest.ClassTLS
	}
	if broken(err) {
		err = &cutError{err}
	}
	return attest.Refuse(class, format+": %w", append(args, err)...)
}

// cutError marks what a line said when it broke. An ALERT of TLS says that the peer has hung up by intent, and is none.
type cutError struct{ err error }

func (e *cutError) Error() string { return e.err.Error() }
func (e *cutError) Unwrap() error { return e.err }

// broken reports whether err is of a line that has ended, and says nothing of who was at its other end.
func broken(err error) bool {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// appendLP appends lp(x): u32 big-endian length, then the bytes.
func appendLP(dst, x []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(x)))
	return append(dst, x...)
}

// cursor takes lp fields off the front of a buffer. After its first fault it returns nothing, and short is set.
type cursor struct {
	rest  []byte
	short bool
}

// lp takes one field. It is a part of the buffer.
func (c *cursor) lp() []byte {
	if c.short || len(c.rest) < 4 {
		c.short = true
		return nil
	}
	n := uint64(binary.BigEndian.Uint32(c.rest))
	if n > uint64(len(c.rest)-4) {
		c.short = true
		return nil
	}
	x := c.rest[4 : 4+n : 4+n]
	c.rest = c.rest[4+n:]
	return x
}

// fixed takes one field that must have exactly n bytes; where it has not, it returns n zeros and short is set.
func (c *cursor) fixed(n int) []byte {
	if x := c.lp(); len(x) == n {
		return x
	}
	c.short = true
	return make([]byte, n)
}
