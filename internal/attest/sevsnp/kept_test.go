package sevsnp_test

import (
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/collateral"
)

// numberedCRL is a list of Genoa's root with a number, which holds for days.
func numberedCRL(n int64, days int, spoil ...func(*x509.RevocationList)) attest.Item {
	p := pkis()["genoa"]
	return crl(p.ark, p.arkKey, append(spoil, func(l *x509.RevocationList) {
		l.Number, l.NextUpdate = big.NewInt(n), now.AddDate(0, 0, days)
	})...)
}

// keeping returns a verifier that judges by what is kept in a folder, at an instant.
func keeping(t *testing.T, folder string, at time.Time) attest.Verifier {
	t.Helper()
	c, err := collateral.Open(collateral.Options{Folder: folder, Now: func() time.Time { return at }}, []attest.Verifier{trusting(t)})
	if err != nil {
		t.Fatal(err)
	}
	all, err := c.Verifiers([]attest.Verifier{trusting(t)})
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

// TestKept: AMD's list that came with one report is there for the next, its number outlives the process and the list itself, and who was
// named once stays named.
func TestKept(t *testing.T) {
	folder := t.TempDir()
	s := newScene()
	judge := func(at time.Time, more ...attest.Item) (attest.Claims, error) {
		t.Helper()
		s.more = more
		return keeping(t, folder, at).Verify(t.Context(), s.evidence(), s.binding, at, nil)
	}
	name := attest.SimulatedPrefix("genoa") + "sev-snp-Genoa.crl"
	want := []attest.Number{{Name: name, Number: "6"}}
	claims, err := judge(now, numberedCRL(6, 1))
	if err != nil || !claims.RevocationChecked || !slices.Equal(claims.Numbers, want) || claims.Judged != nil {
		t.Fatalf("with a list: %+v, %v", claims, err)
	}
	claims, err = judge(now)
	if err != nil || !claims.RevocationChecked || !slices.Equal(claims.Numbers, want) || len(claims.Judged) != 2 {
		t.Errorf("without one, after a restart: %+v, %v", claims, err)
	}
	claims, err = judge(now, numberedCRL(5, 9))
	if err != nil || !slices.Equal(claims.Numbers, want) {
		t.Errorf("with an older one while the newer holds: %+v, %v", claims, err)
	}
	later := now.AddDate(0, 0, 2) // the list has run out
	_, err = judge(later, numberedCRL(5, 9))
	wantClass(t, err, attest.ClassRevoked)
	if claims, err = judge(later); err != nil || claims.RevocationChecked {
		t.Errorf("without one, when the kept one has run out: revocation checked %t, %v", claims.RevocationChecked, err)
	}
	if err := os.Remove(filepath.Join(folder, name)); err != nil {
		t.Fatal(err)
	}
	_, err = judge(later, numberedCRL(5, 9))
	wantClass(t, err, attest.ClassRevoked)
	if claims, err = judge(later, numberedCRL(7, 9, revoking(123))); err != nil || claims.Numbers[0].Number != "7" {
		t.Errorf("with a newer one: %+v, %v", claims, err)
	}
	if _, err = judge(later, numberedCRL(8, 9, revoking(77))); err == nil {
		t.Error("a chip on the list was taken")
	}
	wantClass(t, err, attest.ClassRevoked)
}

// TestExamine: a list is one for its signature by the root whose name it has; of several that came the highest number is said.
func TestExamine(t *testing.T) {
	p, stranger := pkis()["genoa"], pkis()["stranger"]
	forged := attest.Collateral{crl(stranger.ark, stranger.arkKey), crl(listing(p.ask, p.ark), p.askKey), {Kind: attest.KindCRL, Bytes: []byte{0x30, 0}}}
	if pieces := trusting(t).Examine(attest.Evidence{Collateral: forged}); len(pieces) != 0 {
		t.Errorf("taken for pieces: %+v", pieces)
	}
	for _, order := range [][]attest.Item{{numberedCRL(7, 9), numberedCRL(5, 9)}, {numberedCRL(5, 9), numberedCRL(7, 9)}} {
		s := newScene()
		s.more = order
		if claims, err := s.verify(t); err != nil || len(claims.Numbers) != 1 || claims.Numbers[0].Number != "7" {
			t.Errorf("%v, numbers %v, want 7", err, claims.Numbers)
		}
	}
}

// TestNeeds: what a report is judged by, whether its certificate is there or not, and that no chip's certificate is wanted where nobody
// could fetch it.
func TestNeeds(t *testing.T) {
	chip := "c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5"
	prefix := attest.SimulatedPrefix("genoa")
	for _, c := range []struct {
		name  string
		spoil func(*scene)
		want  []string
	}{
		{"with its certificate", func(*scene) {}, []string{prefix + "sev-snp-Genoa.crl", prefix + "sev-snp-Genoa-" + chip + "-9.0.23.72.der"}},
		{"in a table", func(s *scene) { s.table = true }, []string{prefix + "sev-snp-Genoa.crl", prefix + "sev-snp-Genoa-" + chip + "-9.0.23.72.der"}},
		{"alone", func(s *scene) { s.leafless = true }, []string{"sev-snp-Genoa.crl", "sev-snp-Genoa-" + chip + "-9.0.23.72.der"}},
		{"a Turin alone", func(s *scene) { s.turin(); s.leafless = true }, []string{"sev-snp-Turin.crl", "sev-snp-Turin-c5c5c5c5c5c5c5c5-9.0.23.72.3.der"}},
		{"masked, alone", func(s *scene) { s.leafless = true; clear(s.report[0x1A0:0x1E0]) }, []string{"sev-snp-Genoa.crl"}},
		{"VLEK", func(s *scene) { s.vlek() }, []string{prefix + "sev-snp-Genoa.crl"}},
		{"VLEK alone", func(s *scene) { s.vlek(); s.leafless = true }, []string{"sev-snp-Genoa.crl"}},
		{"version 2 alone", func(s *scene) { s.leafless = true; s.report[0] = 2; clear(s.report[0x188:0x18B]) }, nil},
	} {
		s := newScene()
		c.spoil(s)
		names, err := trusting(t).Needs(s.evidence())
		if !slices.Equal(names, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%s: %v, %v, want %v", c.name, names, err, c.want)
		}
		for _, p := range trusting(t).Examine(s.evidence()) {
			if !slices.Contains(names, p.Name) {
				t.Errorf("%s: there is %s, which it does not need", c.name, p.Name)
			}
		}
	}
}
