// Package sgx judges whether quotes of Intel SGX enclaves are genuine: step one of RFC 9334's appraisal. Whether a genuine quote
// pleases the members is step two, and the manifest's.
//
// Evidence of this type is one quote of version 3 (DCAP, ECDSA) with its PCK certificate's chain in it; EPID's quotes are refused.
// Intel's collateral comes beside it. All but what the body says is judged by package dcap, whose comment lists the checks and their
// classes. This package adds, before them:
//
//   - PARSE: reserved bytes of the report; the enclave was initialised (INIT) and is of 64 bits (MODE64BIT).
//
// and after them:
//
//   - BIND: REPORTDATA equals the 64 bytes of the binding, compared in constant time.
//
// Usage:
//
//	v, err := sgx.NewVerifier(sgx.Options{})
//	claims, err := v.Verify(ctx, evidence, binding, now, nil)
package sgx

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

// Verifier judges SGX quotes. It fits attest.Verifier: it is immutable, safe for concurrent use, and never panics on the bytes
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

// Type returns attest.SGX.
func (v *Verifier) Type() attest.Type { return attest.SGX }

// Verify judges the quote e.Body at the instant now, as the package's comment says. Collateral is taken from e.Collateral and
// from c. Of b only ReportData counts. The error is an *attest.Error.
func (v *Verifier) Verify(_ context.Context, e attest.Evidence, b attest.Binding, now time.Time, c attest.Collateral) (attest.Claims, error) {
	claims, err := v.VerifyUnbound(e, now, c)
	if err != nil {
		return attest.Claims{}, err
	}
	if subtle.ConstantTimeCompare(claims.SGX.ReportData[:], b.ReportData[:]) != 1 {
		return attest.Claims{}, attest.Refuse(attest.ClassBind, "REPORTDATA is %x, want %x", claims.SGX.ReportData, b.ReportData)
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
	if e.Type != attest.SGX {
		return none, attest.Refuse(attest.ClassParse, "evidence of the type %s, want %s", e.Type, attest.SGX)
	}
	q, err := dcap.Parse(e.Body, dcap.SGX)
	if err != nil {
		return none, err
	}
	body := dcap.Enclave(q.Body)
	if err := strict(body); err != nil {
		return none, err
	}
	verdict, err := v.dcap.Verify(q, e.Collateral, c, now)
	if err != nil {
		return none, err
	}
	claims := verdict.Claims(attest.SGX)
	claims.SGX = enclave(body)
	claims.SGX.Platform = verdict.Platform
	return claims, nil
}

// OpenUnverified returns what a quote says, judging nothing but its form: anybody can write one.
func OpenUnverified(raw []byte) (attest.Claims, error) {
	q, err := dcap.Parse(raw, dcap.SGX)
	if err != nil {
		return attest.Claims{}, err
	}
	e := enclave(dcap.Enclave(q.Body))
	e.Platform = q.Unverified()
	return attest.Claims{Type: attest.SGX, Signed: q.Signed(), SGX: e}, nil
}

// Bits of the first byte of ATTRIBUTES (Intel SDM volume 3D, table "Layout of ATTRIBUTES Structure").
const (
	attributeInit   = 1 << 0
	attributeDebug  = 1 << 1
	attributeMode64 = 1 << 2
)

// strict checks what every report of a running enclave of 64 bits has.
func strict(e dcap.Enclave) *attest.Error {
	if !e.Reserved() {
		return attest.Refuse(attest.ClassParse, "reserved bytes of the report are not zero")
	}
	if flags := e.Attributes()[0]; flags&attributeInit == 0 || flags&attributeMode64 == 0 {
		return attest.Refuse(attest.ClassParse, "ATTRIBUTES are %x: want INIT and MODE64BIT", e.Attributes())
	}
	return nil
}

// enclave returns what the report says, in the house's words.
func enclave(e dcap.Enclave) *attest.Enclave {
	return &attest.Enclave{
		CPUSVN:       [16]byte(e.CPUSVN()),
		MiscSelect:   [4]byte(e.MiscSelect()),
		Attributes:   [16]byte(e.Attributes()),
		MREnclave:    [32]byte(e.MREnclave()),
		MRSigner:     [32]byte(e.MRSigner()),
		ISVProdID:    e.ISVProdID(),
		ISVSVN:       e.ISVSVN(),
		ISVExtProdID: [16]byte(e.ISVExtProdID()),
		ISVFamilyID:  [16]byte(e.ISVFamilyID()),
		ConfigID:     [64]byte(e.ConfigID()),
		ConfigSVN:    e.ConfigSVN(),
		ReportData:   [64]byte(e.ReportData()),
		Debug:        e.Attributes()[0]&attributeDebug != 0,
	}
}
