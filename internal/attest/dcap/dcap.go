// Package dcap judges whether Intel's quotes are genuine: what SGX enclaves and TDX trust domains have in common, from the
// quote's form to the platform's standing by Intel's collateral. What the body of a quote says is read by packages sgx and tdx,
// whether it pleases the members by the manifest.
//
// A quote carries its certificates; collateral beside it, each piece signed by Intel, is what Intel's provisioning service
// hands out: the revocation lists of the root and of the intermediate, TCB info of the kind of platform, the identity of the
// quoting enclave, and the certificate that signed these two. A peer may send it, or it is held here.
//
// # What holds for what Verify returned
//
// The checks are made in this order, and the first that fails gives the error its class:
//
//   - PARSE (by Parse): version, TEE, lengths, reserved bytes; nothing but zeros behind the quote. Quotes without a PCK certificate
//     (certification data of the types 1 to 4) are refused, and what is not Intel's quoting enclave's.
//   - CHAIN, TIME: three certificates, the last of which is a root that is trusted here, byte for byte; each signed by the next,
//     named and formed as Intel does it, and valid at the instant given.
//   - SIG, CHAIN: the platform's key signed the report of the quoting enclave; that enclave is signed by Intel, is no debug enclave, and
//     holds the attestation key; the key signed the quote. This goes before the collateral, so that a stranger's nonsense costs little.
//   - CHAIN, SIG, PARSE, TIME: TCB info and QE identity are of this TEE, this FMSPC and this PCE, signed by Intel, current, of one
//     tcbEvaluationDataNumber, which is not lower than that of what is held here. The quoting enclave is as its identity says.
//   - REVOKED: no list at hand names one of the certificates; each list is the root's or the intermediate's, current, and
//     not older than the one that is held here.
//   - TCB: the platform reaches some level of the TCB info, and a TDX module of 1.5 some level of its identity.
//
// Which level, and with which advisories, is not judged but claimed. So is what was not at hand: without both lists revocation
// was not checked, without TCB info and QE identity the TCB was not.
//
// Nothing is fetched, and no clock is read.
package dcap

import (
	"crypto/sha256"
	"crypto/x509"
	"maps"
	"math/big"
	"slices"
	"time"

	"consilium.dev/internal/attest"
)

// Options says which roots a Verifier trusts beside Intel's.
type Options struct {
	// SimulatedRoots are the self-signed root certificates of simulated platforms, with keys on P-256, under the names that
	// claims will carry.
	SimulatedRoots map[string]*x509.Certificate
}

// Verifier judges quotes. It is immutable and safe for concurrent use.
type Verifier struct {
	roots []root
}

// NewVerifier returns a Verifier for Intel's root and the simulated ones. It fails where a simulated root is malformed, is
// Intel's, or is named twice, and where the compiled-in certificate is not the one that this package's fingerprint names.
func NewVerifier(o Options) (*Verifier, error) {
	roots, err := trusted(o.SimulatedRoots)
	if err != nil {
		return nil, err
	}
	return &Verifier{roots: roots}, nil
}

// Verdict is what a genuine quote's certificates and collateral say.
type Verdict struct {
	Simulated         string    // name of the private root; "" for Intel's
	Signed            [32]byte  // SHA-256 of what the attestation key signed
	RevocationChecked bool      // the lists of root and intermediate were at hand
	CollateralFrom    time.Time // issue date of the oldest collateral used; zero if none was used
	Numbers           []attest.Number
	Platform          attest.DCAP
}

// Claims returns the verdict as claims of the type, in which the platform's own part is not set yet.
func (v Verdict) Claims(t attest.Type) attest.Claims {
	return attest.Claims{
		Type: t, Simulated: v.Simulated, Signed: v.Signed, RevocationChecked: v.RevocationChecked, CollateralFrom: v.CollateralFrom,
		Numbers: v.Numbers,
	}
}

// Verify judges q at the instant now, as the package's comment says. theirs is collateral that came with the quote, ours what
// is held here; kinds that are not Intel's are left alone. Whether the quote belongs to a session is not judged.
func (v *Verifier) Verify(q *Quote, theirs, ours attest.Collateral, now time.Time) (Verdict, *attest.Error) {
	sent, err := read(theirs)
	if err != nil {
		return Verdict{}, err
	}
	held, err := read(ours)
	if err != nil {
		return Verdict{}, err
	}
	chain, err := v.chainIn(q.certificate, now)
	if err != nil {
		return Verdict{}, err
	}
	if err := q.signatures(chain.key); err != nil {
		return Verdict{}, err
	}
	j := &judgement{q: q, chain: chain, sent: sent, held: held, now: now}
	if err := j.collateral(); err != nil {
		return Verdict{}, err
	}
	return Verdict{
		Simulated:         chain.root.simulated,
		Signed:            q.Signed(),
		RevocationChecked: j.revocationChecked,
		CollateralFrom:    j.from,
		Numbers:           j.signedNumbers(),
		Platform: attest.DCAP{
			FMSPC: chain.platform.fmspc, PPID: chain.platform.ppid, Instance: chain.platform.instance, CA: authorities[chain.ca.Subject.CommonName],
			QESVN: Enclave(q.enclave).ISVSVN(), TCB: j.tcb,
		},
	}, nil
}

// Unverified returns what the quote says of its platform, its certificate included, judging nothing: anybody can write one. What
// it does not say, or in another form than Intel's, is zero.
func (q *Quote) Unverified() attest.DCAP {
	d := attest.DCAP{QESVN: Enclave(q.enclave).ISVSVN()}
	ders, refusal := strictPEM(q.certificate)
	if refusal != nil {
		return d
	}
	leaf, err := x509.ParseCertificate(ders[0])
	if err != nil {
		return d
	}
	if x, refusal := readExtensions(leaf); refusal == nil {
		d.FMSPC, d.PPID, d.Instance = x.fmspc, x.ppid, x.instance
	}
	d.CA = authorities[leaf.Issuer.CommonName]
	return d
}

// Signed returns the SHA-256 of what the attestation key is to have signed.
func (q *Quote) Signed() [32]byte { return sha256.Sum256(q.signed) }

// A judgement is one quote in the course of being judged by its collateral.
type judgement struct {
	q          *Quote
	chain      *chain
	sent, held *collateral
	now        time.Time

	signers           []*x509.Certificate // of the TCB info and the QE identity that were used
	revocationChecked bool
	from              time.Time // of the oldest collateral used
	numbers           map[string]*big.Int
	tcb               attest.IntelTCB
}

// used notes that collateral of that name, instant and number was used.
func (j *judgement) used(name string, issued time.Time, number *big.Int) {
	if j.from.IsZero() || issued.Before(j.from) {
		j.from = issued
	}
	if j.numbers == nil {
		j.numbers = map[string]*big.Int{}
	}
	if n := j.numbers[name]; n == nil || number.Cmp(n) > 0 {
		j.numbers[name] = number
	}
}

// signedNumbers returns the numbers of what was used.
func (j *judgement) signedNumbers() []attest.Number {
	var all []attest.Number
	for _, name := range slices.Sorted(maps.Keys(j.numbers)) {
		all = append(all, attest.Number{Name: attest.SimulatedPrefix(j.chain.root.simulated) + name, Number: j.numbers[name].String()})
	}
	return all
}

// collateral judges the quote by what is at hand.
func (j *judgement) collateral() *attest.Error {
	info, err := j.tcbInfo()
	if err != nil {
		return err
	}
	identity, err := j.qeIdentity()
	if err != nil {
		return err
	}
	if info != nil && identity != nil && info.Evaluation != identity.Evaluation {
		return attest.Refuse(attest.ClassTime, "the TCB info has the evaluation number %d, the QE identity %d: of two recoveries",
			info.Evaluation, identity.Evaluation)
	}
	var qe, platform, module *tcbLevel
	if identity != nil {
		if qe, err = identity.judge(Enclave(j.q.enclave)); err != nil {
			return err
		}
	}
	if err := j.revocation(); err != nil {
		return err
	}
	if info != nil {
		if platform, module, err = info.judge(j.q, &j.chain.platform); err != nil {
			return err
		}
	}
	if info == nil || identity == nil {
		return nil
	}
	j.tcb, err = converge(platform, module, qe)
	j.tcb.Evaluation = info.Evaluation
	return err
}
