package witness_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"consilium.dev/internal/witness"
)

func setOf(epoch uint64, quorum int, names ...string) witness.Set {
	return witness.Set{Epoch: epoch, Names: names, Quorum: quorum}
}

// words is a short text of some sets.
func words(sets []witness.Set) string {
	var all []string
	for _, s := range sets {
		all = append(all, fmt.Sprintf("%d: %d of %s", s.Epoch, s.Quorum, strings.Join(s.Names, " ")))
	}
	return strings.Join(all, "; ")
}

func TestParseSet(t *testing.T) {
	for text, want := range map[string]string{
		"2 of 3: a, b, c": "7: 2 of a b c",
		"1 of 1: a":       "7: 1 of a",
		"none: a test":    "7: 0 of ",
	} {
		got, err := witness.ParseSet(7, text)
		if err != nil || words([]witness.Set{got}) != want || got.Nobody() != (got.Quorum == 0) {
			t.Errorf("ParseSet(7, %q) = %v, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "none", "2 of 3", "2 of 2: a, b, c", "02 of 03: a, b, c", "1 of 2: a, b", "3 of 2: a, b", "2 of 2: a, a", "1 of 1: ", "x of 1: a", "2 of 3: a,b, c"} {
		if got, err := witness.ParseSet(7, text); err == nil {
			t.Errorf("ParseSet(7, %q) = %v, want an error", text, got)
		}
	}
}

// TestSets follows one log through changes of its witnesses, and asks of each of its heads who decides over it.
func TestSets(t *testing.T) {
	a, b := setOf(1, 2, "a", "b", "c"), setOf(3, 2, "b", "c", "d")
	var s witness.Sets
	if got := s.Deciding(9); got != nil || s.Free(9) != math.MaxInt64 || s.Changing() || s.Epoch(9) != 0 {
		t.Errorf("over an empty log decide %s", words(got))
	}
	adopt := func(line int64, epoch uint64, set witness.Set) {
		set.Epoch = epoch
		s.Adopt(line, set)
	}
	hand := func(line, size int64, ok bool) {
		t.Helper()
		if err := s.HandOver(line, size); (err == nil) != ok || err != nil && !errors.Is(err, witness.ErrHandover) {
			t.Errorf("at line %d, after a head of %d lines: %v", line, size, err)
		}
	}
	hand(1, 1, false) // nothing was adopted
	adopt(0, 1, a)
	hand(4, 4, false) // nothing has changed
	adopt(5, 2, a)    // the same again
	hand(6, 6, false)
	adopt(10, 3, b)
	for size, due := range map[int64]bool{10: false, 11: true} {
		if s.Due(size) != due {
			t.Errorf("a head of %d lines is due: %v", size, !due)
		}
	}
	hand(12, 10, false) // the head does not have line 10
	hand(12, 13, false) // nor is one that is to come
	hand(20, 15, true)
	hand(21, 21, false) // again
	adopt(30, 4, witness.Set{})
	hand(40, 31, true)
	adopt(50, 5, a)
	adopt(60, 6, b)
	adopt(70, 7, a) // and back, before anybody has handed over
	if !s.Changing() {
		t.Error("the set between does not have to hand over")
	}
	hand(81, 75, true)
	for _, c := range []struct {
		size  int64
		epoch uint64
		want  string
	}{
		{0, 0, ""},
		{1, 1, "1: 2 of a b c"},
		{10, 2, "1: 2 of a b c"},
		{11, 3, "1: 2 of a b c; 3: 2 of b c d"},
		{20, 3, "1: 2 of a b c; 3: 2 of b c d"},
		{21, 3, "3: 2 of b c d"},
		{31, 4, "3: 2 of b c d"},
		{40, 4, "3: 2 of b c d"},
		{41, 4, ""},
		{50, 4, ""},
		{51, 5, "5: 2 of a b c"},
		{61, 6, "5: 2 of a b c; 6: 2 of b c d"},
		{71, 7, "5: 2 of a b c; 6: 2 of b c d"},
		{82, 7, "7: 2 of a b c"},
	} {
		if got := words(s.Deciding(c.size)); got != c.want || s.Epoch(c.size) != c.epoch {
			t.Errorf("over %d lines, of epoch %d, decide %q, want epoch %d, %q", c.size, s.Epoch(c.size), got, c.epoch, c.want)
		}
	}
	if got := s.Free(82); got != 50 {
		t.Errorf("%d lines need nobody, want those of before witnesses were named again, 50", got)
	}
	then := s.Clone()
	then.Adopt(90, b)
	if s.Changing() || !then.Changing() {
		t.Error("a copy is none")
	}
}

// TestTallies: while two sets decide nothing is allowed that one of them does not allow.
func TestTallies(t *testing.T) {
	a, b := setOf(1, 2, "a", "b"), setOf(2, 2, "b", "c", "d")
	tallies := func(sets ...witness.Set) *witness.Tallies {
		all, err := witness.NewTallies(sets)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	cosign := func(all *witness.Tallies, h witness.Head, names string, want bool) {
		t.Helper()
		released := false
		for name := range strings.FieldsSeq(names) {
			released = all.Cosign(name, h) || released
		}
		if released != want {
			t.Errorf("cosigned by %s %d lines are released: %v, want %v", names, h.Size, released, want)
		}
	}
	show := func(all *witness.Tallies, names string, open bool) {
		t.Helper()
		for name := range strings.FieldsSeq(names) {
			if err := all.Show(name, witness.Head{}, 10, [32]byte{}); err != nil {
				t.Error(err)
			}
		}
		if all.Open() != open {
			t.Errorf("shown by %s it is open: %v, want %v", names, !open, open)
		}
	}
	h, next := witness.Head{Size: 10, Root: [32]byte{1}}, witness.Head{Size: 12, Root: [32]byte{2}}

	// A process that starts in the middle of a change.
	all := tallies(a, b)
	show(all, "b c d", false)
	if all.Propose(h) {
		t.Error("a ballot of a log that is not open")
	}
	if lacks := all.Lacks(); len(lacks) != 1 || !lacks[0].Set.Same(a) || lacks[0].There != 1 || lacks[0].Missing[0].Name != "a" {
		t.Errorf("before it is open it lacks %+v, want a, of epoch 1", lacks)
	}
	// Who has seen more meanwhile does not count any more, though the own set had its quorum once.
	if err := all.Show("c", witness.Head{Size: 11}, 10, [32]byte{}); err == nil {
		t.Error("a longer history is no conflict")
	}
	if err := all.Show("d", witness.Head{Size: 11}, 10, [32]byte{}); err == nil {
		t.Error("a longer history is no conflict")
	}
	show(all, "a", false)
	show(all, "c d", true)
	if !all.Propose(h) || all.Propose(next) {
		t.Error("no ballot, or two at once")
	}
	cosign(all, witness.Head{Size: 9, Root: [32]byte{9}}, "a b c d", false) // which nobody has proposed
	cosign(all, h, "b c d", false)
	if lacks := all.Lacks(); len(lacks) != 1 || lacks[0].Missing[0].Name != "a" {
		t.Errorf("then it lacks %+v", lacks)
	}
	cosign(all, h, "a", true)
	if got := strings.Join(all.Cosigners(h), " "); all.Released() != h || got != "a b c d" || len(all.Lacks()) > 0 {
		t.Errorf("released are %v by %s", all.Released(), got)
	}

	// The old ones hand over; then witnesses go, and others come, under a log that may go on growing.
	if err := all.Turn([]witness.Set{b}); err != nil {
		t.Fatal(err)
	}
	if err := all.Show("a", h, 10, h.Root); !errors.Is(err, witness.ErrNoWitness) {
		t.Errorf("one whose word does not count shows: %v", err)
	}
	if !all.Propose(next) {
		t.Error("no ballot for the new ones")
	}
	cosign(all, next, "c", false)
	if err := all.Turn([]witness.Set{b, a}); err != nil {
		t.Fatal(err)
	}
	cosign(all, next, "a b d", false) // the ballot of before is none
	more := witness.Head{Size: 13, Root: [32]byte{3}}
	if all.Released() != h || !all.Propose(more) {
		t.Errorf("released are %v", all.Released())
	}
	cosign(all, more, "a b c", true)

	if all.Turn([]witness.Set{setOf(3, 1, "a", "b")}) == nil {
		t.Error("half of the witnesses decide")
	}
	if err := all.Contradict("a", errors.New("other log")); err != nil || all.Lost() == nil {
		t.Errorf("one of two that are both needed keeps another log: %v, lost is %v", err, all.Lost())
	}

	nobody := tallies()
	if !nobody.Open() || nobody.Propose(h) || nobody.Cosign("a", h) || nobody.Lost() != nil {
		t.Error("nobody is waited for, or has a word")
	}
	again := tallies(b)
	for names, want := range map[string]bool{"": false, "a b": false, "b c": false, "a b c": true} {
		if got := witness.Decided([]witness.Set{a, b}, strings.Fields(names)); got != want {
			t.Errorf("decided by %q: %v", names, got)
		}
	}
	if witness.Decided(nil, []string{"a"}) || again.Restore(h, []witness.Set{a, b}, []string{"b", "c"}) || !again.Restore(h, []witness.Set{a, b}, []string{"a", "b", "c"}) ||
		again.Restore(h, []witness.Set{b}, []string{"b", "c"}) || again.Released() != h {
		t.Errorf("restored is %v", again.Released())
	}
	if names := all.Standings(); !slices.IsSortedFunc(names, func(a, b witness.Standing) int { return strings.Compare(a.Name, b.Name) }) || len(names) != 4 {
		t.Errorf("standings of %v", names)
	}
}
