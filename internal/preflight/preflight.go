// Package preflight looks, before a participant goes live and when it does not get through, at what lies between it and its coordinator,
// one step after the other. It takes part in nothing: no run is followed, nothing is trained, cosigned or kept. The coordinator's log gets
// one line, that the member was admitted.
//
//	var list preflight.List
//	list.Do("disk", func() (string, error) { ... })
//	list.Reach(ctx, preflight.Options{ ... })
//	for _, s := range list.Steps { ... }
//
// What is found never holds a secret, nor anything that stands in somebody's records.
package preflight

import (
	"errors"
	"fmt"
	"time"

	"consilium.dev/internal/strictyaml"
)

// State is what came of a step.
type State string

// The states.
const (
	OK      State = "ok"
	Warning State = "warning" // it works, and somebody should look
	Failed  State = "failed"
	Omitted State = "omitted" // another step had to come to its end first
)

// Step is one thing that was looked at. Its JSON names are stable.
type Step struct {
	Name    string  `json:"name"`
	State   State   `json:"state"`
	Found   string  `json:"found"`        // in words; several faults stand on lines of their own
	Do      string  `json:"do,omitempty"` // what to do, in words
	Seconds float64 `json:"seconds"`      // that it took
}

// List is the steps so far. Its zero value is ready. It is used by one goroutine.
type List struct {
	Steps []Step
	Now   func() time.Time // nil: time.Now
}

// Advice is an error with what to do about it.
type Advice struct {
	Err  error
	Do   string
	Mild bool // a warning only
}

func (a *Advice) Error() string { return a.Err.Error() }

// Unwrap returns what is wrong.
func (a *Advice) Unwrap() error { return a.Err }

// Advise returns err with what to do about it, nil for nil.
func Advise(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &Advice{Err: err, Do: fmt.Sprintf(format, args...)}
}

// Warn returns a warning with what to do about it.
func Warn(found, format string, args ...any) error {
	return &Advice{Err: errors.New(found), Do: fmt.Sprintf(format, args...), Mild: true}
}

// Do takes one step: look says what it has found, or what is wrong, best as an [Advice]. It reports whether others can build on it.
func (l *List) Do(name string, look func() (found string, err error)) bool {
	began := l.now()
	found, err := look()
	s := Step{Name: name, State: OK, Found: found, Seconds: l.now().Sub(began).Seconds()}
	if err != nil {
		s.State, s.Found = Failed, strictyaml.Apart(err)
		if a, ok := errors.AsType[*Advice](err); ok {
			s.Do = a.Do
			if a.Mild {
				s.State = Warning
			}
		}
	}
	l.Steps = append(l.Steps, s)
	return s.State != Failed
}

// Omit notes steps that are not taken, and why.
func (l *List) Omit(why string, names ...string) {
	for _, name := range names {
		l.Steps = append(l.Steps, Step{Name: name, State: Omitted, Found: why})
	}
}

// Failed returns how many steps have failed.
func (l *List) Failed() (n int) {
	for _, s := range l.Steps {
		if s.State == Failed {
			n++
		}
	}
	return n
}

func (l *List) now() time.Time {
	if l.Now != nil {
		return l.Now()
	}
	return time.Now()
}
