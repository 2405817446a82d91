package sgx_test

import (
	"crypto/x509"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap/dcaptest"
	"consilium.dev/internal/attest/sgx"
)

// refusals are as in dcaptest.Judge.
var refusals = map[string]attest.Class{
	"reject-badchain-oasis": attest.ClassChain,
	"reject-cmc-invalid":    attest.ClassSig,
	"v3-eppid-oasis":        attest.ClassParse,
}

func TestVectors(t *testing.T) {
	folder := os.Getenv("CONSILIUM_VECTORS")
	if folder == "" {
		t.Skip("CONSILIUM_VECTORS names no folder of attestation evidence; TestRealEvidence judges what is committed")
	}
	judgeFolder(t, folder)
}

func TestRealEvidence(t *testing.T) { judgeFolder(t, "testdata/vectors") }

// judgeFolder judges the SGX quotes in a folder of vectors.
func judgeFolder(t *testing.T, folder string) {
	if all, err := filepath.Glob(filepath.Join(folder, "*", "*", "vector.json")); err != nil || len(all) == 0 {
		t.Fatalf("the folder %s has %d vectors, %v", folder, len(all), err)
	}
	paths, err := filepath.Glob(filepath.Join(folder, "sgx", "*", "vector.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		dir := filepath.Dir(path)
		t.Run("sgx/"+filepath.Base(dir), func(t *testing.T) { judgeVector(t, dir) })
	}
}

func judgeVector(t *testing.T, dir string) {
	dcaptest.Judge{
		Type: attest.SGX, Verifier: newVerifier(t), Open: sgx.OpenUnverified, Said: said, Refusals: refusals,
		DCAP: func(c *attest.Claims) *attest.DCAP { return &c.SGX.Platform },
	}.Vector(t, dir)
}

// said puts claims the way vectors are written.
func said(c attest.Claims) dcaptest.Fields {
	e := c.SGX
	f := dcaptest.Fields{
		Version: 3, Debug: e.Debug, Attributes: hex.EncodeToString(e.Attributes[:]), CPUSVN: hex.EncodeToString(e.CPUSVN[:]),
		ISVProdID: e.ISVProdID, ISVSVN: e.ISVSVN, Measurement: hex.EncodeToString(e.MREnclave[:]),
		MRSigner: hex.EncodeToString(e.MRSigner[:]), ReportData: hex.EncodeToString(e.ReportData[:]),
	}
	f.Platform(c, e.Platform)
	return f
}

// newVerifier returns a verifier that trusts Intel's root, and the one of these tests as "test".
func newVerifier(t testing.TB) *sgx.Verifier {
	t.Helper()
	v, err := sgx.NewVerifier(sgx.Options{SimulatedRoots: map[string]*x509.Certificate{"test": dcaptest.Trusted().Root.Certificate}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}
