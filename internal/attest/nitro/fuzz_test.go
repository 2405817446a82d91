package nitro_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/nitro"
)

// FuzzVerify: nobody's bytes panic, refusals have a class, and no document passes but those that were signed: one of these
// tests' pki, and real ones.
func FuzzVerify(f *testing.F) {
	s := newScene()
	good := s.evidence().Body
	f.Add(good)
	tagged := append([]byte{0xd2}, good...)
	f.Add(tagged)
	v := trusting(f)
	claims, err := v.Verify(f.Context(), attest.Evidence{Type: attest.Nitro, Body: good}, s.binding, now, nil)
	if err != nil {
		f.Fatal(err)
	}
	signed := map[[32]byte]bool{claims.Signed: true}
	instants := []time.Time{now}
	for _, name := range []string{"dstack-nsm", "evervault-debug", "evervault-prod"} {
		raw, err := os.ReadFile(filepath.Join("testdata/vectors/nitro", name, "document.cbor"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		made, digest, err := nitro.Made(raw)
		if err != nil {
			f.Fatal(err)
		}
		signed[digest], instants = true, append(instants, made)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for i, at := range instants {
			claims, err := v.Genuine(raw, at)
			var refusal *attest.Error
			switch {
			case err != nil && !errors.As(err, &refusal):
				t.Fatalf("Verify at %s: %v, which has no class", at, err)
			case err == nil && !signed[claims.Signed]:
				t.Fatalf("Verify at %s took a document that nobody signed: %x", at, raw)
			case err == nil && (claims.Simulated == "demo") != (i == 0):
				t.Fatalf("Verify at %s took a document for one of %q", at, claims.Simulated)
			}
		}
	})
}
