package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"slices"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/transport"
)

// kept returns what was kept at a line, after comparing it with the digest in the fact.
func (a *auditor) kept(n int64, ref entry.Blob) (entry.Kept, error) {
	text, err := read(keptPath(a.folder, n), entry.MaxKept)
	if err != nil {
		return entry.Kept{}, fmt.Errorf("what was kept of it is missing: %w", err)
	}
	if digestOf(text) != ref.Plain {
		return entry.Kept{}, errors.New("what is here as kept of it is not what the log names")
	}
	k, err := entry.DecodeKept(text)
	if err != nil {
		return k, err
	}
	if sum := sha512.Sum512(k.Preimage); !bytes.Equal(sum[:], k.ReportData) {
		return k, errors.New("the report data that were kept are not the hash of their preimage")
	}
	return k, nil
}

// booted judges the coordinator's own evidence over the log's key, as of its boot.
func (a *auditor) booted(ctx context.Context, n int64, root [32]byte, at time.Time, f entry.Booted) {
	a.report.Boots++
	clear(a.admitted) // what a boot does not remember it admits anew
	if err := a.judgeBoot(ctx, n, root, at, f); err != nil {
		a.find(n, "boot of %s: %v", f.Coordinator, err)
	}
}

func (a *auditor) judgeBoot(ctx context.Context, n int64, root [32]byte, at time.Time, f entry.Booted) error {
	if f.LogKey != a.report.LogKey {
		return errors.New("it signed the log with another key than those before it")
	}
	k, err := a.kept(n, f.Evidence)
	if err != nil {
		return err
	}
	// The head that it was bound to is that of the log which it took over: before this line, or before the adoption of the
	// manifest that came with it.
	if len(k.Nonce) != 32 || [32]byte(k.Nonce) != root && [32]byte(k.Nonce) != a.before[0] {
		return errors.New("its evidence is bound to another history")
	}
	data, _ := transport.LogKeyBinding(a.spki, a.manifest.Federation(), a.manifest.Digest(), [32]byte(k.Nonce))
	b := attest.Binding{ReportData: data, Nonce: [32]byte(k.Nonce), SPKI: a.spki}
	appraisal, _, err := a.appraise(ctx, k, b, attest.Peer{Office: attest.Coordinator, Name: f.Coordinator}, at)
	if err != nil {
		return err
	}
	return sameAppraisal(appraisal, f.Sets, f.Simulated)
}

// entered judges a peer's evidence, or a person's signature, as of its admission.
func (a *auditor) entered(ctx context.Context, n int64, at time.Time, f entry.Admitted) {
	a.report.Admissions[f.Office+" "+f.Name]++
	if err := a.judgeAdmission(ctx, n, at, f); err != nil {
		a.find(n, "admission of %s %s: %v", f.Office, f.Name, err)
		return
	}
	if f.Office == attest.Participant.String() {
		a.admitted[entry.Member(f.Name)] = f.Expires
	}
}

func (a *auditor) judgeAdmission(ctx context.Context, n int64, at time.Time, f entry.Admitted) error {
	k, err := a.kept(n, f.Kept)
	if err != nil {
		return err
	}
	if sha256.Sum256(k.ReportData) != f.Binding {
		return errors.New("its evidence is bound to another session than the log names")
	}
	s, err := transport.ParsePreimage(k.Preimage)
	if err != nil {
		return err
	}
	m := a.manifest
	if s.Federation != m.Federation() || s.Epoch != m.Epoch() || s.Manifest != m.Digest() || s.Office.String() != f.Office ||
		s.Attester != f.Name || !s.Dialled || sha256.Sum256(k.SPKI) != s.SPKI {
		return errors.New("its session was of another peer, epoch or manifest than the log says")
	}
	b := attest.Binding{ReportData: [64]byte(k.ReportData), Nonce: s.Nonce, SPKI: k.SPKI}
	peer := attest.Peer{Office: s.Office, Name: f.Name}
	if s.Office == attest.Person {
		return a.person(k, b, peer, at, f)
	}
	appraisal, claims, err := a.appraise(ctx, k, b, peer, at)
	if err != nil {
		return err
	}
	for i, c := range claims {
		if i >= len(f.Evidence) || entry.Digest(c.Signed) != f.Evidence[i] || i >= len(f.Types) || f.Types[i] != c.Type.String() {
			return errors.New("the log names other evidence")
		}
	}
	if len(claims) != len(f.Evidence) {
		return errors.New("the log names more evidence than there is")
	}
	if f.Expires.After(at.Add(appraisal.TTL + grace)) {
		return errors.New("its appraisal was made to last longer than the manifest lets it")
	}
	return sameAppraisal(appraisal, f.Sets, f.Simulated)
}

// person judges a signature in place of evidence.
func (a *auditor) person(k entry.Kept, b attest.Binding, p attest.Peer, at time.Time, f entry.Admitted) error {
	key, ok := a.manifest.Key(attest.Person, p.Name)
	if !ok {
		return errors.New("the manifest knows no such person")
	}
	if len(k.Evidence) != 1 || k.Evidence[0].Type != attest.Signature.String() ||
		!ed25519.Verify(key, transport.PersonInput(b.ReportData), k.Evidence[0].Body) {
		return errors.New("the signature is not of the key that the manifest gives this person")
	}
	a.report.Evidence++
	if f.Simulated != "" {
		return errors.New("a person is said to be a simulated enclave")
	}
	return nil
}

// appraise takes both steps, genuine? and expected?, at the logged instant.
func (a *auditor) appraise(ctx context.Context, k entry.Kept, b attest.Binding, p attest.Peer, at time.Time) (attest.Appraisal, []attest.Claims, error) {
	var claims []attest.Claims
	for _, e := range k.Evidence {
		t, _ := attest.ParseType(e.Type)
		i := slices.IndexFunc(a.verifiers, func(v attest.Verifier) bool { return v.Type() == t })
		if i < 0 {
			return attest.Appraisal{}, nil, fmt.Errorf("nothing here judges evidence of the type %.32q", e.Type)
		}
		evidence := attest.Evidence{Type: t, Body: e.Body}
		for _, c := range e.Collateral {
			evidence.Collateral = append(evidence.Collateral, attest.Item{Kind: attest.Kind(c.Kind), Bytes: c.Bytes})
		}
		said, err := a.verifiers[i].Verify(ctx, evidence, b, at, nil)
		if err != nil {
			return attest.Appraisal{}, nil, err
		}
		claims = append(claims, said)
		a.report.Evidence++
	}
	appraisal, err := a.manifest.Appraise(p, claims, at)
	if err != nil {
		return attest.Appraisal{}, nil, err
	}
	for _, field := range appraisal.Any {
		a.open[field] = true
	}
	if appraisal.Simulated != "" {
		a.simulated[appraisal.Simulated] = true
	}
	return appraisal, claims, nil
}

func sameAppraisal(a attest.Appraisal, sets []string, simulated string) error {
	if !slices.Equal(a.Sets, sets) || a.Simulated != simulated {
		return errors.New("it matches other reference sets than the log says")
	}
	return nil
}
