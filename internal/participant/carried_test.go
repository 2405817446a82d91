package participant_test

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
	"consilium.dev/internal/trainer"
)

var (
	updateOne, updateTwo = entry.Digest{1}, entry.Digest{2}
	variate              = trainer.Carried{Control: []float64{0, -1.5, math.SmallestNonzeroFloat64, 1 + 0x1p-52}}
	unsent               = trainer.Carried{Unsent: []float32{0, -1.5, math.SmallestNonzeroFloat32, 1 + 0x1p-23}}
	nothing              trainer.Carried
)

func openCarried(t testing.TB, disk store.Objects) participant.Carried {
	t.Helper()
	c, err := participant.OpenCarried(t.Context(), disk, newSealer(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// held returns the names of what a disk holds.
func held(t testing.TB, disk *storetest.Memory) (all []string) {
	t.Helper()
	for name, err := range disk.List(t.Context(), "carried/") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, name)
	}
	return all
}

// TestCarried: what holds is what goes with the update that is part of a closed round, to the bit, also for the next process; whatever else
// was kept of the run goes, and nothing of other runs.
func TestCarried(t *testing.T) {
	disk := storetest.New()
	c := openCarried(t, disk)
	if own, err := c.Settle(t.Context(), runA, entry.Digest{}); !cmp.Equal(own, nothing) || err != nil {
		t.Errorf("before the first update: %v, %v, want none", own, err)
	}
	for update, own := range map[entry.Digest]trainer.Carried{updateOne: variate, updateTwo: {Control: []float64{7}}} {
		if err := c.Put(t.Context(), runA, update, own); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Put(t.Context(), runB, updateTwo, unsent); err != nil {
		t.Fatal(err)
	}
	c = openCarried(t, disk)
	for range 2 { // it can be asked again
		if own, err := c.Settle(t.Context(), runA, updateOne); !cmp.Equal(own, variate) || err != nil {
			t.Errorf("%v, %v, want %v", own, err, variate)
		}
	}
	want := []string{"carried/" + runA + "/" + updateOne.String(), "carried/" + runB + "/" + updateTwo.String()}
	if got := held(t, disk); !slices.Equal(got, want) {
		t.Errorf("the disk holds %q, want %q", got, want)
	}
	if own, err := c.Settle(t.Context(), runA, updateTwo); !cmp.Equal(own, nothing) || !errors.Is(err, participant.ErrNotOurs) || !strings.Contains(err.Error(), "lost here") {
		t.Errorf("of an update that is not kept: %v, %v, want that it is lost", own, err)
	}
	if own, err := c.Settle(t.Context(), runB, updateTwo); !cmp.Equal(own, unsent) || err != nil {
		t.Errorf("%v, %v, want %v", own, err, unsent)
	}
	if err := c.Forget(t.Context(), map[string]int{runA: 3}); err != nil {
		t.Fatal(err)
	}
	if got := held(t, disk); !slices.Equal(got, want[:1]) {
		t.Errorf("once run %s has ended the disk holds %q, want %q", runB, got, want[:1])
	}
	// A round was closed and none of ours is part of any: what was kept for it is not of use.
	if own, err := c.Settle(t.Context(), runA, entry.Digest{}); !cmp.Equal(own, nothing) || err != nil || len(held(t, disk)) > 0 {
		t.Errorf("with no update in a closed round: %v, %v, and the disk holds %q", own, err, held(t, disk))
	}
}

// TestCarriedUnderMasks: an update has another name in each try, as its masks are others, and what is carried on with it goes by the newest: a
// round that fails for ever fills no disk. What goes with the update of the round before stays.
func TestCarriedUnderMasks(t *testing.T) {
	disk := storetest.New()
	c := openCarried(t, disk)
	kept := errors.Join(c.Put(t.Context(), runA, updateOne, unsent), c.Put(t.Context(), runA, updateTwo, variate))
	for try := range byte(5) {
		kept = errors.Join(kept, c.Alias(t.Context(), runA, updateTwo, entry.Digest{9, try}, updateOne))
	}
	if names := held(t, disk); kept != nil || len(names) != 3 {
		t.Errorf("after five tries the disk holds %v, %v; want the round before, the update, and its newest name", names, kept)
	}
	if own, err := openCarried(t, disk).Settle(t.Context(), runA, entry.Digest{9, 4}); !cmp.Equal(own, variate) || err != nil {
		t.Errorf("by the newest name: %v, %v, want %v", own, err, variate)
	}
}

// TestCarriedFail: a disk that fails is said to, and what is on it that is none of ours too.
func TestCarriedFail(t *testing.T) {
	disk := storetest.New()
	c := openCarried(t, disk)
	if err := c.Put(t.Context(), runA, updateOne, variate); err != nil {
		t.Fatal(err)
	}
	disk.FailFrom(1, storetest.Before)
	for what, err := range map[string]error{
		"settle": second(c.Settle(t.Context(), runA, updateOne)), "drop": second(c.Settle(t.Context(), runA, entry.Digest{})),
		"put": c.Put(t.Context(), runA, updateTwo, variate), "forget": c.Forget(t.Context(), nil),
		"open": second(participant.OpenCarried(t.Context(), disk, newSealer(t, 1))),
	} {
		if !participant.IsBroken(err) {
			t.Errorf("%s: %v, want that the disk is broken", what, err)
		}
	}
	disk.Heal()
	if _, err := openCarried(t, disk).Settle(t.Context(), runA, updateOne); err != nil {
		t.Error(err)
	}
	if _, err := participant.OpenCarried(t.Context(), disk, newSealer(t, 2)); err != nil {
		t.Error(err)
	}
	other, err := participant.OpenCarried(t.Context(), disk, newSealer(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Settle(t.Context(), runA, updateOne); !participant.IsBroken(err) || !strings.Contains(err.Error(), "put it back from a copy, or remove it") {
		t.Errorf("under another key: %v, want what to do", err)
	}
	for _, name := range []string{"carried/" + runA + "/1", "carried/x/" + updateOne.String(), "carried/" + strings.ToUpper(runA) + "/" + updateOne.String()} {
		disk := storetest.New()
		if err := disk.Put(t.Context(), store.Named(name), strings.NewReader("")); err != nil {
			t.Fatal(err)
		}
		if _, err := participant.OpenCarried(t.Context(), disk, newSealer(t, 1)); !participant.IsBroken(err) || !strings.Contains(err.Error(), name) {
			t.Errorf("with %s: %v, want that it is none of ours", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// FuzzDecodeCarried: what is read is what is written, and nothing else is read.
func FuzzDecodeCarried(f *testing.F) {
	f.Add([]byte("consilium.control/1\n\x00\x00\x00\x00\x00\x00\xf0\x3f"))
	f.Add([]byte("consilium.control/1\n"))
	f.Add([]byte("consilium.unsent/1\n\x00\x00\x80\x3f"))
	f.Add([]byte("consilium.unsent/1\n"))
	f.Add([]byte("consilium.control/1\n\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		again, err := participant.DecodeCarried(text)
		if err == nil && !bytes.Equal(again, text) {
			t.Errorf("%q was read and becomes %q", text, again)
		}
	})
}
