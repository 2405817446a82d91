package sgx_test

import (
	"crypto/sha256"
	"errors"
	"path/filepath"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap/dcaptest"
)

// FuzzVerify judges quotes with collateral of one kind by Intel's root, seeded with real evidence: nothing panics, refusals have a
// class, and no quote passes whose signed part is not one of the real ones'.
func FuzzVerify(f *testing.F) {
	dirs, err := filepath.Glob("testdata/vectors/sgx/*")
	if err != nil || len(dirs) == 0 {
		f.Fatal(dirs, err)
	}
	verifier := newVerifier(f)
	real := map[[32]byte]*dcaptest.Vector{}
	for _, dir := range dirs {
		v := dcaptest.Load(f, dir, attest.SGX)
		if claims, err := verifier.Verify(f.Context(), v.Evidence, v.Binding, v.AtTime, nil); err == nil {
			real[claims.Signed] = v
		}
		f.Add(v.Evidence.Body, uint8(attest.KindToken), []byte{})
		for _, item := range v.Evidence.Collateral {
			f.Add(v.Evidence.Body, uint8(item.Kind), item.Bytes)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, kind uint8, collateral []byte) {
		var b attest.Binding
		at := dcaptest.Now
		if signed := 48 + 384; len(body) >= signed {
			if v := real[sha256.Sum256(body[:signed])]; v != nil {
				at, b = v.AtTime, v.Binding
			}
		}
		e := attest.Evidence{Type: attest.SGX, Body: body, Collateral: attest.Collateral{{Kind: attest.Kind(kind), Bytes: collateral}}}
		claims, err := verifier.Verify(t.Context(), e, b, at, nil)
		var refusal *attest.Error
		if err != nil && !errors.As(err, &refusal) {
			t.Fatalf("Verify = %v, which has no class", err)
		}
		if err == nil && (real[claims.Signed] == nil || claims.Simulated != "") {
			t.Fatalf("Verify took a quote that no platform of Intel's signed: %x", body)
		}
	})
}
