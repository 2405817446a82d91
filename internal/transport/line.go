package transport

import (
	"net"
	"sync"
)

// lineLen is how many bytes of records go to the line, or come from it, with one system call where much is sent. crypto/tls alone
// makes one of each record of 16 KiB, whose price is a quarter of what a record costs.
const (
	lineLen   = 128 << 10
	maxRecord = 16 << 10 // bytes of plaintext in a record of TLS
)

type buffer [lineLen + maxRecord]byte

var lines = sync.Pool{New: func() any { return new(buffer) }}

// line is what lies below TLS: it joins the records of one write, and reads ahead while much comes. A connection that is idle
// holds none of its buffers for writing, and one for reading only where what came last filled it.
type line struct {
	net.Conn

	writing sync.Mutex // guards what follows
	joined  *buffer
	held    int // bytes of it

	// The rest belongs to whoever reads.
	proven bool // the connection is; before that nothing is read ahead
	full   int  // reads in a row that brought all that was asked for
	ahead  *buffer
	rest   []byte // of it, not yet taken
}

// eager is after how many full reads more is read than was asked for.
const eager = 4

// Read reads from the line, or takes what was read ahead.
func (l *line) Read(p []byte) (int, error) {
	if len(l.rest) == 0 && l.full < eager {
		n, err := l.Conn.Read(p)
		if n < len(p) || !l.proven {
			l.full = 0
		} else {
			l.full++
		}
		return n, err
	}
	if len(l.rest) == 0 {
		if l.ahead == nil {
			l.ahead = lines.Get().(*buffer)
		}
		n, err := l.Conn.Read(l.ahead[:lineLen])
		if l.rest = l.ahead[:n]; n < lineLen/8 {
			l.full = 0
		}
		if n == 0 {
			return 0, err
		} // an error beside bytes comes again with the next read
	}
	n := copy(p, l.rest)
	if l.rest = l.rest[n:]; len(l.rest) == 0 && l.full < eager {
		l.drop()
	}
	return n, nil
}

func (l *line) drop() {
	lines.Put(l.ahead)
	l.ahead, l.rest = nil, nil
}

// Write gives p to the line, or holds it where a join is under way.
func (l *line) Write(p []byte) (int, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.joined == nil {
		return l.Conn.Write(p)
	}
	if l.held+len(p) > len(l.joined) {
		if err := l.flush(); err != nil {
			return 0, err
		}
		if len(p) > len(l.joined) {
			return l.Conn.Write(p)
		}
	}
	l.held += copy(l.joined[l.held:], p)
	return len(p), nil
}

func (l *line) flush() error {
	n := l.held
	if l.held = 0; n == 0 {
		return nil
	}
	_, err := l.Conn.Write(l.joined[:n])
	return err
}

// join has what is written until part held back and written together.
func (l *line) join() {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.joined = lines.Get().(*buffer)
}

// part ends a join and writes what was held.
func (l *line) part() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	err := l.flush()
	lines.Put(l.joined)
	l.joined = nil
	return err
}
