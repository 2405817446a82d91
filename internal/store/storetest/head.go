package storetest

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"consilium.dev/internal/store"
)

func checkHead(t testing.TB, h store.Head, version uint64, value string) {
	t.Helper()
	v, got, err := h.Load(t.Context())
	if err != nil || v != version || string(got) != value {
		t.Errorf("Load() = %d, %q, %v, want %d, %q", v, got, err, version, value)
	}
}

func testSwap(t *testing.T, h store.Head) {
	if v, value, err := h.Load(t.Context()); v != 0 || value != nil || !errors.Is(err, store.ErrNotExist) {
		t.Errorf("Load before the first swap = %d, %q, %v, want 0, nil, ErrNotExist", v, value, err)
	}
	for i := range uint64(12) {
		value := []byte("value " + strconv.FormatUint(i+1, 10))
		if err := h.Swap(t.Context(), i, value); err != nil {
			t.Fatalf("Swap(%d) = %v", i, err)
		}
		want := string(value)
		value[0] = 'x' // the caller's slice is the caller's
		checkHead(t, h, i+1, want)
	}
}

func testStaleSwap(t *testing.T, h store.Head) {
	if err := h.Swap(t.Context(), 1, []byte("x")); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Swap(1) of no head = %v, want ErrConflict", err)
	}
	for i, value := range []string{"a", "b"} {
		if err := h.Swap(t.Context(), uint64(i), []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	for _, old := range []uint64{0, 1, 3, 1 << 60, 1<<64 - 1} {
		if err := h.Swap(t.Context(), old, []byte("x")); !errors.Is(err, store.ErrConflict) {
			t.Errorf("Swap(%d) at version 2 = %v, want ErrConflict", old, err)
		}
	}
	checkHead(t, h, 2, "b")
}

func testRaceForHead(t *testing.T, h store.Head) {
	for old := range uint64(3) {
		var won, lost atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				switch err := h.Swap(t.Context(), old, []byte("x")); {
				case err == nil:
					won.Add(1)
				case errors.Is(err, store.ErrConflict):
					lost.Add(1)
				default:
					t.Errorf("Swap = %v", err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 || lost.Load() != 7 {
			t.Errorf("%d of 8 won and %d lost, want 1 and 7", won.Load(), lost.Load())
		}
		checkHead(t, h, old+1, "x")
	}
}

func testHeadLimit(t *testing.T, h store.Head) {
	large := bytes.Repeat([]byte("x"), 64<<10)
	if err := h.Swap(t.Context(), 0, append(large, 'x')); err == nil {
		t.Error("a head of 64 KiB and a byte was taken")
	}
	if err := h.Swap(t.Context(), 0, large); err != nil {
		t.Errorf("a head of 64 KiB: %v", err)
	}
	checkHead(t, h, 1, string(large))
}

func testEndedHead(t *testing.T, h store.Head) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Swap(ctx, 0, []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("Swap = %v, want context.Canceled", err)
	}
	if _, _, err := h.Load(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Load = %v, want context.Canceled", err)
	}
}
