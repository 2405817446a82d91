package storetest_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(testing.TB) (store.Objects, store.Head) {
		m := storetest.New()
		return m, m
	})
}

// TestFaults checks that a call fails on the right side of its effect.
func TestFaults(t *testing.T) {
	for _, effect := range []storetest.Effect{storetest.Before, storetest.After} {
		t.Run(effect.String(), func(t *testing.T) {
			done := effect == storetest.After
			m, ctx := storetest.New(), t.Context()
			put := func(name string) error { return m.Put(ctx, store.Named(name), strings.NewReader("value")) }
			m.FailAt(2, effect)
			for i, name := range []string{"a", "b", "c"} {
				if err := put(name); errors.Is(err, storetest.ErrFault) != (i == 1) {
					t.Errorf("Put %d = %v", i, err)
				}
			}
			if err := put("b"); errors.Is(err, store.ErrExist) != done {
				t.Errorf("Put again = %v", err)
			}
			m.FailAt(1, effect)
			if err := m.Swap(ctx, 0, []byte("x")); !errors.Is(err, storetest.ErrFault) {
				t.Errorf("Swap = %v, want ErrFault", err)
			}
			if _, _, err := m.Load(ctx); (err == nil) != done {
				t.Errorf("Load = %v", err)
			}
			m.FailAt(1, effect)
			if err := m.Delete(ctx, "c"); !errors.Is(err, storetest.ErrFault) {
				t.Errorf("Delete = %v, want ErrFault", err)
			}
			if _, err := m.Get(ctx, "c"); errors.Is(err, store.ErrNotExist) != done {
				t.Errorf("Get = %v", err)
			}
		})
	}
}

func TestTornGet(t *testing.T) {
	m := storetest.New()
	if err := m.Put(t.Context(), store.Named("a"), strings.NewReader("abcd")); err != nil {
		t.Fatal(err)
	}
	m.FailAt(1, storetest.After)
	r, err := m.Get(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); string(got) != "ab" || !errors.Is(err, storetest.ErrFault) {
		t.Errorf("read %q, %v, want half of it and ErrFault", got, err)
	}
}

func TestFailFrom(t *testing.T) {
	m := storetest.New()
	m.FailFrom(2, storetest.After)
	for i, name := range []string{"a", "b", "c", "d"} {
		err := m.Put(t.Context(), store.Named(name), strings.NewReader("value"))
		if errors.Is(err, storetest.ErrFault) != (i > 0) {
			t.Errorf("Put %d = %v", i, err)
		}
	}
	if n := m.Calls(); n != 4 {
		t.Errorf("Calls() = %d, want 4", n)
	}
	m.Heal()
	var names []string
	for name, err := range m.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if got := strings.Join(names, " "); got != "a b" {
		t.Errorf("objects %q, want those of the calls up to the one that failed", got)
	}
}
