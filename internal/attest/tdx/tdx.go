// Package tdx judges whether quotes of Intel TDX trust domains are genuine: step one of RFC 9334's appraisal. Whether a genuine
// quote pleases the members is step two, and the manifest's.
//
// Evidence of this type is one quote of version 4 or 5 with its PCK certificate's chain in it. Intel's collateral and the event log come
// beside it. All but what the body says is judged by package dcap, whose comment lists the checks and their classes. This package
// adds, in this order:
//
//   - MEAS: an event log that came with the quote replays to all four RTMRs, by SHA-384. Without a log the claims say that there
//     was none.
//   - BIND: REPORTDATA equals the 64 bytes of the binding, compared in constant time.
//
// A quote of TDX 1.5 (version 5, body type 3) also says which TDX module runs now, where it was replaced under the domain
// (TEE_TCB_SVN_2). The platform's standing is that of the module under which the domain was started, which is the older one.
//
//	v, err := tdx.NewVerifier(tdx.Options{})
//	claims, err := v.Verify(ctx, evidence, binding, now, nil)
package tdx

import (
	"context"
	"crypto/subtle"
	"crypto/x509"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap"
)

// Options says which roots a Verifier trusts beside Intel's.
type Options struct {
	// SimulatedRoots are as in dcap.Options.
	SimulatedRoots map[string]*x509.Certificate
}

// Verifier judges TDX quotes. It fits attest.Verifier: it is immutable, safe for concurrent use, and never panics on the bytes
// it is given.
type Verifier struct {
	dcap *dcap.Verifier
}

var _ attest.Verifier = (*Verifier)(nil)

// NewVerifier returns a Verifier for Intel's root and the simulated ones. It fails as dcap.NewVerifier does.
func NewVerifier(o Options) (*Verifier, error) {
	v, err := dcap.NewVerifier(dcap.Options{SimulatedRoots: o.SimulatedRoots})
	if err != nil {
		return nil, err
	}
	return &Verifier{dcap: v}, nil
}

// Type returns attest.TDX.
func (v *Verifier) Type() attest.Type { return attest.TDX }

// Verify judges the quote e.Body at the instant now, as the package's comment says. Collateral is taken from e.Collateral and
// from c, the event log from e.Collateral alone. Of b only ReportData counts. The error is an *attest.Error.
func (v *Verifier) Verify(_ context.Context, e attest.Evidence, b attest.Binding, now time.Time, c attest.Collateral) (attest.Claims, error) {
	claims, err := v.VerifyUnbound(e, now, c)
	if err != nil {
		return attest.Claims{}, err
	}
	if subtle.ConstantTimeCompare(claims.TDX.ReportData[:], b.ReportData[:]) != 1 {
		return attest.Claims{}, attest.Refuse(attest.ClassBind, "REPORTDATA is %x, want %x", claims.TDX.ReportData, b.ReportData)
	}
	return claims, nil
}

// VerifyUnbound judges as Verify does, but for the binding: it says what machine made a quote, and not for whom. It is for showing
// evidence of sessions that are over; whoever admits a peer by it admits whoever has a copy.
func (v *Verifier) VerifyUnbound(e attest.Evidence, now time.Time, c attest.Collateral) (attest.Claims, error) {
	claims, refusal := v.judge(e, now, c)
	if refusal != nil {
		return attest.Claims{}, refusal
	}
	return claims, nil
}

func (v *Verifier) judge(e attest.Evidence, now time.Time, c attest.Collateral) (attest.Claims, *attest.Error) {
	var none attest.Claims
	if e.Type != attest.TDX {
		return none, attest.Refuse(attest.ClassParse, "evidence of the type %s, want %s", e.Type, attest.TDX)
	}
	q, err := dcap.Parse(e.Body, dcap.TDX)
	if err != nil {
		return none, err
	}
	verdict, err := v.dcap.Verify(q, e.Collateral, c, now)
	if err != nil {
		return none, err
	}
	claims := verdict.Claims(attest.TDX)
	claims.TDX = domain(q)
	claims.TDX.Platform = verdict.Platform
	if claims.TDX.EventLog, err = replay(e.Collateral, &claims.TDX.RTMR); err != nil {
		return none, err
	}
	return claims, nil
}

// OpenUnverified returns what a quote says, judging nothing but its form: anybody can write one.
func OpenUnverified(raw []byte) (attest.Claims, error) {
	q, err := dcap.Parse(raw, dcap.TDX)
	if err != nil {
		return attest.Claims{}, err
	}
	d := domain(q)
	d.Platform = q.Unverified()
	return attest.Claims{Type: attest.TDX, Signed: q.Signed(), TDX: d}, nil
}

// attributeDebug is the bit of the first byte of TDATTRIBUTES that lets the host read the domain.
const attributeDebug = 1

// domain reads a quote's body (Intel TDX DCAP Quoting Library API, "TD Quote Body", and version 5's for TDX 1.5):
//
//	0    TEE_TCB_SVN [16]      128  XFAM [8]             328  RTMR0 to RTMR3, 48 each
//	16   MRSEAM [48]           136  MRTD [48]            520  REPORTDATA [64]
//	64   MRSIGNERSEAM [48]     184  MRCONFIGID [48]      584  TEE_TCB_SVN_2 [16], 1.5 only
//	112  SEAMATTRIBUTES [8]    232  MROWNER [48]         600  MRSERVICETD [48], 1.5 only
//	120  TDATTRIBUTES [8]      280  MROWNERCONFIG [48]
func domain(q *dcap.Quote) *attest.TrustDomain {
	d := &attest.TrustDomain{Version: q.Version}
	rest := q.Body
	fill := func(fields ...[]byte) {
		for _, dst := range fields {
			rest = rest[copy(dst, rest):]
		}
	}
	fill(d.TEETCBSVN[:], d.MRSEAM[:], d.MRSignerSEAM[:], d.SEAMAttributes[:], d.TDAttributes[:], d.XFAM[:],
		d.MRTD[:], d.MRConfigID[:], d.MROwner[:], d.MROwnerConfig[:],
		d.RTMR[0][:], d.RTMR[1][:], d.RTMR[2][:], d.RTMR[3][:], d.ReportData[:])
	if d.TD15 = len(rest) > 0; d.TD15 {
		fill(d.TEETCBSVN2[:], d.MRServiceTD[:])
	}
	d.Debug = d.TDAttributes[0]&attributeDebug != 0
	return d
}
