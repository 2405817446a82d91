// Package powercut cuts the power of a disk, for tests: it writes down each call that changes a folder, and makes every folder that
// POSIX allows to be found when the power fails between two of them.
//
//	d := powercut.New(base)          // a folder that is empty
//	work(d.At, d.Acknowledge)        // opens its folders below base through d.At, says what it has promised
//	for s := range d.States(0) {     // after each call, each disk that a power failure leaves
//		s.Build(folder)
//		check(folder, s.Acknowledged)
//	}
//
// # What may be found
//
// Of each name in a folder: what it stood for when the folder was last synced, or at any moment since, whatever is found of the
// other names, so also a later change without an earlier one. Of each file: what was in it when it was last synced, or all that
// was written since, or half of that, with nothing or with zeros in place of the rest. What is synced is found. Of a file that
// is torn there are as many lengths as bytes; half stands for them.
package powercut

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"consilium.dev/internal/durable"
)

// ErrKilled is what a process meets that has been killed and does not know it yet.
var ErrKilled = errors.New("killed")

// Disk is a folder on which everything is written down. It is safe for concurrent use.
type Disk struct {
	base string

	mu    sync.Mutex // guards what follows
	calls []call
	live  int  // calls that the process still has, less than 0 for all
	dead  bool // one was refused
}

// call is one change of the disk.
type call struct {
	do   string // create, write, sync file, mkdir, link, rename, remove, sync, acknowledge
	name string // relative to the disk's base
	old  string // of a link or rename
	file int    // of a write or sync file: which call created it
	data []byte
}

func (c call) String() string {
	switch {
	case c.old != "":
		return c.do + " " + c.old + " " + c.name
	case c.do == "write":
		return fmt.Sprintf("%s of %d bytes to %s", c.do, len(c.data), c.name)
	}
	return c.do + " " + c.name
}

// New returns the disk of the folder at base, which is there, is empty, and is itself durable.
func New(base string) *Disk { return &Disk{base: base, live: -1} }

// At returns what changes the folder that root has open. What is done to one that is not the disk's, nor below it, is not noted.
func (d *Disk) At(root *os.Root) durable.Folder {
	inside, err := filepath.Rel(d.base, root.Name())
	if err != nil || strings.HasPrefix(inside, "..") {
		return durable.At(root)
	}
	return &folder{d, filepath.ToSlash(inside), durable.At(root)}
}

// Acknowledge notes that what was promised: it must be found from now on.
func (d *Disk) Acknowledge(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.dead {
		d.calls = append(d.calls, call{do: "acknowledge", name: what})
	}
}

// Kill makes the process die before its n-th call from now, counted from 0: that one and all later ones fail with [ErrKilled] and
// change nothing. What it did stays in the kernel's memory, synced or not.
func (d *Disk) Kill(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.live = n
}

// Revive begins another process, and reports whether the one before it was killed.
func (d *Disk) Revive() (killed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	killed = d.dead
	d.live, d.dead = -1, false
	return killed
}

// Calls returns how many calls there were, with the acknowledgements.
func (d *Disk) Calls() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.calls)
}

// step carries out a call and notes it, unless the process is dead. A call that fails has changed nothing.
func (d *Disk) step(c call, do func() error) (number int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.live == 0 {
		d.dead = true
		return 0, fmt.Errorf("%s: %w", c, ErrKilled)
	}
	if err := do(); err != nil {
		return 0, err
	}
	if d.live > 0 {
		d.live--
	}
	d.calls = append(d.calls, c)
	return len(d.calls) - 1, nil
}

type folder struct {
	d      *Disk
	inside string
	real   durable.Folder
}

func (f *folder) path(name string) string { return path.Join(f.inside, name) }

func (f *folder) Create(name string, mode fs.FileMode) (durable.File, error) {
	file := &file{d: f.d, name: f.path(name)}
	number, err := f.d.step(call{do: "create", name: file.name}, func() (err error) {
		file.real, err = f.real.Create(name, mode)
		return err
	})
	if err != nil {
		return nil, err
	}
	file.number = number
	return file, nil
}

func (f *folder) Mkdir(name string) error {
	_, err := f.d.step(call{do: "mkdir", name: f.path(name)}, func() error { return f.real.Mkdir(name) })
	return err
}

func (f *folder) Link(old, name string) error {
	_, err := f.d.step(call{do: "link", old: f.path(old), name: f.path(name)}, func() error { return f.real.Link(old, name) })
	return err
}

func (f *folder) Rename(old, name string) error {
	_, err := f.d.step(call{do: "rename", old: f.path(old), name: f.path(name)}, func() error { return f.real.Rename(old, name) })
	return err
}

func (f *folder) Remove(name string) error {
	_, err := f.d.step(call{do: "remove", name: f.path(name)}, func() error { return f.real.Remove(name) })
	return err
}

func (f *folder) Sync(name string) error {
	_, err := f.d.step(call{do: "sync", name: f.path(name)}, func() error { return f.real.Sync(name) })
	return err
}

type file struct {
	d      *Disk
	name   string
	number int
	real   durable.File
}

func (f *file) Write(p []byte) (n int, err error) {
	_, err = f.d.step(call{do: "write", name: f.name, file: f.number, data: bytes.Clone(p)}, func() error {
		n, err = f.real.Write(p)
		return err
	})
	return n, err
}

func (f *file) Sync() error {
	_, err := f.d.step(call{do: "sync file", name: f.name, file: f.number}, f.real.Sync)
	return err
}

// Close is no call: it neither changes the disk nor makes anything durable. The kernel closes what a dead process had open.
func (f *file) Close() error { return f.real.Close() }

// State is one disk that a power failure leaves.
type State struct {
	After        string   // the last call before it
	Acknowledged []string // by then, in order
	nodes        map[string]*found
}

// found is what has a name: a folder, or a file with its content.
type found struct {
	folder  bool
	content []byte
}

// Build makes the state at path, which is there and empty.
func (s State) Build(path string) error {
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) { // a folder comes before what is in it
		to, err := filepath.Join(path, filepath.FromSlash(name)), error(nil)
		if n := s.nodes[name]; n.folder {
			err = os.Mkdir(to, 0o700)
		} else {
			err = os.WriteFile(to, n.content, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s State) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "power cut after %q:", s.After)
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		if n := s.nodes[name]; n.folder {
			fmt.Fprintf(&b, " %s/", name)
		} else {
			fmt.Fprintf(&b, " %s(%d bytes)", name, len(n.content))
		}
	}
	return b.String()
}

// States yields each disk that a power failure can leave after the calls from number from on: after none of those, after one, and
// so on to all. A disk that can be left after several calls is yielded for each.
func (d *Disk) States(from int) iter.Seq[State] {
	d.mu.Lock()
	calls := slices.Clone(d.calls)
	d.mu.Unlock()
	return func(yield func(State) bool) {
		m, after := newModel(), "nothing"
		var acknowledged []string
		for i := 0; ; i++ {
			if i >= from && (i == len(calls) || calls[i].do != "acknowledge") { // an acknowledgement changes no disk
				for nodes := range m.states() {
					if !yield(State{after, slices.Clip(acknowledged), nodes}) {
						return
					}
				}
			}
			if i == len(calls) {
				return
			}
			if c := calls[i]; c.do == "acknowledge" {
				acknowledged = append(acknowledged, c.name)
			} else {
				m.apply(i, c)
				after = c.String()
			}
		}
	}
}

// node is a file or a folder, whatever names it has.
type node struct {
	entries         map[string]*slot // of a folder
	written, synced []byte           // of a file
}

// slot is a name in a folder.
type slot struct {
	now   *node   // nil: the name is free
	maybe []*node // what a power failure can leave there; the first is what was synced
}

func (s *slot) set(n *node) {
	s.now = n
	if !slices.Contains(s.maybe, n) {
		s.maybe = append(s.maybe, n)
	}
}

// model is the disk as POSIX has it.
type model struct {
	root  *node
	files map[int]*node // by the number of the call that created them
}

func newModel() *model { return &model{&node{entries: map[string]*slot{}}, map[int]*node{}} }

// slot returns the slot of a name, and the folder in which it is.
func (m *model) slot(name string) *slot {
	at := m.folder(path.Dir(name))
	base := path.Base(name)
	if at.entries[base] == nil {
		at.entries[base] = &slot{maybe: []*node{nil}}
	}
	return at.entries[base]
}

func (m *model) folder(name string) *node {
	if name == "." {
		return m.root
	}
	n := m.slot(name).now
	if n == nil || n.entries == nil {
		panic("powercut: " + name + " was not made through the disk")
	}
	return n
}

func (m *model) apply(number int, c call) {
	switch c.do {
	case "create":
		m.files[number] = &node{}
		m.slot(c.name).set(m.files[number])
	case "write":
		m.files[c.file].written = append(slices.Clip(m.files[c.file].written), c.data...)
	case "sync file":
		m.files[c.file].synced = m.files[c.file].written
	case "mkdir":
		m.slot(c.name).set(&node{entries: map[string]*slot{}})
	case "link":
		m.slot(c.name).set(m.slot(c.old).now)
	case "rename":
		m.slot(c.name).set(m.slot(c.old).now)
		m.slot(c.old).set(nil)
	case "remove":
		m.slot(c.name).set(nil)
	case "sync":
		for _, s := range m.folder(c.name).entries {
			s.maybe = []*node{s.now}
		}
	default:
		panic("powercut: " + c.do)
	}
}

// states yields every disk that the power failure can leave now, each once.
func (m *model) states() iter.Seq[map[string]*found] {
	return func(yield func(map[string]*found) bool) {
		seen := map[[32]byte]bool{}
		pick(m.slots(m.root, nil), map[*slot]*node{}, func(names map[*slot]*node) bool {
			tree := map[string]*node{}
			walk(m.root, "", names, tree)
			return fill(tree, func(nodes map[string]*found) bool {
				if s := sign(nodes); !seen[s] {
					seen[s] = true
					return yield(nodes)
				}
				return true
			})
		})
	}
}

// slots returns all slots of a folder and of what may be below it.
func (m *model) slots(at *node, all []*slot) []*slot {
	for _, name := range slices.Sorted(maps.Keys(at.entries)) {
		s := at.entries[name]
		all = append(all, s)
		for _, n := range s.maybe {
			if n != nil && n.entries != nil {
				all = m.slots(n, all)
			}
		}
	}
	return all
}

// pick calls f with each choice of what is found of each slot, until f returns false, and reports whether it never did.
func pick(slots []*slot, chosen map[*slot]*node, f func(map[*slot]*node) bool) bool {
	if len(slots) == 0 {
		return f(chosen)
	}
	for _, n := range slots[0].maybe {
		chosen[slots[0]] = n
		if !pick(slots[1:], chosen, f) {
			return false
		}
	}
	return true
}

// walk puts into tree what is below a folder, by name.
func walk(at *node, prefix string, names map[*slot]*node, tree map[string]*node) {
	for name, s := range at.entries {
		if n := names[s]; n != nil {
			tree[prefix+name] = n
			if n.entries != nil {
				walk(n, prefix+name+"/", names, tree)
			}
		}
	}
}

// fill calls f with each choice of what is found in the files of a tree, as pick does. A file of two names has one content.
func fill(tree map[string]*node, f func(map[string]*found) bool) bool {
	var files []*node
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		if n := tree[name]; n.entries == nil && !slices.Contains(files, n) {
			files = append(files, n)
		}
	}
	chosen := map[*node][]byte{}
	var next func(int) bool
	next = func(i int) bool {
		if i == len(files) {
			nodes := map[string]*found{}
			for name, n := range tree {
				nodes[name] = &found{n.entries != nil, chosen[n]}
			}
			return f(nodes)
		}
		for _, content := range files[i].contents() {
			chosen[files[i]] = content
			if !next(i + 1) {
				return false
			}
		}
		return true
	}
	return next(0)
}

// contents returns what can be found in a file.
func (n *node) contents() [][]byte {
	if len(n.written) == len(n.synced) {
		return [][]byte{n.synced}
	}
	half := len(n.synced) + (len(n.written)-len(n.synced))/2
	zeros := func(upTo int) []byte {
		return append(slices.Clone(n.written[:upTo]), make([]byte, len(n.written)-upTo)...)
	}
	return [][]byte{n.synced, n.written[:half], zeros(len(n.synced)), zeros(half), n.written}
}

// sign returns a digest of all that is found.
func sign(nodes map[string]*found) [32]byte {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		fmt.Fprintf(h, "%q %v %q\n", name, nodes[name].folder, nodes[name].content)
	}
	return [32]byte(h.Sum(nil))
}
