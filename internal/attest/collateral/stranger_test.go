package collateral_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/collateral"
	"consilium.dev/internal/attest/dcap/dcaptest"
)

// TestWantsOfRefused: evidence that is refused is asked for once at most, and is not what is fetched from then on. Who sends it could
// else have a site ask for a thousand machines that do not exist, until its services answer it no more.
func TestWantsOfRefused(t *testing.T) {
	m := newMaker(t)
	s := newSite(t, t.TempDir(), m.service(t))
	true18 := numbered(18)
	m.serve(true18)
	if _, err := s.judge(t, true18, nil); err != nil {
		t.Fatal(err)
	}
	invented := func(n byte) string {
		f := numbered(18)
		fmspc := []byte{0xee, 0, 0, 0, 0, n}
		f.With(dcaptest.ElementOf(fmspc, 4))
		f.Written = func(quote []byte) []byte { quote[100] ^= 1; return quote } // of the body, which is signed
		if _, err := s.judge(t, f, nil); err == nil {
			t.Fatal("a quote with an altered body is taken")
		}
		return hex.EncodeToString(fmspc)
	}
	for n := range byte(3) {
		name := invented(n)
		if due := s.Due(); !slices.Equal(due, names()) {
			t.Errorf("%q are fetched from now on, want %q", due, names())
		}
		if !slices.ContainsFunc(s.Show().Missing, func(m collateral.Missed) bool { return strings.Contains(m.Name, name) }) {
			t.Errorf("what of %s could not be fetched is not told", name)
		}
		s.at = s.at.Add(5 * time.Minute)
	}
	if n := len(s.Show().Missing); n != 2 {
		t.Errorf("%d names could not be fetched, want the two of the newest: those before need not wait any more", n)
	}
}

// TestJudgedAgain: evidence that could not be judged again from what the claims say it was judged by is refused: an auditor would find that
// the coordinator has admitted what is no evidence.
func TestJudgedAgain(t *testing.T) {
	scene := numbered(18)
	s := newSite(t, t.TempDir(), nil)
	if _, err := s.judge(t, scene, scene.Collateral()); err != nil {
		t.Fatal(err)
	}
	for more, want := range map[int]bool{56: true, 60: false} { // beside the four pieces, and an issuer each of two, that are kept
		var other attest.Collateral
		for range more {
			other = append(other, attest.Item{Kind: attest.KindRIM})
		}
		claims, err := s.judge(t, scene, other)
		if (err == nil) != want {
			t.Errorf("%d more: %v, want accepted %t", more, err, want)
		}
		if err == nil {
			e := attest.Evidence{Type: attest.TDX, Body: scene.Quote(), Collateral: claims.Judged}
			if _, err := verifiers(t)[0].Verify(t.Context(), e, scene.Binding, s.at, nil); err != nil {
				t.Errorf("%d more: judged again: %v", more, err)
			}
		}
	}
	if _, err := s.judge(t, scene, slices.Repeat(attest.Collateral{{Kind: attest.KindRIM}}, 60)); err != nil {
		wantClass(t, err, attest.ClassParse)
	}
}

// TestSameIssue: the same TCB info with more spaces around it is no news: neither the disk nor the log hears of it.
func TestSameIssue(t *testing.T) {
	scene := numbered(18)
	folder := t.TempDir()
	s := newSite(t, folder, nil)
	if _, err := s.judge(t, scene, scene.Collateral()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, names()[3])
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	told := s.log.Len()
	scene.InfoText = func(text []byte) []byte { return append(text, bytes.Repeat([]byte(" "), 1000)...) }
	if _, err := s.judge(t, scene, scene.Collateral()); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(before, after) || s.log.Len() != told {
		t.Errorf("%v, %d bytes after %d, %d lines more in the log; want all as it was", err, len(after), len(before), s.log.Len()-told)
	}
}

// TestWildNumber: a list whose number no issuer counts by is refused, and the folder can be opened again.
func TestWildNumber(t *testing.T) {
	wild, err := asn1.Marshal(new(big.Int).Lsh(big.NewInt(1), 256))
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	s := newSite(t, folder, nil)
	scene := numbered(18)
	scene.Lists[0] = dcaptest.List(scene.Root, func(l *x509.RevocationList) { // the last of two counts
		l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 20}, Value: wild}}
	})
	_, err = s.judge(t, scene, scene.Collateral())
	wantClass(t, err, attest.ClassRevoked)
	next := newSite(t, folder, nil)
	scene = numbered(18)
	claims, err := next.judge(t, scene, scene.Collateral())
	wantChecked(t, claims, err, "18")
}

// TestRecoveries: where a peer has shown TCB info of a newer recovery than Intel's service gives to whoever names none, that one is asked for
// from then on; and where it is not to be had, what is given is told to be too old, and not taken.
func TestRecoveries(t *testing.T) {
	m := newMaker(t)
	m.serve(numbered(18))
	s := newSite(t, t.TempDir(), m.service(t))
	early := numbered(19)
	if _, err := s.judge(t, early, early.Collateral()); err != nil {
		t.Fatal(err)
	}
	documents := names()[2:]
	if _, err := s.Fetch(t.Context(), documents); err == nil || len(s.Show().Missing) != 2 {
		t.Errorf("%v, missing %v; want both documents of the recovery before told to be too old", err, s.Show().Missing)
	}

	next := numbered(19) // as of a day later
	next.Info["issueDate"], next.Identity["issueDate"] = dcaptest.Now.Format(time.RFC3339), dcaptest.Now.Format(time.RFC3339)
	signer := dcaptest.PEM(next.Signer.Raw, next.Root.Raw)
	m.put("/tdx/certification/v4/tcb?fmspc="+hex.EncodeToString(dcaptest.FMSPC)+"&tcbEvaluationDataNumber=19", answer{next.InfoItem().Bytes, "TCB-Info-Issuer-Chain", signer})
	m.put("/tdx/certification/v4/qe/identity?tcbEvaluationDataNumber=19", answer{next.IdentityItem().Bytes, "SGX-Enclave-Identity-Issuer-Chain", signer})
	s.at = s.at.Add(time.Hour)
	fresh, err := s.Fetch(t.Context(), documents)
	if slices.Sort(fresh); err != nil || !slices.Equal(fresh, documents) || len(s.Show().Missing) != 0 {
		t.Errorf("%v, fresh %q, missing %v; want both documents of the recovery that was seen", err, fresh, s.Show().Missing)
	}
}

// TestLateCaller: who comes with evidence when its handshake's time is over already does not keep the next one from being judged.
func TestLateCaller(t *testing.T) {
	m := newMaker(t)
	scene := numbered(18)
	m.serve(scene)
	wait := make(chan struct{})
	m.mu.Lock()
	m.wait = wait
	m.mu.Unlock()
	s := newSite(t, t.TempDir(), m.service(t))
	late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	claims, err := s.tdx.Verify(late, attest.Evidence{Type: attest.TDX, Body: scene.Quote()}, scene.Binding, s.at, nil)
	close(wait)
	if err != nil || claims.RevocationChecked {
		t.Errorf("%v, revocation checked %t; want it judged by what there is", err, claims.RevocationChecked)
	}
	if missing := s.Show().Missing; len(missing) != 0 {
		t.Errorf("%v, want nothing noted", missing)
	}
	claims, err = s.judge(t, scene, nil)
	wantChecked(t, claims, err, "18")
}

// TestRolledBackOnFullDisk: what was rolled back is refused also where something newer came with it that the disk does not take.
func TestRolledBackOnFullDisk(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "collateral")
	newer := numbered(18)
	if _, err := newSite(t, folder, nil).judge(t, newer, newer.Collateral()); err != nil {
		t.Fatal(err)
	}
	for _, name := range names() {
		if err := os.Remove(filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	s := newSite(t, folder, nil)
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(folder, nil, 0o600); err != nil { // nothing can be written below it
		t.Fatal(err)
	}
	old := numbered(19)
	old.Info, old.Identity = numbered(17).Info, numbered(17).Identity
	_, err := s.judge(t, newer, old.Collateral())
	wantClass(t, err, attest.ClassTime)
}

// TestAsksNoNeedless: a machine whose evidence needs no collateral is not asked for any to find that out.
func TestAsksNoNeedless(t *testing.T) {
	s := newSite(t, t.TempDir(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Run(ctx, nitroMachine{t: t})
}

type nitroMachine struct {
	attest.Attester
	t *testing.T
}

func (nitroMachine) Types() []attest.Type { return []attest.Type{attest.Nitro} }

func (m nitroMachine) Attest(context.Context, attest.Binding) (attest.Evidence, error) {
	m.t.Error("the machine was asked for evidence")
	return attest.Evidence{}, context.Canceled
}

// usedUp returns a site where a peer, budapest, has used up its questions, and evidence that would raise another.
func usedUp(t *testing.T) (*site, *dcaptest.Scene) {
	t.Helper()
	m := newMaker(t)
	scene := numbered(18)
	m.serve(scene)
	s := newSite(t, t.TempDir(), m.service(t))
	s.useUp(t, "budapest")
	claims, err := s.judgeOf(t, "budapest", scene, nil)
	if err != nil || claims.TDX.Platform.TCB.Checked {
		t.Fatalf("%v, TCB checked %t: the questions are not used up, and the test shows nothing", err, claims.TDX.Platform.TCB.Checked)
	}
	return s, scene
}

// TestUsedUp: a peer that uses up all questions that its evidence may raise delays what it needs itself by a minute, and nobody else's.
func TestUsedUp(t *testing.T) {
	s, scene := usedUp(t)
	claims, err := s.judgeOf(t, "cleveland", scene, nil)
	wantChecked(t, claims, err, "18")
}

// TestSuppliedLater: what a peer that has used up its questions needs is fetched within a minute, once its evidence was found genuine.
func TestSuppliedLater(t *testing.T) {
	s, scene := usedUp(t)
	s.Supply(t.Context())
	claims, err := s.judgeOf(t, "budapest", scene, nil)
	wantChecked(t, claims, err, "18")
}

// useUp has a peer show evidence that is none until its questions are used up.
func (s *site) useUp(t *testing.T, name string) {
	t.Helper()
	for n := range byte(20) {
		f := numbered(18)
		f.With(dcaptest.ElementOf([]byte{0xee, 0, 0, 0, 0, n}, 4))
		f.Written = func(quote []byte) []byte { quote[100] ^= 1; return quote }
		if _, err := s.judgeOf(t, name, f, nil); err == nil {
			t.Fatal("a quote with an altered body is taken")
		}
	}
}

// TestNumbersOnFullDisk: numbers that a full disk did not take are written once it does, and then hold for the next process.
func TestNumbersOnFullDisk(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "collateral")
	s := newSite(t, folder, nil)
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(folder, nil, 0o600); err != nil { // nothing can be written below it
		t.Fatal(err)
	}
	newer, older := numbered(18), numbered(17)
	if _, err := s.judge(t, newer, newer.Collateral()); err != nil {
		t.Fatal(err)
	}
	if s.log.FilterMessage("collateral that came with evidence could not be kept").Len() != 1 {
		t.Fatal("the folder takes something: the test shows nothing")
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		stop := s.Start(t.Context(), nil)
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		stop()
	})
	_, err := newSite(t, folder, nil).judge(t, older, older.Collateral())
	wantClass(t, err, attest.ClassRevoked)
}
