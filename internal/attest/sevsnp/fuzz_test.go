package sevsnp_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"consilium.dev/internal/attest"
)

// FuzzVerify judges reports with collateral of one kind by AMD's roots, seeded with real evidence: nothing panics, refusals
// have a class, and no report passes whose signed part is not one of the real ones'.
func FuzzVerify(f *testing.F) {
	reports, err := filepath.Glob("testdata/vectors/sevsnp/*/report.bin")
	if err != nil || len(reports) == 0 {
		f.Fatal(reports, err)
	}
	real := map[[32]byte]vector{}
	for _, path := range reports {
		dir := filepath.Dir(path)
		var v vector
		report, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		description, err := os.ReadFile(filepath.Join(dir, "vector.json"))
		if err != nil {
			f.Fatal(err)
		}
		if err := json.Unmarshal(description, &v); err != nil {
			f.Fatal(err)
		}
		if v.Expect != "reject" {
			real[sha256.Sum256(report[:0x2A0])] = v
		}
		for name, kind := range map[string]attest.Kind{
			"vcek.der": attest.KindCertificate, "vlek.der": attest.KindCertificate, "certtable.bin": attest.KindCertTable,
		} {
			if collateral, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				f.Add(report, uint8(kind), collateral)
			}
		}
	}
	v := newVerifier(f, nil)
	f.Fuzz(func(t *testing.T, body []byte, kind uint8, collateral []byte) {
		var b attest.Binding
		at := now
		if len(body) >= 0x2A0 {
			copy(b.ReportData[:], body[0x50:]) // whatever it is, it fits
			if known, ok := real[sha256.Sum256(body[:0x2A0])]; ok {
				at = known.AtTime
			}
		}
		e := attest.Evidence{Type: attest.SEVSNP, Body: body, Collateral: attest.Collateral{{Kind: attest.Kind(kind), Bytes: collateral}}}
		claims, err := v.Verify(t.Context(), e, b, at, nil)
		var refusal *attest.Error
		if err != nil {
			if !errors.As(err, &refusal) {
				t.Fatalf("Verify = %v, which has no class", err)
			}
			return
		}
		known, ok := real[claims.Signed]
		if !ok || claims.Signed != sha256.Sum256(body[:0x2A0]) || claims.Simulated != "" {
			t.Fatalf("Verify took a report that no chip of AMD's signed: %x", body)
		}
		if got := hex.EncodeToString(claims.SNP.ReportData[:]); got != known.Fields.ReportData {
			t.Errorf("REPORT_DATA is %s, want %s", got, known.Fields.ReportData)
		}
	})
}

// FuzzAltered writes a piece of anything over a well-signed report of these tests' own roots: what still passes is the report
// as it was signed.
func FuzzAltered(f *testing.F) {
	s := newScene()
	v, e := trusting(f), s.evidence()
	f.Add(uint16(0), []byte{5})
	f.Add(uint16(0x50), []byte{1, 2, 3})
	f.Add(uint16(0x2A0), []byte{0})
	f.Add(uint16(1183), []byte{1})
	f.Fuzz(func(t *testing.T, at uint16, piece []byte) {
		altered := e
		altered.Body = append([]byte(nil), e.Body...)
		copy(altered.Body[int(at)%len(altered.Body):], piece)
		claims, err := v.Verify(t.Context(), altered, s.binding, now, nil)
		if err == nil && (claims.Signed != sha256.Sum256(e.Body[:0x2A0]) || string(altered.Body[:0x2A0]) != string(e.Body[:0x2A0])) {
			t.Fatalf("Verify took a report that was altered at %#x by %x", at, piece)
		}
	})
}

// FuzzTable reads certificate tables of anybody's making: nothing panics, and only a table whose VCEK is the report's passes.
func FuzzTable(f *testing.F) {
	s := newScene()
	s.leafless = true
	v, e := trusting(f), s.evidence()
	table := certTable(s.leafDER())
	f.Add(table)
	f.Add(certTable(nil))
	f.Add(tableEntry(guidVCEK, 24, 0xFFFFFFFF))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e := e
		e.Collateral = attest.Collateral{{Kind: attest.KindCertTable, Bytes: raw}}
		claims, err := v.Verify(t.Context(), e, s.binding, now, nil)
		if err == nil && (claims.Simulated != "genoa" || claims.SNP.SigningKey != "vcek") {
			t.Fatalf("Verify = %+v", claims)
		}
		var refusal *attest.Error
		if err != nil && !errors.As(err, &refusal) {
			t.Fatalf("Verify = %v, which has no class", err)
		}
	})
}
