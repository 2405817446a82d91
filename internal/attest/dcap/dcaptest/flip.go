package dcaptest

import (
	"slices"
	"testing"

	"consilium.dev/internal/attest"
)

// EveryBit flips each single bit of a real quote and prints how many there were. All must be refused: a quote has no bits that do
// not matter. No collateral is there, so that nothing but the quote's own signatures and form can refuse.
func EveryBit(t *testing.T, verifier attest.Verifier, v *Vector) {
	v.Evidence.Collateral = nil
	if _, err := verifier.Verify(t.Context(), v.Evidence, v.Binding, v.AtTime, nil); err != nil {
		t.Fatalf("the quote as it is: %v", err)
	}
	classes := map[string]int{}
	quote := slices.Clone(v.Evidence.Body)
	v.Evidence.Body = quote
	for bit := range 8 * len(quote) {
		quote[bit/8] ^= 1 << (bit % 8)
		_, err := verifier.Verify(t.Context(), v.Evidence, v.Binding, v.AtTime, nil)
		if refusal, ok := err.(*attest.Error); ok {
			classes[refusal.Class.String()]++
		} else {
			t.Errorf("bit %d of byte %#x: Verify = %v, want a refusal", bit%8, bit/8, err)
		}
		quote[bit/8] ^= 1 << (bit % 8)
	}
	t.Logf("%d single bits flipped, by class of refusal: %v", 8*len(quote), classes)
}
