package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"consilium.dev/internal/store"
)

// ErrFault is what a call returns that was asked to fail.
var ErrFault = errors.New("fault on demand")

// Effect says whether a call that fails does its work first.
type Effect int

// The two ways in which a call fails: its work was not done, or it was and only the answer is lost. A Get or List that fails
// After breaks off half way.
const (
	Before Effect = iota
	After
)

func (e Effect) String() string { return [...]string{"before", "after"}[e] }

// Memory is a [store.Objects] and a [store.Head] in memory, with faults on demand. It is safe for concurrent use. Any number
// of writers may share one: they are the same storage.
type Memory struct {
	mu      sync.Mutex // guards all below
	objects map[string][]byte
	version uint64
	head    []byte

	calls  int    // since the last FailAt, FailFrom or Heal
	at     int    // number of the call that fails; 0: none
	effect Effect // of that call
	dead   bool   // and every call after it fails, before
}

var (
	_ store.Objects = (*Memory)(nil)
	_ store.Head    = (*Memory)(nil)
)

// New returns an empty storage.
func New() *Memory { return &Memory{objects: map[string][]byte{}} }

// FailAt makes the n-th call from now, counted from 1, fail with [ErrFault]; calls before and after it do not.
func (m *Memory) FailAt(n int, effect Effect) { m.plan(n, effect, false) }

// FailFrom makes the n-th call from now fail with [ErrFault] and every later one fail before it took effect: to the storage
// it looks as if the caller had been killed there.
func (m *Memory) FailFrom(n int, effect Effect) { m.plan(n, effect, true) }

// Heal makes no call fail any more.
func (m *Memory) Heal() { m.plan(0, Before, false) }

func (m *Memory) plan(n int, effect Effect, dead bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls, m.at, m.effect, m.dead = 0, n, effect, dead
}

// Calls returns how many calls there were since the last FailAt, FailFrom or Heal.
func (m *Memory) Calls() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}

// begin counts a call. It returns an error if the call shall fail before its effect, and late if it shall fail after.
func (m *Memory) begin(ctx context.Context) (late bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	m.calls++
	hit := m.at > 0 && m.calls == m.at
	if hit && m.effect == Before || m.dead && m.at > 0 && m.calls > m.at {
		return false, ErrFault
	}
	return hit, nil
}

// answer is the last line of a call that has taken effect.
func answer(late bool) error {
	if late {
		return ErrFault
	}
	return nil
}

// Put stores an object, as [store.Objects] says.
func (m *Memory) Put(ctx context.Context, name func() string, r io.Reader) error {
	value, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	n := name()
	if err := store.CheckName(n); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	late, err := m.begin(ctx)
	if err != nil {
		return err
	}
	if _, ok := m.objects[n]; ok {
		return fmt.Errorf("object %s: %w", n, store.ErrExist)
	}
	for other := range m.objects {
		if strings.HasPrefix(other, n+"/") || strings.HasPrefix(n, other+"/") {
			return fmt.Errorf("object %s: there is one named %s", n, other)
		}
	}
	m.objects[n] = value
	return answer(late)
}

// Get opens an object, as [store.Objects] says.
func (m *Memory) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := store.CheckName(name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	late, err := m.begin(ctx)
	if err != nil {
		return nil, err
	}
	value, ok := m.objects[name]
	if !ok {
		return nil, fmt.Errorf("object %s: %w", name, store.ErrNotExist)
	}
	r := io.Reader(bytes.NewReader(value))
	if late {
		r = io.MultiReader(bytes.NewReader(value[:len(value)/2]), broken{})
	}
	return io.NopCloser(r), nil
}

// broken is a reader whose connection is lost.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, ErrFault }

// Delete removes an object, as [store.Objects] says.
func (m *Memory) Delete(ctx context.Context, name string) error {
	if err := store.CheckName(name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	late, err := m.begin(ctx)
	if err != nil {
		return err
	}
	delete(m.objects, name)
	return answer(late)
}

// List yields the names that there are when it begins, as [store.Objects] says.
func (m *Memory) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		m.mu.Lock()
		late, err := m.begin(ctx)
		names := slices.Sorted(maps.Keys(m.objects))
		m.mu.Unlock()
		names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, prefix) })
		if late {
			names, err = names[:len(names)/2], ErrFault
		} else if err != nil {
			names = nil
		}
		for _, n := range names {
			if !yield(n, nil) {
				return
			}
		}
		if err != nil {
			yield("", err)
		}
	}
}

// Load returns the newest head, as [store.Head] says.
func (m *Memory) Load(ctx context.Context) (uint64, []byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	late, err := m.begin(ctx)
	if err != nil {
		return 0, nil, err
	}
	if m.version == 0 {
		return 0, nil, fmt.Errorf("head: %w", store.ErrNotExist)
	}
	return m.version, bytes.Clone(m.head), answer(late)
}

// Swap makes value the head, as [store.Head] says.
func (m *Memory) Swap(ctx context.Context, old uint64, value []byte) error {
	if len(value) > 64<<10 {
		return fmt.Errorf("head of %d bytes: at most %d are allowed", len(value), 64<<10)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	late, err := m.begin(ctx)
	if err != nil {
		return err
	}
	if m.version != old {
		return fmt.Errorf("head has version %d, not %d: %w", m.version, old, store.ErrConflict)
	}
	m.version, m.head = old+1, bytes.Clone(value)
	return answer(late)
}
