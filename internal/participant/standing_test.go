package participant_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"consilium.dev/internal/participant"
	"consilium.dev/internal/store/storetest"
)

// TestStanding: what the administrator wants takes effect at once, and the next process knows it.
func TestStanding(t *testing.T) {
	disk, kek := storetest.New(), newSealer(t, 1)
	open := func() participant.Standing {
		t.Helper()
		s, err := participant.OpenStanding(t.Context(), disk, kek)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	if !s.Allows(run) {
		t.Fatal("a participant that was told nothing does nothing")
	}
	for _, step := range []struct {
		name          string
		do            func() error
		this, another bool
	}{
		{"paused", func() error { return s.Pause(t.Context(), "why") }, false, false},
		{"paused again", func() error { return s.Pause(t.Context(), "another") }, false, false},
		{"resumed", func() error { return s.Resume(t.Context()) }, true, true},
		{"resumed again", func() error { return s.Resume(t.Context()) }, true, true},
		{"left", func() error { return s.Leave(t.Context(), run, "") }, false, true},
		{"left again", func() error { return s.Leave(t.Context(), run, "") }, false, true},
		{"left and paused", func() error { return s.Pause(t.Context(), "why") }, false, false},
		{"left and resumed", func() error { return s.Resume(t.Context()) }, false, true},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		for when, s := range map[string]participant.Standing{"at once": s, "after a restart": open()} {
			if a, b := s.Allows(run), s.Allows("ffffffffffffffff"); a != step.this || b != step.another {
				t.Errorf("%s, %s: the run is allowed: %v, another: %v, want %v and %v", step.name, when, a, b, step.this, step.another)
			}
		}
	}
	if err := s.Pause(t.Context(), "why"); err != nil || open().Reason() != "why" {
		t.Errorf("the reason of a pause is %q after a restart, %v", open().Reason(), err)
	}
	for _, bad := range []string{strings.Repeat("x", 201), "two\nlines", "\xff"} {
		if err := s.Pause(t.Context(), bad); err == nil {
			t.Errorf("Pause(%q) succeeded", bad)
		}
	}
	for _, bad := range []string{"nonsense", "00112233445566FF", run + "0"} {
		if err := s.Leave(t.Context(), bad, ""); err == nil {
			t.Errorf("Leave(%q) succeeded", bad)
		}
	}
	if err := s.Leave(t.Context(), "", ""); err == nil || !strings.Contains(err.Error(), "has not been heard") {
		t.Errorf("leaving all runs of a coordinator that was never heard: %v", err)
	}
}

// TestStandingCrash ends the process at each call to its disk, before the call and after it. The next process has what was wanted
// before, or what is wanted now, and never neither: one that was paused and left stays so.
func TestStandingCrash(t *testing.T) {
	for _, effect := range []storetest.Effect{storetest.Before, storetest.After} {
		for n := 1; ; n++ {
			disk, kek := storetest.New(), newSealer(t, 1)
			s, err := participant.OpenStanding(t.Context(), disk, kek)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Pause(t.Context(), "first"); err != nil {
				t.Fatal(err)
			}
			disk.FailFrom(n, effect)
			told := s.Leave(t.Context(), run, "")
			disk.Heal()
			again, err := participant.OpenStanding(t.Context(), disk, kek)
			if err != nil {
				t.Fatalf("call %d, %v: %v", n, effect, err)
			}
			if again.Allows("ffffffffffffffff") || again.Reason() != "first" {
				t.Errorf("call %d, %v: the next process is not paused", n, effect)
			}
			if err := again.Resume(t.Context()); err != nil {
				t.Errorf("call %d, %v: Resume: %v", n, effect, err)
			}
			if told == nil {
				if again.Allows(run) {
					t.Errorf("call %d, %v: the run that was left is allowed again", n, effect)
				}
				if n < 3 {
					t.Fatalf("only %d calls were made", n)
				}
				break
			}
		}
	}
}

func FuzzWill(f *testing.F) {
	f.Add([]byte("consilium.standing/1\n{\"paused\":false}"))
	f.Add([]byte("consilium.standing/1\n{\"paused\":true,\"since\":\"2026-03-01T12:00:00.000001Z\",\"reason\":\"audit\"}"))
	f.Add(fmt.Appendf(nil, "consilium.standing/1\n{\"paused\":false,\"left\":[{\"run\":%q,\"at\":\"2026-03-01T12:00:00Z\"}]}", run))
	f.Add([]byte("consilium.standing/2\n{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		again, err := participant.DecodeWill(text)
		if err == nil && !bytes.Equal(again, text) {
			t.Errorf("%q is read as something that is written as %q", text, again)
		}
	})
}
