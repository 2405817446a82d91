package coordinator_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"consilium.dev/internal/store"
	"consilium.dev/internal/store/dir"
)

// errKilled is what a program meets that has been killed and does not know it yet.
var errKilled = errors.New("killed")

// cut is how a program is killed at one of its steps.
type cut string

// The ways to be killed. A change of the storage that is torn is one before it too, since half a file has no name that counts; a
// message has no deletions to undo.
const (
	before cut = "before" // the message does not get out
	torn   cut = "torn"   // half of a message got out, or half of a file was written
	after  cut = "after"  // the step is done, and the program never hears of it
	power  cut = "power"  // likewise, and all deletions of this process are undone: the directory driver does not sync them
)

// mortal is one process, seen from outside. A step is all that it can do to the world: a change of its storage, or a write to
// one of its connections. Between two steps the world is the same, wherever the process is, so a process that was killed at each
// of its steps was killed everywhere. Each step has a name; that of a change of the storage is the same in every run.
type mortal struct {
	at     string // name of the step at which it is killed, "" for none
	how    cut
	fallen chan struct{} // closed when it is killed

	mu      sync.Mutex // guards what follows
	steps   []string   // that were begun
	count   map[string]int
	commit  int // number of the commit to the log that is under way
	dead    bool
	conns   []net.Conn
	deleted map[string][]byte // what it has deleted
	acked   [][]byte          // heads that it was told are durable
}

func newMortal(at string, how cut) *mortal {
	return &mortal{
		at: at, how: how, fallen: make(chan struct{}), count: map[string]int{}, commit: 1, deleted: map[string][]byte{},
	}
}

// step carries out one step by do, as far as the process lives. What is torn is done by half.
func (m *mortal) step(kind string, do, half func() error) error {
	m.mu.Lock()
	if m.dead {
		m.mu.Unlock()
		return errKilled
	}
	m.count[kind]++
	name := fmt.Sprintf("%s %d", kind, m.count[kind])
	m.steps = append(m.steps, name)
	if name != m.at {
		m.mu.Unlock()
		return do()
	}
	if kind != "send" {
		// A slow disk: what the program does without waiting for it is seen by the world before it is killed.
		m.mu.Unlock()
		time.Sleep(time.Millisecond)
		m.mu.Lock()
	}
	m.dead = true
	conns := m.conns
	m.mu.Unlock()
	switch m.how {
	case torn:
		_ = half() // nobody hears of it
	case after, power:
		_ = do()
	}
	for _, c := range conns { // as the kernel closes them
		_ = c.Close()
	}
	close(m.fallen)
	return errKilled
}

// taken returns the names of the steps that were begun.
func (m *mortal) taken() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.steps
}

// heads returns the heads that the process was told are durable.
func (m *mortal) heads() [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.acked
}

// alive returns nil while the process lives: a dead one reads nothing either.
func (m *mortal) alive() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return errKilled
	}
	return nil
}

// wrap makes writes to a connection steps of the process.
func (m *mortal) wrap(c net.Conn) (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		_ = c.Close()
		return nil, errKilled
	}
	m.conns = append(m.conns, c)
	return &mortalConn{c, m}, nil
}

type mortalConn struct {
	net.Conn
	m *mortal
}

func (c *mortalConn) Write(p []byte) (n int, err error) {
	err = c.m.step("send", func() error {
		n, err = c.Conn.Write(p)
		return err
	}, func() error {
		_, err := c.Conn.Write(p[:len(p)/2])
		return err
	})
	return n, err
}

// mortalListener makes what is written to the connections that it accepts steps of the process.
type mortalListener struct {
	net.Listener
	m *mortal
}

func (l *mortalListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.m.wrap(c)
}

// mortalStore is the process's storage: a folder under the real driver. Reading is no step.
type mortalStore struct {
	*dir.Dir // as this process has it open
	path     string
	kek      store.Sealer
	m        *mortal
}

// newMortalStore makes a folder for a process; where there is one, on a file system in memory, since every step is synced.
func newMortalStore(t *testing.T, m *mortal) *mortalStore {
	t.Helper()
	parent := "/dev/shm"
	if info, err := os.Stat(parent); err != nil || !info.IsDir() {
		parent = ""
	}
	path, err := os.MkdirTemp(parent, "consilium-crash-")
	if err != nil {
		t.Fatal(err)
	}
	s := &mortalStore{path: path, kek: newSealer(t), m: m}
	if s.Dir, err = dir.Open(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		if err := os.RemoveAll(path); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *mortalStore) shelf() shelf { return shelf{s.Dir, s.kek} }

// half leaves what a process leaves that is killed while it writes an object or a head.
func (s *mortalStore) half(text []byte) func() error {
	return func() error { return os.WriteFile(filepath.Join(s.path, "tmp", "torn"), text[:len(text)/2], 0o600) }
}

func nothing() error { return nil }

func (s *mortalStore) Put(ctx context.Context, name func() string, r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	n := name()
	put := func() error { return s.Dir.Put(ctx, store.Named(n), bytes.NewReader(text)) }
	return s.m.step("put "+s.m.kind(n), put, s.half(text))
}

// kind words which object a name is of. What is of a commit to the log says of which.
func (m *mortal) kind(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	first, rest, _ := strings.Cut(name, "/")
	switch {
	case strings.HasPrefix(rest, "entries/"):
		return fmt.Sprintf("bundle of commit %d", m.commit)
	case first == "tile":
		return fmt.Sprintf("tile of commit %d", m.commit)
	case first == "stage": // stage/VERSION-DIGEST
		number, _, _ := strings.Cut(rest, "-")
		return "stage of commit " + strings.TrimLeft(number, "0")
	}
	return first
}

func (s *mortalStore) Delete(ctx context.Context, name string) error {
	if r, err := s.Dir.Get(ctx, name); err == nil {
		text, err := io.ReadAll(r)
		if err = cmp.Or(err, r.Close()); err != nil {
			return err
		}
		s.m.mu.Lock()
		s.m.deleted[name] = text
		s.m.mu.Unlock()
	}
	return s.m.step("delete "+s.m.kind(name), func() error { return s.Dir.Delete(ctx, name) }, nothing)
}

func (s *mortalStore) Swap(ctx context.Context, old uint64, value []byte) error {
	s.m.mu.Lock()
	s.m.commit = int(old) + 1 // and so until the next: what is laid out is of this one
	s.m.mu.Unlock()
	err := s.m.step(fmt.Sprintf("swap of commit %d", old+1), func() error { return s.Dir.Swap(ctx, old, value) }, s.half(value))
	if err == nil {
		s.m.mu.Lock()
		s.m.acked = append(s.m.acked, bytes.Clone(value))
		s.m.mu.Unlock()
	}
	return err
}

func (s *mortalStore) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := s.m.alive(); err != nil {
		return nil, err
	}
	return s.Dir.Get(ctx, name)
}

func (s *mortalStore) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	if err := s.m.alive(); err != nil {
		return func(yield func(string, error) bool) { yield("", err) }
	}
	return s.Dir.List(ctx, prefix)
}

func (s *mortalStore) Load(ctx context.Context) (uint64, []byte, error) {
	if err := s.m.alive(); err != nil {
		return 0, nil, err
	}
	return s.Dir.Load(ctx)
}

// bury leaves the storage as the next process finds it, and opens it for that.
func (s *mortalStore) bury(ctx context.Context) error {
	err := s.Close() // as the kernel lets go of the lock
	if err != nil {
		return err
	}
	if s.Dir, err = dir.Open(s.path); err != nil || s.m.how != power {
		return err
	}
	for name, text := range s.m.deleted {
		err := s.Dir.Put(ctx, store.Named(name), bytes.NewReader(text))
		if err != nil && !errors.Is(err, store.ErrExist) {
			return err
		}
	}
	return nil
}
