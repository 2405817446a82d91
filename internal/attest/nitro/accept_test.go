package nitro_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/nitro"
)

// zeros are registers 0 to 2 of a debug enclave.
func zeros(s *scene) {
	for index := range uint64(3) {
		s.pcrs[index] = field{number(index), bstr(make([]byte, 48))}
	}
}

// TestAccepted: what must not be refused, and what the claims then say.
func TestAccepted(t *testing.T) {
	yes := func(attest.Claims) bool { return true }
	for _, a := range []struct {
		name  string
		make  func(*scene)
		holds func(attest.Claims) bool
	}{
		{"plain", func(*scene) {}, func(c attest.Claims) bool {
			return c.Type == attest.Nitro && c.Simulated == "demo" && !c.Nitro.Debug && len(c.Nitro.PCRs) == 16 && c.SNP == nil &&
				c.Nitro.ModuleID == "i-0123456789abcdef0-enc0123456789abcdef" && c.Nitro.Timestamp.Equal(now) &&
				bytes.Equal(c.Nitro.PCRs[1], bytes.Repeat([]byte("b"), 48)) && !c.RevocationChecked && c.CollateralFrom.IsZero()
		}},
		{"D92 debug", zeros, func(c attest.Claims) bool { return c.Nitro.Debug }},
		{"D92 two registers of zeros", func(s *scene) {
			zeros(s)
			s.pcrs[2].value = bstr(bytes.Repeat([]byte{1}, 48))
		}, func(c attest.Claims) bool { return !c.Nitro.Debug }},
		{"D96 register 31", register(15, number(31), bstr(make([]byte, 48))), func(c attest.Claims) bool { return len(c.Nitro.PCRs[31]) == 48 }},
		{"D96 three registers only", func(s *scene) { s.pcrs = s.pcrs[:3] }, func(c attest.Claims) bool { return len(c.Nitro.PCRs) == 3 }},
		{"D98 a minute ahead of us", with("timestamp", number(uint64(now.Add(time.Minute).UnixMilli()))), yes},
		{"D98 a minute before its certificate", func(s *scene) {
			with("timestamp", number(uint64(now.Add(-time.Minute).UnixMilli())))(s)
			s.leaf.NotBefore = now
		}, yes},
		{"D98 the certificate's last second", func(s *scene) { s.leaf.NotAfter = now }, yes},
		{"D100 a root without a path length, and seven authorities below it", func(s *scene) {
			s.pki = s.pki.cut(1)
			for i := range 7 {
				next := template("authority")
				next.MaxPathLen, next.MaxPathLenZero = 6-i, i == 6
				s.pki.add(next, ecKey(elliptic.P384(), "authority"))
			}
		}, yes},
		{"D100 the root itself signs", func(s *scene) { s.pki = s.pki.cut(1) }, yes},
		{"D101 tag 18", func(s *scene) {
			s.envelope = func(p, u, payload, sig []byte) []byte {
				return append(head(6, 18), list(bstr(p), u, bstr(payload), bstr(sig))...)
			}
		}, yes},
		{"D108 a document of indefinite length, as newer modules write it", func(s *scene) {
			s.payload = func(pairs []field) []byte { return slices.Concat(endless[5], mapOf(pairs...)[1:], stop) }
		}, yes},
		{"D108 registers and bundle of indefinite length", func(s *scene) {
			s.payload = func(pairs []field) []byte {
				pairs[s.at("pcrs")].value = slices.Concat(endless[5], mapOf(s.pcrs...)[1:], stop)
				pairs[s.at("cabundle")].value = slices.Concat(endless[4], pairs[s.at("cabundle")].value[1:], stop)
				return mapOf(pairs...)
			}
		}, yes},
		{"fields in another order", func(s *scene) { slices.Reverse(s.document) }, yes},
	} {
		t.Run(a.name, func(t *testing.T) {
			s := newScene()
			a.make(s)
			claims, err := s.verify(t)
			if err != nil {
				t.Fatal(err)
			}
			if !a.holds(claims) {
				t.Errorf("claims %+v, document %+v", claims, claims.Nitro)
			}
		})
	}
}

// TestTwin: ECDSA gives each signature a twin; both are the same evidence, named by what is signed.
func TestTwin(t *testing.T) {
	var payload []byte
	s := newScene()
	s.payload = func(pairs []field) []byte { payload = mapOf(pairs...); return payload }
	one, err := s.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(payload); one.Signed != want {
		t.Errorf("Signed = %x, want the digest of the payload, %x", one.Signed, want)
	}
	s = newScene()
	s.signature = func(sig []byte) []byte {
		twin := new(big.Int).Sub(elliptic.P384().Params().N, new(big.Int).SetBytes(sig[48:]))
		twin.FillBytes(sig[48:])
		return sig
	}
	two, err := s.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	if one.Signed != two.Signed {
		t.Errorf("twins are told apart: %x, %x", one.Signed, two.Signed)
	}
}

// The claims are the caller's: what one does to them, another verification does not see.
func TestClaimsAreCopies(t *testing.T) {
	s := newScene()
	v, e := trusting(t), s.evidence()
	one, err := v.Verify(t.Context(), e, s.binding, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	one.Nitro.PCRs[0][0] ^= 1
	if _, err := v.Verify(t.Context(), e, s.binding, now, nil); err != nil {
		t.Errorf("the evidence was changed through its claims: %v", err)
	}
}

// TestConcurrent has one Verifier judge good and bad evidence at once; -race watches.
func TestConcurrent(t *testing.T) {
	good, bad := newScene(), newScene()
	bad.binding.Nonce[9] ^= 1
	v, right, wrong := trusting(t), good.evidence(), bad.evidence()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 4 {
				if _, err := v.Verify(t.Context(), right, good.binding, now, nil); err != nil {
					t.Error(err)
				}
				_, err := v.Verify(t.Context(), wrong, bad.binding, now, nil)
				wantClass(t, "Verify", err, attest.ClassBind)
			}
		})
	}
	all.Wait()
}

// TestRootsApart: what chains to a private root is nothing to a verifier that does not know it, and a document is no report.
func TestRootsApart(t *testing.T) {
	s := newScene()
	_, err := newVerifier(t, nil).Verify(t.Context(), s.evidence(), s.binding, now, nil)
	wantClass(t, "AWS's root only", err, attest.ClassChain)
	_, err = trusting(t).Verify(t.Context(), attest.Evidence{Type: attest.SEVSNP, Body: s.evidence().Body}, s.binding, now, nil)
	wantClass(t, "another type", err, attest.ClassParse)
	if got := trusting(t).Type(); got != attest.Nitro {
		t.Errorf("Type = %s", got)
	}
}

// TestUnbound: without a binding all else is judged as with one, and the claims say what the document carries; unverified, it
// says the same, whoever signed it.
func TestUnbound(t *testing.T) {
	s := newScene()
	e := s.evidence()
	verified, err := trusting(t).VerifyUnbound(e, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := verified.Nitro
	if !bytes.Equal(n.Nonce, s.binding.Nonce[:]) || !bytes.Equal(n.UserData, s.binding.ReportData[:]) || !bytes.Equal(n.PublicKey, s.binding.SPKI) {
		t.Errorf("VerifyUnbound = %+v, want what the binding asked for", n)
	}
	clear(e.Body[len(e.Body)-96:])
	_, err = trusting(t).VerifyUnbound(e, now, nil)
	wantClass(t, "VerifyUnbound", err, attest.ClassSig)
	open, err := nitro.OpenUnverified(e.Body)
	if err != nil {
		t.Fatal(err)
	}
	verified.Simulated = "" // which root it leads to, only judging says
	if diff := cmp.Diff(verified, open); diff != "" {
		t.Errorf("OpenUnverified (-verified +unverified):\n%s", diff)
	}
	for _, raw := range [][]byte{nil, e.Body[1:], e.Body[:99]} {
		if c, err := nitro.OpenUnverified(raw); err == nil || c.Nitro != nil {
			t.Errorf("OpenUnverified of %d bytes = %+v, %v", len(raw), c, err)
		}
	}
	_, err = trusting(t).VerifyUnbound(attest.Evidence{Type: attest.SEVSNP, Body: e.Body}, now, nil)
	wantClass(t, "VerifyUnbound of another type", err, attest.ClassParse)
}
