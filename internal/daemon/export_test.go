package daemon

// Start is Main with its arguments and streams given.
var Start = start

// Machine is what protecting memory asks of the operating system.
type Machine struct {
	NoCores, Lock error
	Swaps         string
	SwapsErr      error
}

// Protect is ProtectMemory on another machine.
func Protect(e Env, swap string, m Machine) error {
	p, err := protect(swap, machine{
		noCores: func() error { return m.NoCores },
		lock:    func() error { return m.Lock },
		swaps:   func() ([]byte, error) { return []byte(m.Swaps), m.SwapsErr },
	})
	if err == nil {
		p.Tell(e.Log)
	}
	return err
}

// ErrElsewhere is what other operating systems say.
var ErrElsewhere = errElsewhere

// RoomOf is Room of a machine whose files these are.
var RoomOf = room
