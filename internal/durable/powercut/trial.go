package powercut

import (
	"errors"
	"os"
	"testing"
)

// Trial is a piece of work whose every interruption is tried.
type Trial struct {
	// Work is what one process does on the disk at base, from its start to its end. It can be done again after it was killed. It
	// returns nil, or the error that it met first.
	Work func(d *Disk, base string) error
	// Judge opens what a power failure has left at base and returns what does not hold.
	Judge func(base string, acknowledged []string) error
	// Twice says that a process is also killed before each of its calls, and another one does the work on what is left in the
	// kernel's memory before the power fails.
	Twice bool
}

// Run tries it, reports what does not hold, and returns at how many disks it looked and how many of them were as they should be.
func (r Trial) Run(t *testing.T) (points, survived int) {
	t.Helper()
	d, _, _ := r.at(t, -1)
	for n, from := 0, 0; ; n++ {
		for s := range d.States(from) {
			points++
			if r.found(t, s) {
				survived++
			}
		}
		if t.Failed() || !r.Twice {
			return points, survived
		}
		var killed bool
		if d, from, killed = r.at(t, n); !killed {
			return points, survived
		}
	}
}

// at lets one process do the work until it is killed before its n-th call, -1 for never, and then another one from the start. It
// returns the disk, how many calls the first one made, and whether it was killed.
func (r Trial) at(t *testing.T, n int) (d *Disk, made int, killed bool) {
	t.Helper()
	base, clear := temp(t)
	defer clear()
	d = New(base)
	d.Kill(n)
	err := r.Work(d, base)
	if killed = d.Revive(); killed {
		if err != nil && !errors.Is(err, ErrKilled) { // nil, if all that is left to do may fail: temporary files stay
			t.Fatalf("killed before its call %d, the work ends with %v, want %v", n, err, ErrKilled)
		}
		made = d.Calls()
		err = r.Work(d, base)
	}
	if err != nil {
		t.Fatalf("killed before its call %d, the work ends with %v", n, err)
	}
	return d, made, killed
}

func (r Trial) found(t *testing.T, s State) bool {
	t.Helper()
	base, clear := temp(t)
	defer clear()
	if err := s.Build(base); err != nil {
		t.Fatal(err)
	}
	err := r.Judge(base, s.Acknowledged)
	if err != nil {
		t.Errorf("%s\nacknowledged %q: %v", s, s.Acknowledged, err)
	}
	return err == nil
}

// temp returns a new folder, and what removes it; where there is one, on a file system in memory, since everything is synced.
func temp(t *testing.T) (path string, clear func()) {
	t.Helper()
	parent := "/dev/shm"
	if info, err := os.Stat(parent); err != nil || !info.IsDir() {
		parent = ""
	}
	path, err := os.MkdirTemp(parent, "consilium-powercut-")
	if err != nil {
		t.Fatal(err)
	}
	return path, func() {
		if err := os.RemoveAll(path); err != nil {
			t.Error(err)
		}
	}
}
