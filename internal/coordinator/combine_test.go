package coordinator_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/round"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/dir"
	"consilium.dev/internal/store/storetest"
)

// bigLen is the length of a model that goes through a combination in more than two blocks.
const bigLen = 1<<16 + 1<<15 + 77

// workbench is a base model and updates to combine with it, and where the blobs go.
type workbench struct {
	t     testing.TB
	blobs *blob.Blobs
	spec  aggregate.Spec
	base  *model.Model
	rule  string
}

func newWorkbench(t testing.TB, objects store.Objects, rule string, n int) *workbench {
	t.Helper()
	w := &workbench{t: t, blobs: blob.New(objects, unsealed{}), rule: rule}
	w.spec = aggregate.Spec{Ranges: []aggregate.Range{{Len: n, MaxAbs: 16}}, Weights: []int64{3, 5}}
	w.base = &model.Model{Layout: model.Layout{{Name: "a", Shape: []int{n - 5}}, {Name: "b", Shape: []int{5}}}, Params: series(n, 1)}
	return w
}

// unsealed seals nothing: what is sealed is another test's.
type unsealed struct{}

func (unsealed) Seal(plaintext, _ []byte) ([]byte, error) { return plaintext, nil }
func (unsealed) Open(sealed, _ []byte) ([]byte, error)    { return sealed, nil }

// series returns n values that look like chance and come from whole numbers.
func series(n, seed int) []float32 {
	out, x := make([]float32, n), uint64(seed)
	for i := range out {
		x = x*6364136223846793005 + 1442695040888963407
		out[i] = float32(int32(x>>40)-1<<23) * 0x1p-21
	}
	return out
}

// sum returns the sum of two updates of a round.
func (w *workbench) sum(round int) *aggregate.Sum {
	w.t.Helper()
	sum, err := aggregate.NewSum(w.spec)
	if err != nil {
		w.t.Fatal(err)
	}
	for i, weight := range w.spec.Weights {
		sum.AddWeight(float64(weight))
		sum.Add(0, series(w.spec.Len(), 2*round+i), float64(weight))
	}
	return sum
}

// put stores a blob and returns its name.
func (w *workbench) put(text []byte) *entry.Blob {
	w.t.Helper()
	ref, err := w.blobs.Put(w.t.Context(), bytes.NewReader(text))
	if err != nil {
		w.t.Fatal(err)
	}
	return &ref
}

func fileOf(t testing.TB, m *model.Model) []byte {
	t.Helper()
	var text bytes.Buffer
	if err := m.Write(&text); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

func (w *workbench) combine(ctx context.Context, r int, base, state *entry.Blob, sum *aggregate.Sum) (round.Combined, error) {
	a := training(w.t, w.rule, base, state, w.spec.Weights)
	a.Round = r
	return coordinator.Combine(ctx, w.blobs, a, w.spec, sum)
}

// training asks for a model of the members that have these weights.
func training(t testing.TB, rule string, base, state *entry.Blob, weights []int64) round.Combine {
	p := plan(t, bare)
	p.Strategy = entry.Strategy{Name: rule}
	a := round.Combine{Kind: entry.Training, Round: 1, Base: base, State: state, Plan: p}
	for i, weight := range weights {
		a.Members = append(a.Members, entry.Contribution{Member: entry.Member(fmt.Sprintf("m%d", i)), Weight: weight})
	}
	return a
}

// TestCombineBlocks holds three rounds that are combined block by block to the bytes of one step over the whole model, for models
// and states, at lengths around a block.
func TestCombineBlocks(t *testing.T) {
	for _, rule := range []string{"fedavg", "fedavgm", "fedadam"} {
		for _, n := range []int{6, 1<<15 - 1, 1 << 15, 1<<15 + 1, bigLen} {
			t.Run(fmt.Sprint(rule, " ", n), func(t *testing.T) {
				w := newWorkbench(t, storetest.New(), rule, n)
				strategy, err := aggregate.NewStrategy(rule, nil)
				if err != nil {
					t.Fatal(err)
				}
				base, want, state := w.put(fileOf(t, w.base)), w.base, make([]float64, strategy.Optimizer(1).StateLen(n))
				var kept *entry.Blob
				for r := range 3 {
					mean, sum := make([]float64, n), w.sum(r)
					sum.Mean(0, mean)
					o := strategy.Optimizer(r + 1)
					o.Step(want.Params, want.Params, mean, state)
					got, err := w.combine(t.Context(), r+1, base, kept, sum)
					if err != nil {
						t.Fatal(err)
					}
					if d := entry.Digest(want.Digest()); got.Model != d || got.Blob.Plain != d || got.Blob.Size != want.Size() {
						t.Fatalf("round %d: model %s of %d bytes, want %s of %d", r, got.Model, got.Blob.Size, d, want.Size())
					}
					base, kept = &got.Blob, got.State
					if rule == "fedavg" {
						if kept != nil {
							t.Fatalf("round %d: a state of %d bytes, FedAvg has none", r, kept.Size)
						}
						continue
					}
					text := fmt.Appendf(nil, "consilium.optimiser/1 %s %d\n", rule, len(state))
					for _, v := range state {
						text = binary.LittleEndian.AppendUint64(text, math.Float64bits(v))
					}
					if kept == nil || kept.Plain != entry.Digest(sha256.Sum256(text)) {
						t.Fatalf("round %d: another state than the whole step leaves", r)
					}
				}
			})
		}
	}
}

// TestCombineFaults has the storage fail at each call, before and after it has done its work, and gives a combination what was
// altered: it ends with an error, nothing hangs, and nothing is named.
func TestCombineFaults(t *testing.T) {
	for _, effect := range []storetest.Effect{storetest.Before, storetest.After} {
		for n := 1; ; n++ {
			disk := storetest.New()
			w := newWorkbench(t, disk, "fedadam", bigLen)
			base, state := w.put(fileOf(t, w.base)), w.put(fmt.Appendf(nil, "consilium.optimiser/1 fedadam %d\n%s", 2*bigLen, make([]byte, 16*bigLen)))
			sum, calls := w.sum(1), 0
			disk.FailAt(n, effect)
			synctest.Test(t, func(t *testing.T) {
				in, err := w.combine(t.Context(), 1, base, state, sum)
				calls = disk.Calls()
				if err == nil && calls >= n || err != nil && !errors.Is(err, storetest.ErrFault) {
					t.Errorf("call %d fails %v: %v, %v", n, effect, in, err)
				}
			})
			if calls < n {
				if calls != 4 {
					t.Errorf("a combination makes %d calls of its storage, want 4: two blobs read, two stored", calls)
				}
				break
			}
		}
	}
	w := newWorkbench(t, storetest.New(), "fedadam", bigLen)
	good := fileOf(t, w.base)
	nan := bytes.Clone(good)
	binary.LittleEndian.PutUint32(nan[len(nan)-4:], 0x7fc00000)
	head := fmt.Sprintf("consilium.optimiser/1 fedadam %d\n", 2*bigLen)
	whole := append([]byte(head), make([]byte, 16*bigLen)...)
	huge := bytes.Clone(whole)
	binary.LittleEndian.PutUint64(huge[len(head):], math.Float64bits(1e300)) // m of the first value
	for _, c := range []struct {
		name        string
		base, state []byte
		want        string
	}{
		{"base cut", good[:len(good)-1], whole, "reading the base model"},
		{"base too long", append(bytes.Clone(good), 0), whole, "goes on behind its last tensor"},
		{"base of another length", fileOf(t, &model.Model{Layout: model.Layout{{Name: "a", Shape: []int{7}}}, Params: make([]float32, 7)}), whole, "base model has 7 parameters, the sum"},
		{"base not finite", nan, whole, "not finite"},
		{"base no model", []byte("nothing"), whole, "model file"},
		{"state of another rule", good, append([]byte(strings.Replace(head, "adam", "yogi", 1)), whole[len(head):]...), "state is not that of fedadam"},
		{"state cut", good, whole[:len(whole)-8], "state is not that of fedadam"},
		{"state too long", good, append(bytes.Clone(whole), 0), "state is not that of fedadam"},
		{"state empty", good, []byte{}, "state is not that of fedadam"},
		{"next not finite", good, huge, `value 0 of tensor "a" is not finite`},
	} {
		t.Run(c.name, func(t *testing.T) {
			base, state := w.put(c.base), w.put(c.state)
			synctest.Test(t, func(t *testing.T) {
				w := *w
				in, err := w.combine(t.Context(), 1, base, state, w.sum(1))
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("combine = %v, %v, want an error with %q", in, err, c.want)
				}
			})
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		base, state := w.put(good), w.put(whole)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if in, err := w.combine(ctx, 1, base, state, w.sum(1)); !errors.Is(err, context.Canceled) {
			t.Errorf("combine = %v, %v, want %v", in, err, context.Canceled)
		}
	})
}

// TestCombineMemory: what a combination takes beside its sum does not grow with the model.
func TestCombineMemory(t *testing.T) {
	took := func(n int) uint64 {
		disk, err := dir.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer disk.Close()
		w := newWorkbench(t, disk, "fedadam", n)
		base, sum := w.put(fileOf(t, w.base)), w.sum(1)
		state, err := w.blobs.Put(t.Context(), io.MultiReader(strings.NewReader(fmt.Sprintf("consilium.optimiser/1 fedadam %d\n", 2*n)),
			io.LimitReader(zeros{}, int64(16*n))))
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := w.combine(t.Context(), 1, base, &state, sum); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	const n, most = 1 << 20, 24 << 20
	if got := took(n); got > most {
		t.Errorf("a model of %d MiB with a state of %d took %d bytes, want at most %d", n>>18, n>>16, got, most)
	}
	if a, b := took(n), took(2*n); b > a+a/4 {
		t.Errorf("a model twice as long took %d bytes where %d were taken before", b, a)
	}
}

// zeros is a source of zeros.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
