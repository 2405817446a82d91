//go:build !linux

package daemon

var thisMachine = machine{
	noCores: func() error { return errElsewhere },
	lock:    func() error { return errElsewhere },
	swaps:   func() ([]byte, error) { return nil, errElsewhere },
}
