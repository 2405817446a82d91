package dcap

import (
	"bytes"
	"crypto/x509"
	"math/big"
	"slices"
	"time"

	"consilium.dev/internal/attest"
)

// revocation judges the certificates by the revocation lists at hand: the root's, which may name the intermediate and the signer
// of TCB info, and the intermediate's, which may name the platform's. Only with both was revocation checked.
func (j *judgement) revocation() *attest.Error {
	for _, list := range j.sent.lists {
		if !bytes.Equal(list.RawIssuer, j.chain.root.RawSubject) && !bytes.Equal(list.RawIssuer, j.chain.ca.RawSubject) {
			return attest.Refuse(attest.ClassRevoked, "a revocation list of %q came with the quote, want %q or %q", list.Issuer,
				j.chain.root.Subject, j.chain.ca.Subject)
		}
	}
	byRoot, err := j.listOf(j.chain.root.Certificate, append(slices.Clone(j.signers), j.chain.ca, j.chain.root.Certificate))
	if err != nil {
		return err
	}
	byCA, err := j.listOf(j.chain.ca, []*x509.Certificate{j.chain.leaf})
	if err != nil {
		return err
	}
	j.revocationChecked = byRoot && byCA
	return nil
}

// listOf judges certificates that by issued by its lists, and reports whether there was one that is current. Each list that came
// with the quote must be; of those held here, any that is not by's is passed over, and one that has run out still says what the
// least number of a list is, and whom it names.
func (j *judgement) listOf(by *x509.Certificate, certs []*x509.Certificate) (bool, *attest.Error) {
	name := rootListName
	if by != j.chain.root.Certificate {
		name = nameOfList(authorities[by.Subject.CommonName])
	}
	checked := false
	least := new(big.Int)
	for _, list := range j.held.lists {
		if !bytes.Equal(list.RawIssuer, by.RawSubject) || list.CheckSignatureFrom(by) != nil {
			continue
		}
		if n := number(list); n.Cmp(least) > 0 {
			least = n
		}
		if err := named(list, certs); err != nil {
			return false, err
		}
		if j.listCurrent(list, by) == nil {
			checked = true
			j.used(name, list.ThisUpdate, number(list))
		}
	}
	for _, list := range j.sent.lists {
		if !bytes.Equal(list.RawIssuer, by.RawSubject) {
			continue
		}
		if err := list.CheckSignatureFrom(by); err != nil {
			return false, attest.Refuse(attest.ClassRevoked, "the revocation list of %s: %v", by.Subject.CommonName, err)
		}
		if err := j.listCurrent(list, by); err != nil {
			return false, err
		}
		if number(list).Cmp(least) < 0 {
			return false, attest.Refuse(attest.ClassRevoked, "the revocation list of %s that came with the quote has the number %d, one with the number %d is held here",
				by.Subject.CommonName, number(list), least)
		}
		if err := named(list, certs); err != nil {
			return false, err
		}
		checked = true
		j.used(name, list.ThisUpdate, number(list))
	}
	return checked, nil
}

// named refuses certificates that a list names.
func named(list *x509.RevocationList, certs []*x509.Certificate) *attest.Error {
	for _, entry := range list.RevokedCertificateEntries {
		for _, cert := range certs {
			if entry.SerialNumber.Cmp(cert.SerialNumber) == 0 {
				return attest.Refuse(attest.ClassRevoked, "%s, serial number %d, was revoked at %s", cert.Subject.CommonName,
					cert.SerialNumber, entry.RevocationTime.Format(time.RFC3339))
			}
		}
	}
	return nil
}

// listCurrent checks that a list holds now, and for all certificates.
func (j *judgement) listCurrent(list *x509.RevocationList, by *x509.Certificate) *attest.Error {
	// RFC 5280, section 5.2: with an extension that must be understood, a list may be of some certificates only, or of changes.
	for _, e := range list.Extensions {
		if e.Critical {
			return attest.Refuse(attest.ClassRevoked, "the revocation list of %s has the critical extension %s, which is unknown here", by.Subject.CommonName, e.Id)
		}
	}
	// Without an end, NextUpdate is zero: long over.
	if j.now.Before(list.ThisUpdate) || j.now.After(list.NextUpdate) {
		return attest.Refuse(attest.ClassRevoked, "the revocation list of %s holds from %s to %s, not at %s", by.Subject.CommonName,
			list.ThisUpdate.Format(time.RFC3339), list.NextUpdate.Format(time.RFC3339), j.now.UTC().Format(time.RFC3339))
	}
	return nil
}

// number returns a list's number, and 0 for one without.
func number(list *x509.RevocationList) *big.Int {
	if list.Number == nil {
		return new(big.Int)
	}
	return list.Number
}
