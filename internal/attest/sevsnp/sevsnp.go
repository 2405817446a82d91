// Package sevsnp judges whether AMD SEV-SNP attestation reports are genuine: step one of RFC 9334's appraisal. Whether a
// genuine report pleases the members is step two, and the manifest's.
//
// Evidence of this type is one ATTESTATION_REPORT of 1184 bytes (AMD publication 56860, versions 2 to 5). The certificate of
// the key that signed it, a VCEK (the chip's own) or a VLEK (a cloud provider's), comes as collateral: as DER, or in the GUID
// table that firmware hands out with a report. Certificates above it are never taken from a sender. AMD's are compiled in
// through go-sev-guest and held against fingerprints that stand in this package; the private roots of simulated platforms are
// arguments.
//
// # What holds for claims that Verify returned
//
// The checks are made in this order, and the first that fails gives the error its class:
//
//   - PARSE: length, version, every reserved byte and bit, the guest policy's unknown bits. Unknown bits of PLATFORM_INFO are
//     reported in the claims instead, for the policy to refuse, since firmware adds such bits within a version.
//   - SIG: another signature algorithm than ECDSA P-384 with SHA-384; a report that says no key signed it.
//   - PLAT: a product line other than Milan, Genoa (with Bergamo and Siena) and Turin.
//   - CHAIN, TIME: exactly one certificate of the right kind, of the form that AMD gives to its product line's, signed by the
//     line's intermediate, signed by its root; all three valid at the instant given.
//   - CHAIN: the report's CPU is of the certificate's product line, the certificate's TCB equals REPORTED_TCB, component by
//     component, and its hardware id equals CHIP_ID (which a host may mask with zeros; the claims then say so).
//   - REVOKED: no revocation list at hand names one of the certificates, and each list at hand is the root's, current, and
//     not older than the one that is held here.
//   - SIG: the report's signature.
//   - BIND: REPORT_DATA equals the 64 bytes of the binding, compared in constant time.
//
// Nothing is fetched, and no clock is read. A chain that ends in a simulated root gives claims with that root's name; the two
// kinds of root are kept apart by key, so neither passes as the other.
//
//	v, err := sevsnp.NewVerifier(sevsnp.Options{})
//	claims, err := v.Verify(ctx, evidence, binding, now, nil)
package sevsnp

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"strings"
	"time"

	"github.com/google/go-sev-guest/verify"

	"consilium.dev/internal/attest"
)

// Options says which roots a Verifier trusts beside AMD's.
type Options struct {
	// SimulatedRoots are the certificates of simulated platforms, under the names that claims will carry: first a self-signed
	// root named ARK-LINE, then the intermediates that it signed, SEV-LINE for chips and SEV-VLEK-LINE for cloud providers,
	// where LINE is Milan, Genoa or Turin.
	SimulatedRoots map[string][]*x509.Certificate
}

// Verifier judges SEV-SNP reports. It fits attest.Verifier: it is immutable, safe for concurrent use, and never panics on
// the bytes it is given.
type Verifier struct {
	issuers []issuer
}

var _ attest.Verifier = (*Verifier)(nil)

// NewVerifier returns a Verifier for AMD's roots and the simulated ones. It fails where a simulated root is malformed, is
// AMD's, or is named twice, and where a compiled-in certificate is not the one that this package's fingerprints name.
func NewVerifier(o Options) (*Verifier, error) {
	issuers, err := manufacturer()
	if err != nil {
		return nil, err
	}
	if issuers, err = simulated(issuers, o.SimulatedRoots); err != nil {
		return nil, err
	}
	return &Verifier{issuers: issuers}, nil
}

// Type returns attest.SEVSNP.
func (v *Verifier) Type() attest.Type { return attest.SEVSNP }

// Verify judges the report e.Body at the instant now, as the package's comment says. Certificates and revocation lists are
// taken from e.Collateral and from c; other kinds of collateral are not this package's and are left alone. Of b only
// ReportData counts. The error is an *attest.Error.
func (v *Verifier) Verify(_ context.Context, e attest.Evidence, b attest.Binding, now time.Time, c attest.Collateral) (claims attest.Claims, err error) {
	if claims, err = v.VerifyUnbound(e, now, c); err != nil {
		return attest.Claims{}, err
	}
	if subtle.ConstantTimeCompare(claims.SNP.ReportData[:], b.ReportData[:]) != 1 {
		return attest.Claims{}, attest.Refuse(attest.ClassBind, "REPORT_DATA is %x, want %x", claims.SNP.ReportData, b.ReportData)
	}
	return claims, nil
}

// VerifyUnbound judges as Verify does, but for the binding: it says what machine made a report, and not for whom. It is for
// showing evidence of sessions that are over; whoever admits a peer by it admits whoever has a copy.
func (v *Verifier) VerifyUnbound(e attest.Evidence, now time.Time, c attest.Collateral) (claims attest.Claims, err error) {
	defer refusePanic(&claims, &err)
	got, refusal := v.judge(e, now, c)
	if refusal != nil {
		return attest.Claims{}, refusal
	}
	return got, nil
}

// OpenUnverified returns what a report says, judging nothing but its form: anybody can write one. TCBs of reports of version 2,
// whose product line only their certificate knows, are read in Milan's order.
func OpenUnverified(raw []byte) (claims attest.Claims, err error) {
	defer refusePanic(&claims, &err)
	r, refusal := parse(raw)
	if refusal == nil && r.line == "" {
		refusal = r.readTCBs()
	}
	if refusal != nil {
		return attest.Claims{}, refusal
	}
	return attest.Claims{
		Type: attest.SEVSNP, Signed: sha256.Sum256(raw[:signedBytes]),
		SNP: r.claims(&Endorsement{SigningKey: strings.ToLower(r.signer.String())}),
	}, nil
}

// refusePanic turns a panic into a refusal: the parsers are other people's code on a stranger's bytes.
func refusePanic(claims *attest.Claims, err *error) {
	if cause := recover(); cause != nil {
		*claims, *err = attest.Claims{}, attest.Refuse(attest.ClassParse, "judging the report panicked: %v", cause)
	}
}

func (v *Verifier) judge(e attest.Evidence, now time.Time, c attest.Collateral) (attest.Claims, *attest.Error) {
	var none attest.Claims
	if e.Type != attest.SEVSNP {
		return none, attest.Refuse(attest.ClassParse, "evidence of the type %s, want %s", e.Type, attest.SEVSNP)
	}
	r, err := parse(e.Body)
	if err != nil {
		return none, err
	}
	theirs, err := read(e.Collateral)
	if err != nil {
		return none, err
	}
	ours, err := read(c)
	if err != nil {
		return none, err
	}
	cert, err := certificateOf(r, theirs, ours)
	if err != nil {
		return none, err
	}
	leaf, err := v.Endorse(cert, now)
	if err != nil {
		return none, err
	}
	if err := leaf.describes(r); err != nil {
		return none, err
	}
	revocation, err := leaf.by.revocation(cert, theirs, ours, now)
	if err != nil {
		return none, err
	}
	// The raw bytes, as received: the library's protobuf form drops what it does not know.
	if err := verify.SnpReportSignature(r.raw, cert); err != nil {
		return none, attest.Refuse(attest.ClassSig, "the report's signature by the %s: %v", r.signer, err)
	}
	return attest.Claims{
		Type:              attest.SEVSNP,
		Simulated:         leaf.Simulated,
		Signed:            sha256.Sum256(r.raw[:signedBytes]),
		RevocationChecked: revocation.checked,
		CollateralFrom:    revocation.from,
		Numbers:           revocation.numbers(leaf.Simulated, leaf.ProductLine),
		SNP:               r.claims(leaf),
	}, nil
}
