package coordinator_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/store/dir"
)

// forgetPeak has the system forget how much memory this process has had at most, see proc_pid_clear_refs(5).
func forgetPeak(t testing.TB) {
	t.Helper()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
}

// peak returns how much memory this process has had at most since then, in bytes, see proc_pid_status(5).
func peak(t testing.TB) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	if _, err := fmt.Sscanf(rest, "%d kB", &n); err != nil {
		t.Fatal(err)
	}
	return 1024 * n
}

// wholeRound has participants send updates of n values at the same time, to a coordinator that has memory for one of them: it receives,
// judges and adds them, then makes the next model with FedAdam, from a base and a state that a folder holds. It returns the most memory that
// the process had.
func wholeRound(t testing.TB, n, participants int) int64 {
	t.Helper()
	disk, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	blobs := blob.New(disk, unsealed{})
	put := func(write func(io.Writer) error) *entry.Blob {
		r, w := io.Pipe()
		var g errgroup.Group
		g.Go(func() error {
			err := write(w)
			w.CloseWithError(err)
			return err
		})
		ref, err := blobs.Put(t.Context(), r)
		if err := errors.Join(err, g.Wait()); err != nil {
			t.Fatal(err)
		}
		return &ref
	}
	base := put(func(w io.Writer) error {
		e, err := model.NewEncoder(w, model.Layout{{Name: "all", Shape: []int{n}}})
		block := make([]float32, 1<<16)
		for at := 0; err == nil && at < n; at += len(block) {
			err = e.Next(block[:min(len(block), n-at)])
		}
		return err
	})
	state := put(func(w io.Writer) error {
		_, err := io.Copy(w, io.MultiReader(strings.NewReader(fmt.Sprintf("consilium.optimiser/1 fedadam %d\n", 2*n)), io.LimitReader(zeros{}, 16*int64(n))))
		return err
	})
	chunk := make([]byte, codec.MaxChunk)
	for i := 0; i < len(chunk); i += 4 {
		binary.LittleEndian.PutUint32(chunk[i:], math.Float32bits(float32(i%1000)*0x1p-7))
	}
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: n, MaxAbs: 16}}, Weights: slices.Repeat([]int64{199}, participants)}

	forgetPeak(t)
	h := coordinator.NewHold(4*int64(n), time.Minute, participants)
	defer h.Close()
	r := h.Open(spec)
	var g errgroup.Group
	for i := range participants {
		g.Go(func() error {
			return h.Receive(t.Context(), r, entry.Member(fmt.Sprint("member ", i)), 199, func(at int64) []byte {
				return chunk[:min(int64(len(chunk)), 4*int64(n)-at)]
			})
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Combine(t.Context(), r, blobs, training(t, "fedadam", base, state, spec.Weights)); err != nil {
		t.Fatal(err)
	}
	return peak(t)
}

// bound is what a round may take: its sums, the uploads' budget, which is one update here, and 128 MiB for all else.
func bound(n int) int64 { return 8*int64(n) + 4*int64(n) + 128<<20 }

// TestPeak holds a whole round with FedAdam to its sums, one update, and less than half of what is said for all else. One before it makes
// what is made once, such as decoders, and what the race detector keeps of memory that was used.
func TestPeak(t *testing.T) {
	const n, participants, most = 2 << 20, 8, 12*2<<20 + 60<<20
	wholeRound(t, n, participants)
	forgetPeak(t)
	before := peak(t)
	if got := wholeRound(t, n, participants) - before; got > most || got < 8*n {
		t.Errorf("a round of %d participants and a model of %d MiB took %d MiB, want at most %d", participants, n>>18, got>>20, most>>20)
	}
	forgetPeak(t)
	if left := peak(t) - before; left > 8*n*3/4 {
		t.Errorf("%d MiB are left when the round is over", left>>20)
	}
}

func benchmarkPeak(b *testing.B, n, participants int) {
	var got int64
	for b.Loop() {
		got = max(got, wholeRound(b, n, participants))
	}
	b.ReportMetric(float64(got)/(1<<20), "MiB")
	b.ReportMetric(float64(got)/float64(8*n), "of-8P")
	b.ReportMetric(float64(got)/float64(bound(n)), "of-bound")
	b.ReportMetric(float64(got)/(4<<30), "of-4GiB")
}

// BenchmarkPeak takes the most memory of whole rounds with FedAdam over a model of 64 MiB, with memory for one update.
func BenchmarkPeak(b *testing.B) {
	for _, participants := range []int{2, 32} {
		b.Run(fmt.Sprintf("participants=%d", participants), func(b *testing.B) { benchmarkPeak(b, 16<<20, participants) })
	}
}

// BenchmarkPeakTable is BenchmarkPeak over models of several sizes, in MiB.
func BenchmarkPeakTable(b *testing.B) {
	for _, size := range []int{1, 16, 64, 256} {
		for _, participants := range []int{2, 8, 32} {
			b.Run(fmt.Sprintf("model=%d/participants=%d", size, participants), func(b *testing.B) { benchmarkPeak(b, size<<18, participants) })
		}
	}
}

// BenchmarkPeakLarge is BenchmarkPeak over a model of 1 GiB. It needs 12 GiB of disk.
func BenchmarkPeakLarge(b *testing.B) { benchmarkPeak(b, 256<<20, 32) }
