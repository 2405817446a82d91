package participant_test

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
)

var (
	updateOne, updateTwo = entry.Digest{1}, entry.Digest{2}
	variate              = []float64{0, -1.5, math.SmallestNonzeroFloat64, 1 + 0x1p-52}
)

func openControls(t testing.TB, disk store.Objects) participant.Controls {
	t.Helper()
	c, err := participant.OpenControls(t.Context(), disk, newSealer(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// held returns the names of what a disk holds.
func held(t testing.TB, disk *storetest.Memory) (all []string) {
	t.Helper()
	for name, err := range disk.List(t.Context(), "control/") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, name)
	}
	return all
}

// TestControls: what holds is what goes with the update that is part of a closed round, to the bit, also for the next process; whatever else
// was kept of the run goes, and nothing of other runs.
func TestControls(t *testing.T) {
	disk := storetest.New()
	c := openControls(t, disk)
	if own, err := c.Settle(t.Context(), runA, entry.Digest{}); own != nil || err != nil {
		t.Errorf("before the first update: %v, %v, want none", own, err)
	}
	for update, own := range map[entry.Digest][]float64{updateOne: variate, updateTwo: {7}} {
		if err := c.Put(t.Context(), runA, update, own); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Put(t.Context(), runB, updateTwo, []float64{8}); err != nil {
		t.Fatal(err)
	}
	c = openControls(t, disk)
	for range 2 { // it can be asked again
		if own, err := c.Settle(t.Context(), runA, updateOne); !slices.Equal(own, variate) || err != nil {
			t.Errorf("%v, %v, want %v", own, err, variate)
		}
	}
	want := []string{"control/" + runA + "/" + updateOne.String(), "control/" + runB + "/" + updateTwo.String()}
	if got := held(t, disk); !slices.Equal(got, want) {
		t.Errorf("the disk holds %q, want %q", got, want)
	}
	if own, err := c.Settle(t.Context(), runA, updateTwo); own != nil || !errors.Is(err, participant.ErrNotOurs) || !strings.Contains(err.Error(), "lost here") {
		t.Errorf("of an update that is not kept: %v, %v, want that it is lost", own, err)
	}
	if err := c.Forget(t.Context(), map[string]int{runA: 3}); err != nil {
		t.Fatal(err)
	}
	if got := held(t, disk); !slices.Equal(got, want[:1]) {
		t.Errorf("once run %s has ended the disk holds %q, want %q", runB, got, want[:1])
	}
	// A round was closed and none of ours is part of any: what was kept for it is not of use.
	if own, err := c.Settle(t.Context(), runA, entry.Digest{}); own != nil || err != nil || len(held(t, disk)) > 0 {
		t.Errorf("with no update in a closed round: %v, %v, and the disk holds %q", own, err, held(t, disk))
	}
}

// TestControlsFail: a disk that fails is said to, and what is on it that is none of ours too.
func TestControlsFail(t *testing.T) {
	disk := storetest.New()
	c := openControls(t, disk)
	if err := c.Put(t.Context(), runA, updateOne, variate); err != nil {
		t.Fatal(err)
	}
	disk.FailFrom(1, storetest.Before)
	for what, err := range map[string]error{
		"settle": second(c.Settle(t.Context(), runA, updateOne)), "drop": second(c.Settle(t.Context(), runA, entry.Digest{})),
		"put": c.Put(t.Context(), runA, updateTwo, variate), "forget": c.Forget(t.Context(), nil),
		"open": second(participant.OpenControls(t.Context(), disk, newSealer(t, 1))),
	} {
		if !participant.IsBroken(err) {
			t.Errorf("%s: %v, want that the disk is broken", what, err)
		}
	}
	disk.Heal()
	if _, err := openControls(t, disk).Settle(t.Context(), runA, updateOne); err != nil {
		t.Error(err)
	}
	if _, err := participant.OpenControls(t.Context(), disk, newSealer(t, 2)); err != nil {
		t.Error(err)
	}
	other, err := participant.OpenControls(t.Context(), disk, newSealer(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Settle(t.Context(), runA, updateOne); !participant.IsBroken(err) || !strings.Contains(err.Error(), "put it back from a copy, or remove it") {
		t.Errorf("under another key: %v, want what to do", err)
	}
	for _, name := range []string{"control/" + runA + "/1", "control/x/" + updateOne.String(), "control/" + strings.ToUpper(runA) + "/" + updateOne.String()} {
		disk := storetest.New()
		if err := disk.Put(t.Context(), store.Named(name), strings.NewReader("")); err != nil {
			t.Fatal(err)
		}
		if _, err := participant.OpenControls(t.Context(), disk, newSealer(t, 1)); !participant.IsBroken(err) || !strings.Contains(err.Error(), name) {
			t.Errorf("with %s: %v, want that it is none of ours", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// FuzzDecodeControl: what is read is what is written, and nothing else is read.
func FuzzDecodeControl(f *testing.F) {
	f.Add([]byte("consilium.control/1\n\x00\x00\x00\x00\x00\x00\xf0\x3f"))
	f.Add([]byte("consilium.control/1\n"))
	f.Add([]byte("consilium.control/1\n\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		again, err := participant.DecodeControl(text)
		if err == nil && !bytes.Equal(again, text) {
			t.Errorf("%q was read and becomes %q", text, again)
		}
	})
}
