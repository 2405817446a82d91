package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"consilium.dev/internal/ledger"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
)

// batches are the commits of the fault tests: they begin a log, fill a bundle to one line, go past it, and fill two more.
func batches() [][][]byte {
	var all [][][]byte
	from := 0
	for _, n := range []int{1, 254, 3, 510, 2} {
		all = append(all, numbered(from, n))
		from += n
	}
	return all
}

// write appends the batches that the log does not have yet, in order, and tries each a second time on the same ledger after an
// error. It returns how many were acknowledged in all.
func write(ctx context.Context, l *ledger.Ledger, all [][][]byte) int {
	size, at := int64(0), 0
	for ; size < l.Size(); at++ {
		size += int64(len(all[at]))
	}
	for ; at < len(all); at++ {
		err := l.Append(ctx, all[at]...)
		if err != nil {
			err = l.Append(ctx, all[at]...)
		}
		if err != nil {
			break
		}
	}
	return at
}

// TestFaults fails each call in turn, before and after it took effect, once or from then on, and opens the log again.
// No line that was acknowledged is lost, none is there twice, none out of order.
func TestFaults(t *testing.T) {
	s, all := newSealer(t), batches()
	for _, effect := range []storetest.Effect{storetest.Before, storetest.After} {
		for what, plan := range map[string]func(*storetest.Memory, int, storetest.Effect){
			"once": (*storetest.Memory).FailAt, "from then on": (*storetest.Memory).FailFrom,
		} {
			t.Run(fmt.Sprint(what, " ", effect), func(t *testing.T) {
				t.Parallel()
				n := 1
				for ; ; n++ {
					m := storetest.New()
					plan(m, n, effect)
					acked := 0
					if l, err := boot(t.Context(), m, m, s); err == nil {
						acked = write(t.Context(), l, all)
					}
					reached := m.Calls() >= n
					m.Heal()
					l := open(t, m, s)
					checkBatches(t, l, all, acked, n)
					if got := write(t.Context(), l, all); got != len(all) {
						t.Fatalf("call %d: the log does not go on after batch %d", n, got)
					}
					check(t, open(t, m, s), m, s, slices.Concat(all...))
					names, staged := withoutStage(list(t, m))
					if !slices.Equal(names, layout(770)) || staged != 1 {
						t.Fatalf("call %d: %d staged commits, want 1; objects %q", n, staged, names)
					}
					if !reached {
						break
					}
				}
				if n < 45 {
					t.Errorf("only %d calls were made to fail", n)
				}
			})
		}
	}
}

// checkBatches checks that the log holds whole batches: those that were acknowledged, and at most the one that was not.
func checkBatches(t *testing.T, l *ledger.Ledger, all [][][]byte, acked, n int) {
	t.Helper()
	for extra := range 2 {
		if acked+extra > len(all) {
			continue
		}
		want := slices.Concat(all[:acked+extra]...)
		if l.Size() == int64(len(want)) {
			if !slices.Equal(read(t, l, 0), asStrings(want)) {
				t.Fatalf("call %d: the log holds other lines than were written", n)
			}
			return
		}
	}
	t.Fatalf("call %d: %d batches were acknowledged, the log has %d lines", n, acked, l.Size())
}

// TestPoisoned checks that nothing is appended after an unsure answer, and that the error says why.
func TestPoisoned(t *testing.T) {
	m, s := storetest.New(), newSealer(t)
	l := open(t, m, s)
	appendTo(t, l, numbered(0, 1))
	m.FailAt(2, storetest.After) // the swap
	for range 3 {
		if err := l.Append(t.Context(), []byte("x")); !errors.Is(err, storetest.ErrFault) {
			t.Errorf("Append = %v, want the fault", err)
		}
	}
	if n := m.Calls(); n != 2 {
		t.Errorf("%d calls were made, want none after the one that failed", n)
	}
	if got := open(t, m, s).Size(); got != 2 {
		t.Errorf("the log has %d lines, want the unsure one in it", got)
	}
}

// TestTwoLedgers has two coordinators at one storage.
func TestTwoLedgers(t *testing.T) {
	m, s := storetest.New(), newSealer(t)
	appendTo(t, open(t, m, s), numbered(0, 3))
	first, second := open(t, m, s), open(t, m, s)
	appendTo(t, first, numbered(3, 1))
	for range 2 {
		if err := second.Append(t.Context(), []byte("second")); !errors.Is(err, store.ErrConflict) {
			t.Errorf("Append of the second = %v, want ErrConflict", err)
		}
	}
	appendTo(t, first, numbered(4, 300))
	check(t, open(t, m, s), m, s, numbered(0, 304))
	if _, staged := withoutStage(list(t, m)); staged != 1 {
		t.Errorf("%d staged commits are left, want the newest only", staged)
	}
}

// TestManyLedgers has coordinators race, each taking over whenever it lost.
func TestManyLedgers(t *testing.T) {
	m, s := storetest.New(), newSealer(t)
	open(t, m, s)
	var wg sync.WaitGroup
	for writer := range 4 {
		wg.Go(func() {
			for i := 0; i < 10; {
				l, err := boot(t.Context(), m, m, s)
				if err != nil {
					continue // somebody committed while we were reading
				}
				for ; i < 10; i++ {
					err := l.Append(t.Context(), fmt.Appendf(nil, "%d %d", writer, i))
					if errors.Is(err, store.ErrConflict) {
						break
					}
					if err != nil {
						t.Errorf("Append = %v", err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	next := map[string]int{}
	for _, line := range read(t, open(t, m, s), 0) {
		writer, i, _ := strings.Cut(line, " ")
		if i != fmt.Sprint(next[writer]) {
			t.Errorf("writer %s: line %s comes after %d", writer, i, next[writer])
		}
		next[writer]++
	}
	for writer, n := range next {
		if n != 10 || len(next) != 4 {
			t.Errorf("writer %s of %d: %d lines are in the log, want 10", writer, len(next), n)
		}
	}
}

// sleeper is a storage on which a coordinator sleeps before one call, while others go on.
type sleeper struct {
	*storetest.Memory
	before string // "swap", or what the name begins with that is put or deleted
	others func()
}

func (s *sleeper) sleep(call string) {
	if s.others != nil && strings.HasPrefix(call, s.before) {
		f := s.others
		s.others = nil
		f()
	}
}

func (s *sleeper) Put(ctx context.Context, name func() string, r io.Reader) error {
	s.sleep(name())
	return s.Memory.Put(ctx, name, r)
}

func (s *sleeper) Delete(ctx context.Context, name string) error {
	s.sleep("delete " + name)
	return s.Memory.Delete(ctx, name)
}

func (s *sleeper) Swap(ctx context.Context, old uint64, value []byte) error {
	s.sleep("swap")
	return s.Memory.Swap(ctx, old, value)
}

// TestSleeper stops a coordinator in the middle of a commit, has others take the log over and write, and wakes it up.
func TestSleeper(t *testing.T) {
	sealer := newSealer(t)
	for _, before := range []string{"stage/", "swap", "tile/0/", "tile/entries/", "delete tile/", "delete stage/"} {
		for _, n := range []int{1, 300} {
			m := storetest.New()
			s := &sleeper{Memory: m, before: before}
			l, err := boot(t.Context(), s, s, sealer)
			if err != nil {
				t.Fatal(err)
			}
			appendTo(t, l, numbered(0, 5))
			var want [][]byte
			s.others = func() {
				for range 3 {
					other := open(t, m, sealer)
					appendTo(t, other, numbered(1000, n))
					appendTo(t, other, numbered(2000, n))
				}
				var all [][]byte
				for line := range open(t, m, sealer).Entries(t.Context(), 0) {
					all = append(all, bytes.Clone(line))
				}
				want = all
			}
			err = l.Append(t.Context(), numbered(5, 2)...)
			if committed := strings.HasPrefix(before, "tile") || strings.HasPrefix(before, "delete"); committed != (err == nil) {
				t.Errorf("sleeping before %s: Append = %v", before, err)
			} else if err != nil && !errors.Is(err, store.ErrConflict) {
				t.Errorf("sleeping before %s: Append = %v, want ErrConflict", before, err)
			}
			if len(want) == 0 {
				t.Fatalf("nobody slept before %s", before)
			}
			check(t, open(t, m, sealer), m, sealer, want)
			if err := l.Append(t.Context(), []byte("x")); !errors.Is(err, store.ErrConflict) {
				t.Errorf("after sleeping before %s: Append = %v, want ErrConflict", before, err)
			}
			check(t, open(t, m, sealer), m, sealer, want)
		}
	}
}
