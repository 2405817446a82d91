package sevsnp

import (
	"bytes"
	"crypto/x509"
	"math/big"
	"time"

	"consilium.dev/internal/attest"
)

// revocation says whether lists were at hand, and when the oldest of them was issued.
type revocation struct {
	checked bool
	from    time.Time
	highest *big.Int // number of the newest of them; nil without any
}

// revocation judges the leaf and its intermediate by the revocation lists at hand. Lists that came with the evidence must
// be this root's; of those held here, other roots' are passed over. Without any list nothing was checked, and the claims say
// so: whether that will do is the policy's to say.
//
// AMD publishes one list for each product line, signed by the root. It does not list chips' certificates (a TCB floor shuts
// out broken firmware), but a leaf that a list named would be refused, too.
func (i *issuer) revocation(leaf *x509.Certificate, theirs, ours *collateral, now time.Time) (revocation, *attest.Error) {
	var held []*x509.RevocationList
	for _, list := range ours.lists {
		if bytes.Equal(list.RawIssuer, i.ark.RawSubject) {
			held = append(held, list)
		}
	}
	var r revocation
	for _, list := range append(held, theirs.lists...) {
		if err := i.current(list, now); err != nil {
			return r, err
		}
		for _, revoked := range list.RevokedCertificateEntries {
			for _, cert := range []*x509.Certificate{i.ark, i.ca, leaf} {
				if revoked.SerialNumber.Cmp(cert.SerialNumber) == 0 {
					return r, attest.Refuse(attest.ClassRevoked, "%s, serial number %d, was revoked at %s", cert.Subject.CommonName,
						cert.SerialNumber, revoked.RevocationTime.Format(time.RFC3339))
				}
			}
		}
		if !r.checked || list.ThisUpdate.Before(r.from) {
			r.checked, r.from = true, list.ThisUpdate
		}
		if n := number(list); r.highest == nil || n.Cmp(r.highest) > 0 {
			r.highest = n
		}
	}
	return r, notOlder(theirs.lists, held)
}

// current checks that a list is this root's and holds at now.
func (i *issuer) current(list *x509.RevocationList, now time.Time) *attest.Error {
	if !bytes.Equal(list.RawIssuer, i.ark.RawSubject) {
		return attest.Refuse(attest.ClassRevoked, "a revocation list is of %q, want %q", list.Issuer, i.ark.Subject)
	}
	if err := list.CheckSignatureFrom(i.ark); err != nil {
		return attest.Refuse(attest.ClassRevoked, "the revocation list of %s: %v", i.ark.Subject.CommonName, err)
	}
	// RFC 5280, section 5.2: with an extension that must be understood, a list may be of some certificates only, or of changes.
	for _, e := range list.Extensions {
		if e.Critical {
			return attest.Refuse(attest.ClassRevoked, "the revocation list of %s has the critical extension %s, which is unknown here",
				i.ark.Subject.CommonName, e.Id)
		}
	}
	if list.NextUpdate.IsZero() {
		return attest.Refuse(attest.ClassRevoked, "the revocation list of %s does not say how long it holds", i.ark.Subject.CommonName)
	}
	if now.Before(list.ThisUpdate) || now.After(list.NextUpdate) {
		return attest.Refuse(attest.ClassRevoked, "the revocation list of %s holds from %s to %s, not at %s",
			i.ark.Subject.CommonName, list.ThisUpdate.Format(time.RFC3339), list.NextUpdate.Format(time.RFC3339),
			now.UTC().Format(time.RFC3339))
	}
	return nil
}

// notOlder refuses a list that came with evidence where a newer one is held here: an old list is how a sender would hide a
// revocation that has been seen already.
func notOlder(theirs, held []*x509.RevocationList) *attest.Error {
	for _, old := range theirs {
		for _, known := range held {
			if number(old).Cmp(number(known)) < 0 {
				return attest.Refuse(attest.ClassRevoked, "the revocation list that came with the report has the number %d, "+
					"one with the number %d is held here", number(old), number(known))
			}
		}
	}
	return nil
}

// numbers returns what claims say of it.
func (r *revocation) numbers(simulated, line string) []attest.Number {
	if r.highest == nil {
		return nil
	}
	return []attest.Number{{Name: nameOfList(simulated, line), Number: r.highest.String()}}
}

// number returns a list's number, and 0 for one without.
func number(list *x509.RevocationList) *big.Int {
	if list.Number == nil {
		return new(big.Int)
	}
	return list.Number
}
