package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"slices"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/transport"
)

// slack is how far a coordinator's clock may have been set back between judging a peer and writing its admission down.
const slack = time.Minute

// kept returns what was kept at a line, after comparing it with the fact that names it.
func (a *auditor) kept(n int64, ref entry.Blob) (entry.Kept, error) {
	text, err := a.keptText(n, ref)
	if err != nil {
		return entry.Kept{}, err
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

// keptText returns the bytes that were kept at a line, after comparing them with the fact that names them.
func (a *auditor) keptText(n int64, ref entry.Blob) ([]byte, error) {
	path := keptPath(a.folder, n)
	a.named[filepath.Base(path)] = true
	text, err := read(path, entry.MaxKept)
	if err != nil {
		return nil, fmt.Errorf("what was kept of it is missing: %w", err)
	}
	if sha256.Sum256(text) != ref.Plain || int64(len(text)) != ref.Size {
		return nil, errors.New("what is here as kept of it is not what the log names")
	}
	return text, nil
}

// booted judges the coordinator's own evidence over the log's key, as of its boot. Whom its predecessor had admitted and what
// it held is gone.
func (a *auditor) booted(ctx context.Context, n int64, root [32]byte, at time.Time, f entry.Booted) {
	a.report.Boots++
	a.boot, a.bootedAt, a.coordinator, a.unproven = n, at, f.Coordinator, false
	if !f.Since.IsZero() { // it admitted witnesses before it could write so down
		a.bootedAt = f.Since
		if len(a.sets.Deciding(n)) == 0 || f.Since.After(at) {
			a.find(n, "it is said to have waited since %s for witnesses, and there are none, or that is later than its boot", f.Since.Format(time.RFC3339))
			a.bootedAt = at
		}
	}
	clear(a.admitted)
	clear(a.fresh)
	if err := a.judgeBoot(ctx, n, root, at, f); err != nil {
		a.find(n, "boot of %s: %v", f.Coordinator, err)
	}
}

func (a *auditor) judgeBoot(ctx context.Context, n int64, root [32]byte, at time.Time, f entry.Booted) error {
	k, err := a.kept(n, f.Evidence)
	if err != nil {
		return err
	}
	if f.LogKey != a.report.LogKey {
		return errors.New("it signed the log with another key than those before it")
	}
	if raw, err := hex.DecodeString(f.Instance); err != nil || len(raw) != 16 || hex.EncodeToString(raw) != f.Instance {
		return errors.New("its instance is not 32 hex digits")
	}
	if before, again := a.instances[f.Instance]; again {
		return fmt.Errorf("it is the process that booted at line %d", before)
	}
	a.instances[f.Instance] = n
	if len(k.Nonce) != 32 {
		return errors.New("its evidence is bound to another history")
	}
	// The head that it was bound to is that of the log which it took over: before this line, or before the adoption of the
	// manifest that came with it.
	if a.adopting && [32]byte(k.Nonce) == a.adopted {
		root = a.adopted
	}
	return a.judgeEnclave(ctx, k, root, at, f.Coordinator, entry.Enclave{Types: f.Types, Sets: f.Sets, Simulated: f.Simulated})
}

// entered judges a peer's evidence, or a person's signature, as of its admission.
func (a *auditor) entered(ctx context.Context, n int64, at time.Time, f entry.Admitted) {
	a.report.Admissions[f.Office+" "+f.Name]++
	office, err := a.judgeAdmission(ctx, n, at, f)
	if err != nil {
		a.find(n, "admission of %s %s: %v", f.Office, f.Name, err)
		return
	}
	a.rising(n, issued(at, f), f)
	w := who{office, f.Name}
	a.admitted[w] = later(a.admitted[w], f.Expires) // of several connections any may be used
}

// rising finds numbers that are lower than one by which an admission was judged before: the coordinator's memory of the highest was taken
// from it. Lines do not stand in the order in which peers were judged: who is silent over a new connection is written down when it
// calls, after others who came later and showed more.
func (a *auditor) rising(n int64, judged time.Time, f entry.Admitted) {
	for _, of := range f.Numbers {
		number, ok := new(big.Int).SetString(of.Number, 10)
		if !ok {
			continue // which is not what it was judged by
		}
		known := a.numbers[of.Name]
		lower := slices.IndexFunc(known, func(b seen) bool {
			return number.Cmp(b.number) < 0 && judged.After(b.judged.Add(slack)) // two at once do not see each other's
		})
		same := slices.IndexFunc(known, func(b seen) bool { return number.Cmp(b.number) == 0 })
		switch {
		case lower >= 0:
			a.find(n, "admission of %s %s: it was judged by %s of the number %s, and line %d by one of the number %s: somebody rolled back what the coordinator keeps",
				f.Office, f.Name, of.Name, of.Number, known[lower].line, known[lower].number)
		case same < 0:
			a.numbers[of.Name] = append(known, seen{number, n, judged})
		case judged.Before(known[same].judged):
			known[same].line, known[same].judged = n, judged
		}
	}
}

func numbersOf(claims []attest.Claims) []entry.Number {
	var all []entry.Number
	for _, c := range claims {
		for _, n := range c.Numbers {
			all = append(all, entry.Number(n))
		}
	}
	return all
}

func (a *auditor) judgeAdmission(ctx context.Context, n int64, at time.Time, f entry.Admitted) (attest.Office, error) {
	k, err := a.kept(n, f.Kept)
	if err != nil {
		return 0, err
	}
	s, err := a.session(n, at, k, f)
	if err != nil {
		return 0, err
	}
	b := attest.Binding{ReportData: [64]byte(k.ReportData), Nonce: s.Nonce, SPKI: k.SPKI}
	peer := attest.Peer{Office: s.Office, Name: f.Name}
	judged := issued(at, f)
	var appraisal attest.Appraisal
	claims := []attest.Claims{{Type: attest.Signature}}
	var signed []entry.Digest
	if s.Office == attest.Person {
		appraisal, err = a.person(k, b, peer, judged)
	} else {
		appraisal, claims, err = a.appraise(ctx, k, b, peer, judged)
		for _, c := range claims {
			signed = append(signed, c.Signed)
		}
	}
	switch {
	case err != nil:
		return 0, err
	case !slices.Equal(f.Types, typesOf(claims)) || !slices.Equal(f.Evidence, signed):
		return 0, errors.New("the log names other evidence")
	case len(f.Numbers) > 0 && !slices.Equal(f.Numbers, numbersOf(claims)):
		return 0, errors.New("the log names other numbers of revocation lists and the like than those that it was judged by")
	case judged.After(at.Add(slack)):
		return 0, errors.New("its evidence is said to have been judged after it was admitted")
	case judged.Before(a.bootedAt.Add(-slack)):
		return 0, errors.New("its evidence is said to have been judged before the coordinator had booted")
	case f.Expires.After(judged.Add(appraisal.TTL + slack)):
		return 0, errors.New("its appraisal was made to last longer than the manifest lets it")
	case at.After(f.Expires.Add(slack)):
		return 0, errors.New("its appraisal had ended before")
	}
	return s.Office, sameAppraisal(appraisal, k, f.Sets, f.Any, f.Simulated)
}

// issued returns when the evidence of an admission was judged: at the handshake, while the admission is written down with the
// first call, which may be as late as the appraisal lasts. Logs of before the instant was written down have only the latter.
func issued(at time.Time, f entry.Admitted) time.Time {
	if f.Issued.IsZero() {
		return at
	}
	return f.Issued
}

// session judges what an admission is bound to: a session of its own, of that peer with the coordinator that had booted, under
// this manifest, over a key that the identity key of the peer has endorsed.
func (a *auditor) session(n int64, at time.Time, k entry.Kept, f entry.Admitted) (transport.Session, error) {
	if sha256.Sum256(k.ReportData) != f.Binding {
		return transport.Session{}, errors.New("its evidence is bound to another session than the log names")
	}
	if before, again := a.sessions[f.Binding]; again {
		return transport.Session{}, fmt.Errorf("its session was admitted at line %d already", before)
	}
	a.sessions[f.Binding] = n
	s, err := transport.ParsePreimage(k.Preimage)
	if err != nil {
		return s, err
	}
	m := a.manifest
	switch {
	case s.Federation != m.Federation() || s.Epoch != m.Epoch() || s.Manifest != m.Digest() || s.Office.String() != f.Office ||
		s.Attester != f.Name || s.Office == attest.Coordinator || !s.Dialled:
		return s, errors.New("its session was of another peer, epoch or manifest than the log says")
	case s.Verifier != a.coordinator:
		return s, fmt.Errorf("its session was with %s, and %s had booted", s.Verifier, a.coordinator)
	}
	if boot, known := a.leaves[s.PeerSPKI]; known && boot != a.boot {
		return s, fmt.Errorf("its session was with the process that booted at line %d", boot)
	}
	a.leaves[s.PeerSPKI] = a.boot
	l, err := transport.ParseLeaf(m, k.Leaf, issued(at, f))
	switch {
	case err != nil:
		return s, err
	case l.Federation != m.Federation() || l.Office != s.Office || l.Name != f.Name || l.Instance != f.Instance ||
		l.SPKI != s.SPKI || sha256.Sum256(k.SPKI) != s.SPKI:
		return s, errors.New("the key of its session was endorsed for somebody else")
	case f.Expires.After(l.NotAfter):
		return s, errors.New("its appraisal was made to last longer than its key")
	}
	return s, nil
}

// person judges a signature in place of evidence.
func (a *auditor) person(k entry.Kept, b attest.Binding, p attest.Peer, at time.Time) (attest.Appraisal, error) {
	key, ok := a.manifest.Key(attest.Person, p.Name)
	if !ok {
		return attest.Appraisal{}, errors.New("the manifest knows no such person")
	}
	if len(k.Evidence) != 1 || k.Evidence[0].Type != attest.Signature.String() || len(k.Evidence[0].Collateral) != 0 ||
		!ed25519.Verify(key, transport.PersonInput(b.ReportData), k.Evidence[0].Body) {
		return attest.Appraisal{}, errors.New("the signature is not of the key that the manifest gives this person")
	}
	a.report.Evidence++
	return a.manifest.Appraise(p, []attest.Claims{{Type: attest.Signature}}, at)
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

func typesOf(claims []attest.Claims) []string {
	var names []string
	for _, c := range claims {
		names = append(names, c.Type.String())
	}
	return names
}

// sameAppraisal compares an appraisal with what was written down of it, in the log and beside the evidence.
func sameAppraisal(a attest.Appraisal, k entry.Kept, sets, open []string, simulated string) error {
	switch {
	case !slices.Equal(a.Sets, sets) || !slices.Equal(a.Sets, k.Sets) || a.Simulated != simulated:
		return errors.New("it matches other reference sets than the log says")
	case !slices.Equal(a.Any, open) || !slices.Equal(a.Any, k.Any):
		return errors.New("other fields of the reference sets were left unjudged than the log says")
	}
	return nil
}
