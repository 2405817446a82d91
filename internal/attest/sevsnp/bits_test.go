package sevsnp_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"slices"
	"testing"

	"consilium.dev/internal/attest"
)

// stride is how many bits TestEveryBit goes on after each. It has no factor in common with 8, so that every place in a byte
// has its turn.
var stride = flag.Int("stride", 7, "TestEveryBit flips every so manieth bit of a real report and its certificate; 1: each")

// dontCare are bits of real evidence that may be either, by file, each proven to change nothing of what is claimed. There is
// none: each bit of a report is signed, reserved, or part of the signature, and each of a certificate likewise.
var dontCare = map[string][]int{}

// TestEveryBit flips one bit at a time of a real report, and of the certificate that it came with: none may pass.
func TestEveryBit(t *testing.T) {
	t.Parallel()
	if *stride < 1 {
		t.Fatalf("-stride %d: want 1 or more", *stride)
	}
	const dir = "testdata/vectors/sevsnp/genoa-v5-oak"
	var v vector
	if err := json.Unmarshal(load(t, dir, "vector.json"), &v); err != nil {
		t.Fatal(err)
	}
	e := evidenceIn(t, dir, &v)
	var b attest.Binding
	if _, err := hex.Decode(b.ReportData[:], []byte(v.Fields.ReportData)); err != nil {
		t.Fatal(err)
	}
	verifier := newVerifier(t, nil)
	if _, err := verifier.Verify(t.Context(), e, b, v.AtTime, nil); err != nil {
		t.Fatal(err)
	}
	for _, file := range []struct {
		name string
		raw  []byte
		with func(altered []byte) attest.Evidence
	}{
		{"report", e.Body, func(altered []byte) attest.Evidence {
			return attest.Evidence{Type: e.Type, Body: altered, Collateral: e.Collateral}
		}},
		{"certificate", e.Collateral[0].Bytes, func(altered []byte) attest.Evidence {
			return attest.Evidence{Type: e.Type, Body: e.Body, Collateral: attest.Collateral{{Kind: attest.KindCertificate, Bytes: altered}}}
		}},
	} {
		classes, flips := map[string]int{}, 0
		for bit := 0; bit < 8*len(file.raw); bit += *stride {
			altered := slices.Clone(file.raw)
			altered[bit/8] ^= 1 << (bit % 8)
			_, err := verifier.Verify(t.Context(), file.with(altered), b, v.AtTime, nil)
			var refusal *attest.Error
			switch {
			case errors.As(err, &refusal):
				classes[refusal.Class.String()]++
			case !slices.Contains(dontCare[file.name], bit):
				t.Errorf("%s: bit %d of byte %#x flipped: Verify = %v, want a refusal", file.name, bit%8, bit/8, err)
			}
			flips++
		}
		t.Logf("%s: %d of %d bits flipped, refused with the classes %v; %d bits may be either", file.name, flips, 8*len(file.raw),
			classes, len(dontCare[file.name]))
	}
}
