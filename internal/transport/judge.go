package transport

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha512"
	"errors"
	"slices"
	"time"

	"consilium.dev/internal/attest"
)

// judgement is what came of the peer's evidence.
type judgement struct {
	evidence    []attest.Evidence
	claims      []attest.Claims
	appraisal   attest.Appraisal
	binding     [64]byte
	preimage    []byte
	at, expires time.Time
}

// reportInput returns what the report data of one side is made of.
func (x *exchange) reportInput(attester side, bundle []byte) reportInput {
	me := party{name: x.mine.own, spki: x.own.spki, nonce: x.mine.nonce}
	peer := party{name: x.theirs.own, spki: x.leafCert().RawSubjectPublicKeyInfo, nonce: x.theirs.nonce}
	r := reportInput{
		side: attester, office: x.mine.office, epoch: x.mine.epoch, ekm: x.ekm.of(attester), th: x.th,
		attester: me, verifier: peer, federation: x.mine.federation, manifest: x.mine.manifest, bundle: bundle,
	}
	if attester != x.side {
		r.office, r.attester, r.verifier = x.theirs.office, peer, me
	}
	return r
}

// judge answers for the peer's EVIDENCE: genuine, then expected (steps 4 to 14).
func (x *exchange) judge(ctx context.Context, body []byte) (judgement, error) {
	all, err := parseEvidence(body, x.theirs.types)
	if err != nil {
		return judgement{}, err
	}
	pre := x.reportInput(x.side.other(), deviceBundle(all)).preimage()
	j := &x.judged // as far as it comes
	*j = judgement{evidence: all, preimage: pre, binding: sha512.Sum512(pre), at: x.c.cfg.Now()}
	claims := []attest.Claims{{Type: attest.Signature}}
	if x.claimed.office == attest.Person {
		err = x.judgePerson(all[0], j.binding)
	} else {
		j.claims, err = x.judgeMachine(ctx, *j)
		claims = j.claims
	}
	if err != nil {
		return judgement{}, err
	}
	appraisal, err := x.c.cfg.Policy.Appraise(x.who(), claims, j.at)
	if err != nil {
		return judgement{}, classed(err, attest.ClassManifest)
	}
	if appraisal.TTL <= 0 {
		return judgement{}, attest.Refuse(attest.ClassTime, "the policy's appraisal holds for %v", appraisal.TTL)
	}
	j.appraisal, j.expires = appraisal, j.at.Add(appraisal.TTL)
	if end := x.leafCert().NotAfter; end.Before(j.expires) {
		j.expires = end
	}
	return *j, nil
}

// judgePerson checks the signature that a person sends in place of evidence.
func (x *exchange) judgePerson(e attest.Evidence, b [64]byte) error {
	if len(e.Collateral) != 0 || len(e.Body) != ed25519.SignatureSize {
		return attest.Refuse(attest.ClassParse, "a person's evidence is not one signature alone")
	}
	key, ok := x.c.cfg.Policy.Key(attest.Person, x.claimed.name)
	if !ok || len(key) != ed25519.PublicKeySize {
		return attest.Refuse(attest.ClassManifest, "the manifest has no key for the person %q", x.claimed.name)
	}
	if !ed25519.Verify(key, PersonInput(b), e.Body) {
		return attest.Refuse(attest.ClassBind, "the signature of %q is not over this session", x.claimed.name)
	}
	return nil
}

// binding is what the peer's evidence must carry.
func (x *exchange) binding(j judgement) attest.Binding {
	return attest.Binding{
		ReportData: j.binding, Nonce: x.mine.nonce, SPKI: x.leafCert().RawSubjectPublicKeyInfo,
		Seed: deviceSeed(x.ekm.of(x.side.other()), x.mine.nonce),
	}
}

// judgeMachine has the evidence verified, each piece by the verifier of its type: is it genuine, and of this session?
func (x *exchange) judgeMachine(ctx context.Context, j judgement) ([]attest.Claims, error) {
	cfg := &x.c.cfg
	b := x.binding(j)
	ctx = attest.ForPeer(ctx, x.who())
	var all []attest.Claims
	for i, e := range j.evidence {
		v := verifier(cfg.Verifiers, e.Type)
		if v == nil {
			return nil, attest.Refuse(attest.ClassPlat, "nobody here verifies evidence of type %v", e.Type)
		}
		claims, err := v.Verify(ctx, e, b, j.at, cfg.Collateral)
		if err != nil {
			return nil, classed(err, attest.ClassParse)
		}
		if claims.Type != e.Type {
			return nil, attest.Refuse(attest.ClassParse, "claims of type %v from evidence of type %v", claims.Type, e.Type)
		}
		if claims.Judged != nil { // who judges it again needs the same
			j.evidence[i].Collateral, claims.Judged = claims.Judged, nil
		}
		all = append(all, claims)
	}
	return all, nil
}

func verifier(all []attest.Verifier, t attest.Type) attest.Verifier {
	for _, v := range all {
		if v.Type() == t {
			return v
		}
	}
	return nil
}

// classed gives an error that has no class the one named.
func classed(err error, c attest.Class) error {
	var e *attest.Error
	if errors.As(err, &e) {
		return err
	}
	return &attest.Error{Class: c, Err: err}
}

// attest returns our EVIDENCE body. Devices are asked first, since the report data covers them; one at a time is asked,
// since hardware gives one quote at a time.
func (x *exchange) attest(ctx context.Context) ([]byte, error) {
	cfg := &x.c.cfg
	if cfg.Attester == nil {
		return x.sign()
	}
	var before []chan struct{}
	if x.guest != nil {
		// One of a name stands in the line, and its others wait for that one: a name gets one quote in turn with the rest.
		before = append(before, x.guest.quote)
	}
	release, err := cfg.Quotes.enter(ctx, before...)
	if err != nil {
		return nil, attest.Refuse(attest.ClassRate, "waiting for our own attester: %w", err)
	}
	defer release()
	seed := deviceSeed(x.ekm.of(x.side), x.theirs.nonce)
	devices, err := cfg.Attester.Devices(ctx, seed)
	if err != nil {
		return nil, attest.Refuse(attest.ClassDev, "our own devices: %w", err)
	}
	// The place of the CPU's evidence, with what it will cover.
	all := append([]attest.Evidence{{Type: x.mine.types[0], Collateral: only(slices.Concat(cfg.Collateral, cfg.Attester.Covered()), true)}}, devices...)
	b := attest.Binding{
		ReportData: sha512.Sum512(x.reportInput(x.side, deviceBundle(all)).preimage()),
		Nonce:      x.theirs.nonce, SPKI: x.own.spki, Seed: seed,
	}
	e, err := cfg.Attester.Attest(ctx, b)
	if err != nil && ctx.Err() != nil {
		return nil, attest.Refuse(attest.ClassRate, "our own attester was too slow for this handshake: %w", err)
	}
	if err != nil {
		return nil, attest.Refuse(attest.ClassPlat, "our own attester: %w", err)
	}
	if len(only(e.Collateral, true)) != 0 {
		return nil, attest.Refuse(attest.ClassPlat,
			"our own attester gave an event log or initdata with its evidence, which cannot cover it then: its Covered has to give it before")
	}
	all[0].Body, all[0].Collateral = e.Body, append(all[0].Collateral, e.Collateral...)
	return x.fit(e.Type, all)
}

// fit encodes our evidence and sends as much of our own collateral along as the frame's cap allows.
func (x *exchange) fit(got attest.Type, all []attest.Evidence) ([]byte, error) {
	if got != x.mine.types[0] || len(all) != len(x.mine.types) {
		return nil, attest.Refuse(attest.ClassPlat, "our own attester gave %v and %d more, but announced %v",
			got, len(all)-1, x.mine.types)
	}
	for i, e := range all {
		if e.Type != x.mine.types[i] {
			return nil, attest.Refuse(attest.ClassPlat, "our own attester gave %v, but announced %v", e.Type, x.mine.types[i])
		}
	}
	limit := evidenceLimit(x.mine.types)
	body := encodeEvidence(all)
	if len(body) > limit {
		return nil, attest.Refuse(attest.ClassFrame, "our own evidence has %d bytes, at most %d allowed", len(body), limit)
	}
	for _, i := range only(x.c.cfg.Collateral, false) {
		all[0].Collateral = append(all[0].Collateral, i)
		more := encodeEvidence(all)
		if len(more) > limit {
			all[0].Collateral = all[0].Collateral[:len(all[0].Collateral)-1]
			continue
		}
		body = more
	}
	return body, nil
}

// only returns the items that evidence covers, or those that it does not.
func only(c attest.Collateral, bound bool) attest.Collateral {
	var out attest.Collateral
	for _, i := range c {
		if boundKind(i.Kind) == bound {
			out = append(out, i)
		}
	}
	return out
}

// sign returns a person's EVIDENCE body.
func (x *exchange) sign() ([]byte, error) {
	b := sha512.Sum512(x.reportInput(x.side, nil).preimage())
	sig, err := x.c.cfg.Identity.Sign(x.c.cfg.Rand, PersonInput(b), crypto.Hash(0))
	if err != nil {
		return nil, attest.Refuse(attest.ClassSig, "our own identity key: %w", err)
	}
	return encodeEvidence([]attest.Evidence{{Type: attest.Signature, Body: sig}}), nil
}
