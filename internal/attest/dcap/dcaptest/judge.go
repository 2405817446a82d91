package dcaptest

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
)

// A Judge holds a platform's verifier against vectors.
type Judge struct {
	Type     attest.Type
	Verifier interface {
		attest.Verifier
		VerifyUnbound(e attest.Evidence, now time.Time, c attest.Collateral) (attest.Claims, error)
	}
	Open func(raw []byte) (attest.Claims, error) // the platform's OpenUnverified
	Said func(c attest.Claims) Fields            // puts claims the way vectors are written
	DCAP func(c *attest.Claims) *attest.DCAP     // what they say of the machine

	// Refusals are the classes of samples whose fault is known by name; of others it is asked only that the fault is their own.
	Refusals map[string]attest.Class
}

// Vector judges the vector in a folder.
func (j Judge) Vector(t *testing.T, dir string) {
	v := Load(t, dir, j.Type)
	claims, err := j.Verifier.Verify(t.Context(), v.Evidence, v.Binding, v.AtTime, nil)
	if v.Expect == "reject" {
		var refusal *attest.Error
		if !errors.As(err, &refusal) || refusal.Class == attest.ClassTime || refusal.Class == attest.ClassBind {
			t.Errorf("Verify: %v, want a refusal for the sample's own fault: %s", err, v.Why)
		}
		if want, known := j.Refusals[filepath.Base(dir)]; known {
			WantClass(t, err, want)
		}
		return
	}
	if err != nil {
		t.Fatalf("Verify: %v, want claims: %s", err, v.Why)
	}
	if diff := cmp.Diff(v.Fields, j.Said(claims)); diff != "" {
		t.Errorf("claims (-vector +said):\n%s", diff)
	}
	if claims.Simulated != "" || claims.CollateralFrom.IsZero() == (v.Fields.Collateral || v.Fields.Lists) {
		t.Errorf("claims of the root %q, with collateral from %s", claims.Simulated, claims.CollateralFrom)
	}
	if unbound, err := j.Verifier.VerifyUnbound(v.Evidence, v.AtTime, nil); err != nil || !cmp.Equal(unbound, claims) {
		t.Errorf("VerifyUnbound = %+v, %v", unbound, err)
	}
	open, err := j.Open(v.Evidence.Body)
	claims.RevocationChecked, claims.CollateralFrom, claims.Numbers, j.DCAP(&claims).TCB = false, time.Time{}, nil, attest.IntelTCB{}
	if diff := cmp.Diff(claims, open); diff != "" || err != nil {
		t.Errorf("OpenUnverified (-verified +opened): %v\n%s", err, diff)
	}
	for _, bit := range []int{0, 255, 511} {
		altered := v.Binding
		altered.ReportData[bit/8] ^= 1 << (bit % 8)
		_, err := j.Verifier.Verify(t.Context(), v.Evidence, altered, v.AtTime, nil)
		WantClass(t, err, attest.ClassBind)
	}
}

// WantClass fails the test for what is no refusal of that class.
func WantClass(t *testing.T, err error, want attest.Class) {
	t.Helper()
	var refusal *attest.Error
	if !errors.As(err, &refusal) || refusal.Class != want {
		t.Errorf("Verify: %v, want the class %s", err, want)
	}
}
