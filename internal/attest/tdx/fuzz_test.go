package tdx_test

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
	dirs, err := filepath.Glob("testdata/vectors/tdx/*")
	if err != nil || len(dirs) == 0 {
		f.Fatal(dirs, err)
	}
	verifier := newVerifier(f)
	real := map[[32]byte]*dcaptest.Vector{}
	for _, dir := range dirs {
		v := dcaptest.Load(f, dir, attest.TDX)
		if claims, err := verifier.Verify(f.Context(), v.Evidence, v.Binding, v.AtTime, nil); err == nil {
			real[claims.Signed] = v
		}
		f.Add(v.Evidence.Body, uint8(attest.KindEventLog), []byte{})
		for _, item := range v.Evidence.Collateral {
			f.Add(v.Evidence.Body, uint8(item.Kind), item.Bytes)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, kind uint8, collateral []byte) {
		var b attest.Binding
		at := dcaptest.Now
		for version, signed := range map[byte]int{4: 48 + 584, 5: 48 + 6 + 648} {
			if len(body) < signed || body[0] != version {
				continue
			}
			if v := real[sha256.Sum256(body[:signed])]; v != nil {
				at, b = v.AtTime, v.Binding
			}
		}
		e := attest.Evidence{Type: attest.TDX, Body: body, Collateral: attest.Collateral{{Kind: attest.Kind(kind), Bytes: collateral}}}
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

// FuzzEventLog replays logs of anybody's making: nothing panics, and only what leads to the quote's registers passes.
func FuzzEventLog(f *testing.F) {
	log, registers := table(both, events...)
	f.Add(log)
	short, _ := table(both, events[:3]...)
	f.Add(short)
	s := dcaptest.NewTDX()
	for i, r := range registers {
		copy(s.Body[328+48*i:], r[:])
	}
	s.Info, s.Identity, s.Lists, s.Signer = nil, nil, nil, nil
	quote, v := s.Quote(), newVerifier(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		e := attest.Evidence{Type: attest.TDX, Body: quote, Collateral: attest.Collateral{{Kind: attest.KindEventLog, Bytes: raw}}}
		claims, err := v.Verify(t.Context(), e, s.Binding, s.Now, nil)
		var refusal *attest.Error
		if err != nil && (!errors.As(err, &refusal) || refusal.Class != attest.ClassMeas) || err == nil && !claims.TDX.EventLog {
			t.Fatalf("Verify = %+v, %v", claims.TDX, err)
		}
	})
}
