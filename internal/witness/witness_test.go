package witness_test

import (
	"errors"
	"strings"
	"testing"

	"consilium.dev/internal/witness"
)

func TestJudge(t *testing.T) {
	log := history{}.with(t, "a", "b", "c", "d", "e", "f", "g")
	other := history{}.with(t, "a", "b", "c", "D", "e", "f", "g", "h")
	kept := log.at(t, 5)
	good := log.offer(t, 5)
	edit := func(change func(*witness.Offer)) witness.Offer {
		o := good
		o.Proof = append([][32]byte(nil), good.Proof...)
		change(&o)
		return o
	}
	for _, test := range []struct {
		name  string
		kept  witness.Head
		offer witness.Offer
		want  error // nil: cosigned
	}{
		{"an extension", kept, good, nil},
		{"the first head", witness.Head{}, log.offer(t, 0), nil},
		{"the same again", log.head(t), log.offer(t, 7), nil},
		{"one line more", log.at(t, 6), log.offer(t, 6), nil},
		{"no lines", witness.Head{}, witness.Offer{}, witness.ErrOffer},
		{"a negative size", witness.Head{}, edit(func(o *witness.Offer) { o.Old, o.Next.Size = 0, -1 }), witness.ErrOffer},
		{"a negative old size", witness.Head{}, edit(func(o *witness.Offer) { o.Old = -1 }), witness.ErrOffer},
		{"from beyond itself", kept, edit(func(o *witness.Offer) { o.Old = 8 }), witness.ErrOffer},
		{"a smaller one that it contains", log.head(t), edit(func(o *witness.Offer) { o.Old = 5; o.Next = log.at(t, 5); o.Proof = nil }), new(witness.StaleError)},
		{"from a size that was passed", log.at(t, 6), good, new(witness.StaleError)},
		{"from nothing, though something is kept", kept, log.offer(t, 0), new(witness.StaleError)},
		{"from something, though nothing is kept", witness.Head{}, good, new(witness.StaleError)},
		{"another history of the same length", log.head(t), other.with(t).offerAt(t, 7), witness.ErrFork},
		{"another history that is longer", kept, other.offer(t, 5), witness.ErrProof},
		{"another root", kept, edit(func(o *witness.Offer) { o.Next.Root[0] ^= 1 }), witness.ErrProof},
		{"a hash of the proof altered", kept, edit(func(o *witness.Offer) { o.Proof[1][31] ^= 1 }), witness.ErrProof},
		{"a hash too few", kept, edit(func(o *witness.Offer) { o.Proof = o.Proof[1:] }), witness.ErrProof},
		{"a hash too many", kept, edit(func(o *witness.Offer) { o.Proof = append(o.Proof, [32]byte{}) }), witness.ErrProof},
		{"no proof", kept, edit(func(o *witness.Offer) { o.Proof = nil }), witness.ErrProof},
		{"a proof of the first head", witness.Head{}, edit(func(o *witness.Offer) { o.Old = 0 }), witness.ErrProof},
		{"a proof of the same head", log.head(t), edit(func(o *witness.Offer) { o.Old = 7 }), witness.ErrProof},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := witness.Judge(test.kept, test.offer)
			var stale *witness.StaleError
			switch {
			case test.want == nil:
				if err != nil || got != test.offer.Next {
					t.Errorf("Judge = %v, %v; want it cosigned", got.Size, err)
				}
				return
			case got != test.kept:
				t.Errorf("a refusal made the witness keep %d lines, it had %d", got.Size, test.kept.Size)
			case errors.As(test.want, &stale):
				if !errors.As(err, &stale) || stale.Kept != test.kept || stale.Old != test.offer.Old {
					t.Errorf("Judge = %v, want that it has seen %d lines", err, test.kept.Size)
				}
				return
			}
			if !errors.Is(err, test.want) {
				t.Errorf("Judge = %v, want %v", err, test.want)
			}
		})
	}
}

// offerAt asks to cosign the first lines of the log, for a witness that has seen so many.
func (h history) offerAt(t testing.TB, size int64) witness.Offer {
	return witness.Offer{Old: size, Next: h.at(t, size)}
}

func TestErrors(t *testing.T) {
	back := &witness.ConflictError{Witness: "longbeach", Seen: 120, Size: 90}
	for _, want := range []string{"rolled back", "longbeach has seen 120 lines", "this log has 90", "restore a newer copy"} {
		if !strings.Contains(back.Error(), want) {
			t.Errorf("%q does not say %q", back, want)
		}
	}
	fork := &witness.ConflictError{Witness: "longbeach", Seen: 90, Size: 120}
	for _, want := range []string{"longbeach has seen another history of 90 lines", "this log has 120", "restore the copy"} {
		if !strings.Contains(fork.Error(), want) {
			t.Errorf("%q does not say %q", fork, want)
		}
	}
	stale := &witness.StaleError{Old: 3, Kept: witness.Head{Size: 5}}
	if got, want := stale.Error(), "the offer goes on from 3 lines, and this witness has seen 5"; got != want {
		t.Errorf("StaleError says %q, want %q", got, want)
	}
}
