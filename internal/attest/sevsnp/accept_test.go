package sevsnp_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/sevsnp"
)

// TestAccepted: what must not be refused, and what the claims then say.
func TestAccepted(t *testing.T) {
	p := pkis()["genoa"]
	day := 24 * time.Hour
	for _, a := range []struct {
		name  string
		make  func(*scene)
		holds func(c attest.Claims) bool
	}{
		{"plain", func(*scene) {}, func(c attest.Claims) bool {
			return c.Type == attest.SEVSNP && c.Simulated == "genoa" && c.SNP.SigningKey == "vcek" && c.SNP.GuestSVN == 7 &&
				c.SNP.ABIMajor == 1 && c.SNP.ABIMinor == 55 && !c.SNP.Debug && !c.SNP.ChipMasked && c.SNP.ProductLine == "Genoa"
		}},
		{"in a table", func(s *scene) { s.table = true }, func(c attest.Claims) bool { return c.Simulated == "genoa" }},
		{"certificate held here", func(s *scene) {
			s.ours, s.leafless = attest.Collateral{{Kind: attest.KindCertificate, Bytes: s.leafDER()}}, true
		}, func(c attest.Claims) bool { return c.Simulated == "genoa" }},
		{"the same certificate twice", func(s *scene) {
			der := s.leafDER()
			s.leafless, s.more = true, attest.Collateral{
				{Kind: attest.KindCertificate, Bytes: der}, {Kind: attest.KindCertTable, Bytes: certTable(der)},
			}
		}, func(c attest.Claims) bool { return c.Simulated == "genoa" }},
		{"foreign kinds of collateral", func(s *scene) {
			s.more = attest.Collateral{{Kind: attest.KindEventLog, Bytes: []byte("x")}, {Kind: 200}}
		}, func(c attest.Claims) bool { return c.Simulated == "genoa" }},
		{"debug", set(0x0A, 1<<1|1<<3), func(c attest.Claims) bool { return c.SNP.Debug }},
		{"VLEK", func(s *scene) { s.vlek() }, func(c attest.Claims) bool {
			return c.SNP.SigningKey == "vlek" && c.SNP.Provider == "CN=cloud.example"
		}},
		{"every bit of the policy", set(0x0A, 0xf7, 0x03), func(c attest.Claims) bool {
			s := c.SNP
			return s.SMTAllowed && s.MigrateMA && !s.Debug && s.SingleSocket && s.CXLAllowed && s.MemAES256XTS && s.RAPLDisabled &&
				s.CiphertextHiding && s.PageSwapDisabled
		}},
		{"A48 mitigation vectors", func(s *scene) {
			set(0x1F8, 5)(s)
			set(0x200+7, 0x80)(s)
		}, func(c attest.Claims) bool { return c.SNP.LaunchMitigations == 5 && c.SNP.CurrentMitigations == 1<<63 }},
		{"A7 VMPL 4", set(0x30, 4), func(c attest.Claims) bool { return c.SNP.VMPL == 4 }},
		{"A22 MASK_CHIP_KEY", set(0x48, 2), func(c attest.Claims) bool { return c.SNP.ChipMasked }},
		{"A22 chip id of zeros", set(0x1A0, make([]byte, 64)...), func(c attest.Claims) bool { return c.SNP.ChipMasked }},
		{"A33 no list", func(*scene) {}, func(c attest.Claims) bool { return !c.RevocationChecked && c.CollateralFrom.IsZero() }},
		{"list sent", func(s *scene) { s.more = attest.Collateral{crl(p.ark, p.arkKey)} }, func(c attest.Claims) bool {
			return c.RevocationChecked && c.CollateralFrom.Equal(now.Add(-day))
		}},
		{"two lists", func(s *scene) {
			s.more = attest.Collateral{crl(p.ark, p.arkKey)}
			s.ours = attest.Collateral{crl(p.ark, p.arkKey, func(l *x509.RevocationList) { l.ThisUpdate = now.Add(-2 * day) })}
		}, func(c attest.Claims) bool { return c.RevocationChecked && c.CollateralFrom.Equal(now.Add(-2*day)) }},
		{"two lists, the older one sent", func(s *scene) {
			s.more = attest.Collateral{crl(p.ark, p.arkKey, func(l *x509.RevocationList) { l.ThisUpdate = now.Add(-2 * day) })}
			s.ours = attest.Collateral{crl(p.ark, p.arkKey)}
		}, func(c attest.Claims) bool { return c.RevocationChecked && c.CollateralFrom.Equal(now.Add(-2*day)) }},
		{"list of another line held", func(s *scene) {
			s.ours = attest.Collateral{crl(pkis()["milan"].ark, pkis()["milan"].arkKey)}
		}, func(c attest.Claims) bool { return !c.RevocationChecked }},
		{"A43 alias check not complete", set(0x40, 0x05), func(c attest.Claims) bool { return !c.SNP.Platform.AliasCheckComplete }},
		{"A45 unknown platform bits", set(0x40, 0x40, 0, 0, 0, 0, 0, 0, 0x80), func(c attest.Claims) bool {
			return c.SNP.Platform.Unknown == 1<<63|1<<6
		}},
		{"version 3", func(s *scene) { s.report[0] = 3 }, func(c attest.Claims) bool { return c.SNP.Version == 3 }},
		{"version 2, line by the certificate", func(s *scene) {
			s.report[0] = 2
			clear(s.report[0x188:0x18B])
		}, func(c attest.Claims) bool { return c.SNP.ProductLine == "Genoa" }},
		{"Siena, a Genoa by its keys", set(0x189, 0xA0), func(c attest.Claims) bool { return c.SNP.ProductLine == "Genoa" }},
		{"the first Genoa", set(0x189, 0x10), func(c attest.Claims) bool { return c.SNP.ProductLine == "Genoa" }},
		{"the last Genoa", set(0x189, 0xAF), func(c attest.Claims) bool { return c.SNP.ProductLine == "Genoa" }},
		{"the last Milan", func(s *scene) {
			s.report[0x189] = 0x0F
			s.with(extension(oid(2), ia5("Milan-B1")))
			s.issuer, s.by = pkis()["milan"].ask, pkis()["milan"].askKey
		}, func(c attest.Claims) bool { return c.SNP.ProductLine == "Milan" }},
		{"Milan", func(s *scene) {
			s.report[0x189] = 0x01
			s.with(extension(oid(2), ia5("Milan-B1")))
			s.issuer, s.by = pkis()["milan"].ask, pkis()["milan"].askKey
		}, func(c attest.Claims) bool { return c.Simulated == "milan" && c.SNP.ProductLine == "Milan" }},
		{"Turin", (*scene).turin, func(c attest.Claims) bool {
			want := attest.TCB{FMC: 3, Bootloader: 9, SNP: 23, Microcode: 72}
			return c.Simulated == "turin" && c.SNP.ProductLine == "Turin" && c.SNP.Current == want && c.SNP.Reported == want &&
				c.SNP.Committed == want && c.SNP.Launch == want && c.SNP.ChipID[7] == 0xc5 && c.SNP.ChipID[8] == 0 && !c.SNP.ChipMasked
		}},
		{"Turin, four different TCBs", onTurin(func(s *scene) {
			s.report[0x38], s.report[0x1E0+1], s.report[0x1F0+3] = 4, 8, 22
		}), func(c attest.Claims) bool {
			return c.SNP.Current.FMC == 4 && c.SNP.Reported.FMC == 3 && c.SNP.Committed.Bootloader == 8 && c.SNP.Launch.SNP == 22
		}},
		{"the last Turin", onTurin(set(0x189, 0x11)), func(c attest.Claims) bool { return c.SNP.ProductLine == "Turin" }},
		{"Turin, version 2, line and TCB by the certificate", onTurin(func(s *scene) {
			s.report[0] = 2
			clear(s.report[0x188:0x18B])
		}), func(c attest.Claims) bool { return c.SNP.ProductLine == "Turin" && c.SNP.Reported.FMC == 3 }},
		{"Turin, chip masked", onTurin(set(0x1A0, make([]byte, 8)...)), func(c attest.Claims) bool { return c.SNP.ChipMasked }},
		{"Turin, VLEK", onTurin(func(s *scene) {
			s.report[0x48] = 1 << 2
			s.issuer, s.by, s.leaf.Subject.CommonName = pkis()["turin"].asvk, pkis()["turin"].asvkKey, "SEV-VLEK"
			s.without(oid(4))
			s.with(extension(oid(5), ia5("CN=cloud.example")))
		}), func(c attest.Claims) bool { return c.SNP.SigningKey == "vlek" && c.SNP.ProductLine == "Turin" }},
		{"hardware id as an OCTET STRING", func(s *scene) {
			s.with(extension(oid(4), bytes.Repeat([]byte{0xc5}, 64)))
		}, func(c attest.Claims) bool { return c.Simulated == "genoa" }},
	} {
		t.Run(a.name, func(t *testing.T) {
			s := newScene()
			a.make(s)
			claims, err := s.verify(t)
			if err != nil {
				t.Fatal(err)
			}
			if !a.holds(claims) {
				t.Errorf("claims %+v, SNP %+v", claims, claims.SNP)
			}
		})
	}
}

// TestTwin: ECDSA gives each signature a twin; both are the same evidence.
func TestTwin(t *testing.T) { t.Run("A39 the twin of a signature", testTwin) }

func testTwin(t *testing.T) {
	s := newScene()
	v, e := trusting(t), s.evidence()
	one, err := v.Verify(t.Context(), e, s.binding, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(e.Body[:0x2A0]); one.Signed != want {
		t.Errorf("Signed = %x, want the digest of the signed body, %x", one.Signed, want)
	}
	x, y := signature(e.Body)
	setSignature(e.Body, x, new(big.Int).Sub(elliptic.P384().Params().N, y))
	two, err := v.Verify(t.Context(), e, s.binding, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	if one.Signed != two.Signed {
		t.Errorf("twins are told apart: %x, %x", one.Signed, two.Signed)
	}
}

// TestConcurrent has one Verifier judge good and bad evidence of two roots at once; -race watches.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	p := pkis()["genoa"]
	good, bad := newScene(), newScene()
	good.more = attest.Collateral{crl(p.ark, p.arkKey)}
	bad.binding.ReportData[9] ^= 1
	v, right, wrong := trusting(t), good.evidence(), bad.evidence()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 8 {
				if _, err := v.Verify(t.Context(), right, good.binding, now, nil); err != nil {
					t.Error(err)
				}
				_, err := v.Verify(t.Context(), wrong, bad.binding, now, nil)
				wantClass(t, err, attest.ClassBind)
			}
		})
	}
	all.Wait()
}

func parsePEM(t *testing.T, raw []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(raw)
	if block == nil {
		t.Fatal("no PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// withoutNextUpdate takes nextUpdate out of a revocation list, which the standard library cannot be asked for, and signs
// it again.
func withoutNextUpdate(item attest.Item, key *rsa.PrivateKey) attest.Item {
	edit := func(der []byte) []byte {
		var list struct {
			Version    int
			Algorithm  asn1.RawValue
			Issuer     asn1.RawValue
			ThisUpdate time.Time
			NextUpdate time.Time
			Extensions asn1.RawValue
		}
		if _, err := asn1.Unmarshal(der, &list); err != nil {
			return der // the algorithm
		}
		return must(asn1.Marshal(struct {
			Version    int
			Algorithm  asn1.RawValue
			Issuer     asn1.RawValue
			ThisUpdate time.Time
			Extensions asn1.RawValue
		}{list.Version, list.Algorithm, list.Issuer, list.ThisUpdate, list.Extensions}))
	}
	return attest.Item{Kind: attest.KindCRL, Bytes: resigned(item.Bytes, key, rsa.PSSSaltLengthEqualsHash, edit)}
}

// withoutNumber takes the number out of a revocation list, likewise.
func withoutNumber(item attest.Item, key *rsa.PrivateKey) attest.Item {
	edit := func(der []byte) []byte {
		// The extension keeps its place and its length under a name that nobody knows.
		return bytes.Replace(der, []byte{6, 3, 0x55, 0x1d, 20}, []byte{6, 3, 0x55, 0x1d, 99}, 1)
	}
	return attest.Item{Kind: attest.KindCRL, Bytes: resigned(item.Bytes, key, rsa.PSSSaltLengthEqualsHash, edit)}
}

// TestOpenUnverified: what a report says is read whoever signed it; what has not its form is not.
func TestOpenUnverified(t *testing.T) {
	for name, make := range map[string]func(*scene){
		"Genoa": func(*scene) {}, "Turin": (*scene).turin, "VLEK": (*scene).vlek, "version 2": func(s *scene) { s.report[0] = 2; clear(s.report[0x188:0x18B]) },
	} {
		s := newScene()
		make(s)
		e := s.evidence()
		verified, err := trusting(t).Verify(t.Context(), e, s.binding, now, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := *verified.SNP
		want.Provider = "" // the certificate's
		if name == "version 2" {
			want.ProductLine = "" // likewise
		}
		clear(e.Body[0x2A0:][:144]) // the signature
		got, err := sevsnp.OpenUnverified(e.Body)
		if err != nil || got.Type != attest.SEVSNP || got.Simulated != "" || got.Signed != verified.Signed {
			t.Fatalf("%s: OpenUnverified = %+v, %v", name, got, err)
		}
		if diff := cmp.Diff(want, *got.SNP); diff != "" {
			t.Errorf("%s: claims (-verified +unverified):\n%s", name, diff)
		}
		_, err = sevsnp.OpenUnverified(e.Body[:1183])
		wantClass(t, err, attest.ClassParse)
		e.Body[0x208] = 1 // reserved
		_, err = sevsnp.OpenUnverified(e.Body)
		wantClass(t, err, attest.ClassParse)
	}
}

// TestUnbound: without a binding all else is judged as with one.
func TestUnbound(t *testing.T) {
	s := newScene()
	s.binding.ReportData[0] ^= 1
	if c, err := trusting(t).VerifyUnbound(s.evidence(), now, nil); err != nil || c.SNP.ReportData[0] != s.binding.ReportData[0]^1 {
		t.Errorf("VerifyUnbound = %+v, %v", c, err)
	}
	s.certKey = &ecKey(elliptic.P384()).PublicKey
	c, err := trusting(t).VerifyUnbound(s.evidence(), now, nil)
	wantClass(t, err, attest.ClassSig)
	if c.SNP != nil {
		t.Error("VerifyUnbound refused and gave claims")
	}
}
