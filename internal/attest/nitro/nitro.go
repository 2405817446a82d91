// Package nitro judges whether AWS Nitro Enclaves attestation documents are genuine: step one of RFC 9334's appraisal.
// Whether a genuine document pleases the members is step two, and the manifest's.
//
// Evidence of this type is one document as the Nitro Security Module signs it: a COSE_Sign1 (RFC 9052) whose payload is a
// CBOR map with the enclave's measurements, a certificate that lives three hours, and the certificates above it up to the
// root (AWS, "Nitro Enclaves attestation process"). It needs no collateral. AWS's root is compiled in through nitrite and
// held against a fingerprint that stands in this package; the private roots of simulated platforms are arguments.
//
// # What holds for claims that Verify returned
//
// The checks are made in this order, and the first that fails gives the error its class:
//
//   - SIG: a COSE tag other than 18 or none; a protected header other than {alg: ES384} alone, byte for byte; a signature of
//     other than 96 bytes.
//   - PARSE: the envelope (definite lengths, an empty unprotected header, no trailing bytes, a payload of 1 to 16384 bytes)
//     and the document: exactly the fields that AWS documents, none twice; SHA384 and registers 0 to 31 of 48 bytes, of which
//     0, 1 and 2 must be there. Indefinite lengths are allowed inside the payload, since newer modules write them.
//   - CHAIN: the bundle begins with a root that is trusted here, byte for byte, and each certificate is signed by the one
//     before it, down to the document's own: P-384, critical extensions, path lengths and key usages included.
//   - TIME: every certificate is valid at the instant given; the document was made within its certificate's life and not
//     after the instant given, both give or take a minute.
//   - SIG: the signature, by nitrite, which verifies the chain once more.
//   - BIND: nonce, user_data and public_key are all there and equal the binding's nonce, report data and key, compared in
//     constant time.
//
// How old a document may be is the policy's to say. AWS publishes revocation lists for the chain, but nothing here reads
// them: claims say that revocation was not checked. Nothing is fetched, and no clock is read.
//
//	v, err := nitro.NewVerifier(nitro.Options{})
//	claims, err := v.Verify(ctx, evidence, binding, now, nil)
package nitro

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/hf/nitrite"

	"consilium.dev/internal/attest"
)

// Options says which roots a Verifier trusts beside AWS's.
type Options struct {
	// SimulatedRoots are the certificates of simulated platforms, under the names that claims will carry: one self-signed
	// P-384 root each.
	SimulatedRoots map[string][]*x509.Certificate
}

// Verifier judges Nitro documents. It fits attest.Verifier: it is immutable, safe for concurrent use, and never panics on
// the bytes it is given.
type Verifier struct {
	roots []root
}

var _ attest.Verifier = (*Verifier)(nil)

// NewVerifier returns a Verifier for AWS's root and the simulated ones. It fails where a simulated root is malformed, is
// AWS's, or is named twice, and where the compiled-in root is not the one that this package's fingerprint names.
func NewVerifier(o Options) (*Verifier, error) {
	aws, err := manufacturer()
	if err != nil {
		return nil, err
	}
	roots, err := simulated(aws, o.SimulatedRoots)
	if err != nil {
		return nil, err
	}
	return &Verifier{roots: roots}, nil
}

// Type returns attest.Nitro.
func (v *Verifier) Type() attest.Type { return attest.Nitro }

// Verify judges the document e.Body at the instant now, as the package's comment says. All of b but the seed counts.
// Collateral is left alone. The error is an *attest.Error.
func (v *Verifier) Verify(_ context.Context, e attest.Evidence, b attest.Binding, now time.Time, _ attest.Collateral) (attest.Claims, error) {
	if e.Type != attest.Nitro {
		return attest.Claims{}, attest.Refuse(attest.ClassParse, "evidence of the type %s, want %s", e.Type, attest.Nitro)
	}
	claims, doc, err := v.genuine(e.Body, now)
	if err != nil {
		return attest.Claims{}, err
	}
	if err := doc.bound(b.Nonce[:], b.ReportData[:], b.SPKI); err != nil {
		return attest.Claims{}, err
	}
	return claims, nil
}

// VerifyUnbound judges as Verify does, but for the binding: it says what enclave made a document, and not for whom. It is for
// showing evidence of sessions that are over; whoever admits a peer by it admits whoever has a copy.
func (v *Verifier) VerifyUnbound(e attest.Evidence, now time.Time, _ attest.Collateral) (attest.Claims, error) {
	if e.Type != attest.Nitro {
		return attest.Claims{}, attest.Refuse(attest.ClassParse, "evidence of the type %s, want %s", e.Type, attest.Nitro)
	}
	claims, _, err := v.genuine(e.Body, now)
	if err != nil {
		return attest.Claims{}, err
	}
	return claims, nil
}

// OpenUnverified returns what a document says, judging nothing but its form: anybody can write one.
func OpenUnverified(raw []byte) (attest.Claims, error) {
	env, err := open(raw)
	if err != nil {
		return attest.Claims{}, err
	}
	doc, err := parse(env.Payload)
	if err != nil {
		return attest.Claims{}, err
	}
	return doc.claims(env.Payload), nil
}

// genuine judges everything but the binding.
func (v *Verifier) genuine(raw []byte, now time.Time) (claims attest.Claims, doc *document, refusal *attest.Error) {
	// The parsers below are other people's code on a stranger's bytes: nitrite panics on curves that it does not know.
	defer func() {
		if cause := recover(); cause != nil {
			claims, doc = attest.Claims{}, nil
			refusal = attest.Refuse(attest.ClassParse, "judging the document panicked: %v", cause)
		}
	}()
	env, refusal := open(raw)
	if refusal != nil {
		return claims, nil, refusal
	}
	if doc, refusal = parse(env.Payload); refusal != nil {
		return claims, nil, refusal
	}
	by, chain, refusal := v.chain(doc)
	if refusal != nil {
		return claims, nil, refusal
	}
	if refusal = inTime(chain, doc.made(), now); refusal != nil {
		return claims, nil, refusal
	}
	if refusal = by.signature(raw, now); refusal != nil {
		return claims, nil, refusal
	}
	claims = doc.claims(env.Payload)
	claims.Simulated = by.simulated
	return claims, doc, nil
}

// claims returns what the document says, in the house's words.
func (d *document) claims(payload []byte) attest.Claims {
	return attest.Claims{
		Type:   attest.Nitro,
		Signed: sha256.Sum256(payload),
		Nitro: &attest.NitroDocument{
			ModuleID:  d.ModuleID,
			Timestamp: d.made(),
			PCRs:      maps.Clone(d.registers),
			Debug:     d.debug(),
			Nonce:     slices.Clone(d.Nonce),
			UserData:  slices.Clone(d.UserData),
			PublicKey: slices.Clone(d.PublicKey),
		},
	}
}

// signature has nitrite verify the document as a whole. It gets the root and the instant every time: it would fill in AWS's
// and the clock's. (The zero instant, for which it would do so all the same, is in no chain's time.)
func (r *root) signature(raw []byte, now time.Time) *attest.Error {
	_, err := nitrite.Verify(raw, nitrite.VerifyOptions{Roots: r.pool, CurrentTime: now})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nitrite.ErrBadSignature):
		return attest.Refuse(attest.ClassSig, "the document's signature is not its certificate's")
	case errors.Is(err, nitrite.ErrBadNonce), errors.Is(err, nitrite.ErrBadUserData), errors.Is(err, nitrite.ErrBadPublicKey):
		return attest.Refuse(attest.ClassBind, "longer than any binding: %v", err)
	}
	return attest.Refuse(attest.ClassChain, "by nitrite: %v", err)
}

// bound checks that the document was made for one session and one side of it.
func (d *document) bound(nonce, userData, publicKey []byte) *attest.Error {
	for _, err := range []*attest.Error{
		equal("nonce", d.Nonce, nonce), equal("user_data", d.UserData, userData), equal("public_key", d.PublicKey, publicKey),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// equal compares a field in constant time. An absent field equals nothing, an empty wish included.
func equal(name string, got, want []byte) *attest.Error {
	if len(got) == 0 {
		return attest.Refuse(attest.ClassBind, "the document has no %s", name)
	}
	if subtle.ConstantTimeCompare(got, want) != 1 {
		return attest.Refuse(attest.ClassBind, "%s is %d bytes with the digest %x, want %d with %x", name, len(got),
			sha256.Sum256(got), len(want), sha256.Sum256(want))
	}
	return nil
}
