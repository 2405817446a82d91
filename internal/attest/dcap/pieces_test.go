package dcap_test

import (
	"crypto/x509"
	"slices"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap"
	"consilium.dev/internal/attest/dcap/dcaptest"
)

// TestExaminesOnce: certificates that are no issuers are found out once, and not for each document that they could have signed. What a
// document costs is counted in allocations: checking the signature of a certificate makes several.
func TestExaminesOnce(t *testing.T) {
	v, err := dcap.NewVerifier(dcap.Options{SimulatedRoots: map[string]*x509.Certificate{"test": dcaptest.Trusted().Root.Certificate}})
	if err != nil {
		t.Fatal(err)
	}
	scene := dcaptest.NewTDX()
	items := scene.Collateral()
	for n := range 24 {
		cert := dcaptest.Certify(dcaptest.Template("Intel SGX TCB Signing", int64(1000+n)), dcaptest.Stranger().Root, nil)
		items = append(items, attest.Item{Kind: attest.KindCertificate, Bytes: cert.Raw})
	}
	cost := func(documents int) float64 {
		all := slices.Clone(items)
		for range documents {
			all = append(all, scene.InfoItem())
		}
		return testing.AllocsPerRun(1, func() {
			if len(v.Examine(attest.Evidence{Collateral: all}, dcap.TDX)) < 3 {
				t.Fatal("the pieces that are signed are not found")
			}
		})
	}
	if each := (cost(20) - cost(0)) / 20; each > 400 {
		t.Errorf("a document beside 24 certificates of a stranger makes %.0f allocations, want at most 400", each)
	} else {
		t.Logf("a document beside 24 certificates of a stranger makes %.0f allocations", each)
	}
}
