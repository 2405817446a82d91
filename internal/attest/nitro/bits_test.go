package nitro_test

import (
	"encoding/json"
	"errors"
	"flag"
	"path/filepath"
	"slices"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/nitro"
)

// stride is how many bits TestEveryBit goes on after each. It has no factor in common with 8, so that every place in a byte
// has its turn.
var stride = flag.Int("stride", 101, "TestEveryBit flips every so manieth bit of a real document; 1: each, which takes minutes")

// dontCare are bits of a real document that may be either, each proven to change nothing of what is claimed. There is none:
// the payload is signed as it lies, and the envelope around it, the certificates in it included, has one form.
var dontCare []int

// TestEveryBit flips one bit at a time of a real document: none may pass.
func TestEveryBit(t *testing.T) {
	t.Parallel()
	if *stride < 1 {
		t.Fatalf("-stride %d: want 1 or more", *stride)
	}
	const dir = "testdata/vectors/nitro/dstack-nsm" // its maps are of indefinite length
	var v vector
	if err := json.Unmarshal(load(t, filepath.Join(dir, "vector.json")), &v); err != nil {
		t.Fatal(err)
	}
	raw := load(t, filepath.Join(dir, "document.cbor"))
	want := nitro.Fields{Nonce: unhex(t, v.Fields.Nonce), UserData: unhex(t, v.Fields.UserData), PublicKey: nitro.PublicKey(raw)}
	verifier := newVerifier(t, nil)
	if _, err := verifier.VerifyFields(raw, want, v.AtTime); err != nil {
		t.Fatal(err)
	}
	classes, flips := map[string]int{}, 0
	for bit := 0; bit < 8*len(raw); bit += *stride {
		altered := slices.Clone(raw)
		altered[bit/8] ^= 1 << (bit % 8)
		_, err := verifier.VerifyFields(altered, want, v.AtTime)
		var refusal *attest.Error
		switch {
		case errors.As(err, &refusal):
			classes[refusal.Class.String()]++
		case !slices.Contains(dontCare, bit):
			t.Errorf("bit %d of byte %#x flipped: VerifyFields = %v, want a refusal", bit%8, bit/8, err)
		}
		flips++
	}
	t.Logf("%d of %d bits flipped, refused with the classes %v; %d bits may be either", flips, 8*len(raw), classes, len(dontCare))
}
