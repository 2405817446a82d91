package coordinator_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/transport"
)

// TestEvidenceKept reads the evidence of the boot and of every admission back, and judges it again as an auditor would, at a
// later time. Each is bound to its session and to what the log says of it.
func TestEvidenceKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		council := w.serve()
		w.joinAll()
		w.completed(w.start(plan(t, adam)))
		council.stop()
		boots, admissions := only[entry.Booted](w.facts()), only[entry.Admitted](w.facts())
		if len(boots) != 1 || len(admissions) != 6 { // four participants; ada to start the run and to look at it
			t.Fatalf("%d boots and %d admissions in the log, want 1 and 6", len(boots), len(admissions))
		}
		k := w.kept(boots[0].Evidence)
		w.judge(k, attest.Binding{ReportData: [64]byte(k.ReportData), Nonce: [32]byte(k.Nonce), SPKI: k.SPKI},
			attest.Peer{Office: attest.Coordinator, Name: "council"})
		seen := map[string]int{}
		for _, a := range admissions {
			seen[a.Office+" "+a.Name]++
			k := w.kept(a.Kept)
			if sum := sha256.Sum256(k.ReportData); sum != a.Binding {
				t.Errorf("%s: the kept report data are not those of the fact", a.Name)
			}
			if len(k.Evidence) != len(a.Types) || !slices.Equal(k.Sets, a.Sets) {
				t.Errorf("%s: kept are %d pieces of evidence, matching %q; the fact has %d and %q", a.Name, len(k.Evidence), k.Sets, len(a.Types), a.Sets)
			}
			s, err := transport.ParsePreimage(k.Preimage)
			if err != nil {
				t.Errorf("%s: %v", a.Name, err)
				continue
			}
			if s.Attester != a.Name || s.Verifier != "council" || s.SPKI != sha256.Sum256(k.SPKI) || s.Manifest != w.manifest.Digest() {
				t.Errorf("%s: the preimage is of another session: %+v", a.Name, s)
			}
			if a.Office == "person" {
				continue // who signs, and has no machine
			}
			w.judge(k, attest.Binding{ReportData: [64]byte(k.ReportData), Nonce: s.Nonce, SPKI: k.SPKI},
				attest.Peer{Office: attest.Participant, Name: a.Name})
		}
		want := map[string]int{"participant budapest": 1, "participant cleveland": 1, "participant longbeach": 1, "participant switzerland": 1, "person ada": 2}
		for who, n := range want {
			if seen[who] != n {
				t.Errorf("%s was admitted %d times, want %d", who, seen[who], n)
			}
		}
	})
}

// kept reads what a fact has kept.
func (w *world) kept(ref entry.Blob) entry.Kept {
	w.t.Helper()
	d := w.disks["council"]
	text, err := blob.New(d, d.kek).ReadAll(w.t.Context(), ref, entry.MaxKept)
	if err != nil {
		w.t.Fatal(err)
	}
	k, err := entry.DecodeKept(text)
	if err != nil {
		w.t.Fatal(err)
	}
	if sum := sha512.Sum512(k.Preimage); !bytes.Equal(sum[:], k.ReportData) {
		w.t.Error("the kept report data are not the SHA-512 of the kept preimage")
	}
	return k
}

// judge verifies and appraises kept evidence.
func (w *world) judge(k entry.Kept, b attest.Binding, who attest.Peer) {
	w.t.Helper()
	if len(k.Evidence) == 0 {
		w.t.Errorf("%s: no evidence was kept", who.Name)
	}
	for _, e := range k.Evidence {
		again := attest.Evidence{Body: e.Body}
		for _, c := range e.Collateral {
			again.Collateral = append(again.Collateral, attest.Item{Kind: attest.Kind(c.Kind), Bytes: c.Bytes})
		}
		judged := false
		for _, v := range w.realm.judges {
			if v.Type().String() != e.Type {
				continue
			}
			again.Type = v.Type()
			claims, err := v.Verify(w.t.Context(), again, b, time.Now(), nil)
			if err != nil {
				w.t.Errorf("%s: %v", who.Name, err)
				continue
			}
			a, err := w.manifest.Appraise(who, []attest.Claims{claims}, time.Now())
			if err != nil || !slices.Equal(a.Sets, k.Sets) {
				w.t.Errorf("%s: appraised again: %q, %v, want %q", who.Name, a.Sets, err, k.Sets)
			}
			judged = true
			b.ReportData[0] ^= 1
			if _, err := v.Verify(w.t.Context(), again, b, time.Now(), nil); err == nil {
				w.t.Errorf("%s: evidence passes for other report data", who.Name)
			}
		}
		if !judged {
			w.t.Errorf("%s: nobody judges evidence of the type %s", who.Name, e.Type)
		}
	}
}
