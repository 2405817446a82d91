package sgx_test

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap/dcaptest"
	"consilium.dev/internal/attest/sgx"
)

// refusals are the classes of samples whose fault is known by name; of others it is asked only that the fault is their own.
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
	v := dcaptest.Load(t, dir, attest.SGX)
	verifier := newVerifier(t)
	claims, err := verifier.Verify(t.Context(), v.Evidence, v.Binding, v.AtTime, nil)
	if v.Expect == "reject" {
		var refusal *attest.Error
		if !errors.As(err, &refusal) || refusal.Class == attest.ClassTime || refusal.Class == attest.ClassBind {
			t.Errorf("Verify: %v, want a refusal for the sample's own fault: %s", err, v.Why)
		}
		if want, known := refusals[filepath.Base(dir)]; known {
			wantClass(t, err, want)
		}
		return
	}
	if err != nil {
		t.Fatalf("Verify: %v, want claims: %s", err, v.Why)
	}
	if diff := cmp.Diff(v.Fields, said(claims)); diff != "" {
		t.Errorf("claims (-vector +said):\n%s", diff)
	}
	if claims.Simulated != "" || claims.CollateralFrom.IsZero() == (v.Fields.Collateral || v.Fields.Lists) {
		t.Errorf("claims of the root %q, with collateral from %s", claims.Simulated, claims.CollateralFrom)
	}
	if unbound, err := verifier.VerifyUnbound(v.Evidence, v.AtTime, nil); err != nil || !cmp.Equal(unbound, claims) {
		t.Errorf("VerifyUnbound = %+v, %v", unbound, err)
	}
	open, err := sgx.OpenUnverified(v.Evidence.Body)
	claims.RevocationChecked, claims.CollateralFrom, claims.SGX.Platform.TCB = false, time.Time{}, attest.IntelTCB{}
	if diff := cmp.Diff(claims, open); diff != "" || err != nil {
		t.Errorf("OpenUnverified (-verified +opened): %v\n%s", err, diff)
	}
	for _, bit := range []int{0, 255, 511} {
		altered := v.Binding
		altered.ReportData[bit/8] ^= 1 << (bit % 8)
		_, err := verifier.Verify(t.Context(), v.Evidence, altered, v.AtTime, nil)
		wantClass(t, err, attest.ClassBind)
	}
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

func wantClass(t *testing.T, err error, want attest.Class) {
	t.Helper()
	var refusal *attest.Error
	if !errors.As(err, &refusal) || refusal.Class != want {
		t.Errorf("Verify: %v, want the class %s", err, want)
	}
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
