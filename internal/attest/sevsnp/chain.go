package sevsnp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"slices"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"

	"consilium.dev/internal/attest"
)

// A leaf is the certificate of a key that signs reports, with what AMD's extensions in it say (AMD 57230, "VCEK and VLEK
// Certificates").
type leaf struct {
	*x509.Certificate
	*kds.Extensions
}

// endorsement finds the certificate of the key that r says signed it. What came with the evidence goes before what is held
// here. Exactly one must be there: to try several would let a sender choose.
func endorsement(r *report, theirs, ours *collateral) (*leaf, *attest.Error) {
	name := "SEV-" + r.signer.String()
	for _, from := range []*collateral{theirs, ours} {
		var found []*x509.Certificate
		for _, cert := range from.certs {
			same := func(c *x509.Certificate) bool { return bytes.Equal(c.Raw, cert.Raw) }
			if cert.Subject.CommonName == name && !slices.ContainsFunc(found, same) {
				found = append(found, cert)
			}
		}
		if len(found) > 1 {
			return nil, attest.Refuse(attest.ClassChain, "%d different %s certificates, want one", len(found), r.signer)
		}
		if len(found) == 1 {
			return formed(found[0], r.signer)
		}
	}
	return nil, attest.Refuse(attest.ClassChain, "no %s certificate came with the report, and none is held here", r.signer)
}

// formed checks that a certificate has the form that AMD gives to those of a kind of key, and reads its extensions.
func formed(cert *x509.Certificate, signer abi.ReportSigner) (*leaf, *attest.Error) {
	if cert.Version != 3 || cert.IsCA || len(cert.UnhandledCriticalExtensions) != 0 {
		return nil, attest.Refuse(attest.ClassChain, "the %s certificate: version %d, CA %t, unknown critical extensions %v",
			signer, cert.Version, cert.IsCA, cert.UnhandledCriticalExtensions)
	}
	if key, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P384() {
		return nil, attest.Refuse(attest.ClassChain, "the %s certificate's key is not on P-384", signer)
	}
	extensions, err := kds.CertificateExtensions(cert, signer)
	if err != nil {
		return nil, attest.Refuse(attest.ClassChain, "the %s certificate: %v", signer, err)
	}
	return &leaf{Certificate: cert, Extensions: extensions}, nil
}

// issuerOf returns the issuer that signed l, for reports of the product line, if the whole chain is valid at now. The
// shape of the chain is fixed, three certificates of which two are held here, so it is checked link by link; a search for
// chains would tell a foreign chain from an expired one less well.
func (v *Verifier) issuerOf(l *leaf, line string, now time.Time) (*issuer, *attest.Error) {
	signer := abi.VcekReportSigner
	if l.CspID != "" {
		signer = abi.VlekReportSigner
	}
	var last error
	for i := range v.issuers {
		by := &v.issuers[i]
		if by.line != line || by.signer != signer {
			continue
		}
		if last = signed(l.Certificate, by.ca); last != nil {
			continue
		}
		for _, cert := range []*x509.Certificate{by.ark, by.ca, l.Certificate} {
			if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
				return nil, attest.Refuse(attest.ClassTime, "%s is valid from %s to %s, not at %s", cert.Subject.CommonName,
					cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
			}
		}
		return by, nil
	}
	return nil, attest.Refuse(attest.ClassChain, "the %s %s leads to no root that is trusted here: %v", line, signer, last)
}

// describes checks that l is of the chip and of the TCB that r is of. Without it a key of an old, broken firmware could
// sign reports that claim the newest.
func (l *leaf) describes(r *report) *attest.Error {
	if uint64(l.TCBVersion) != r.ReportedTcb {
		return attest.Refuse(attest.ClassChain, "the %s is of the TCB %#016x, REPORTED_TCB is %#016x",
			r.signer, uint64(l.TCBVersion), r.ReportedTcb)
	}
	if r.signer == abi.VcekReportSigner && !zeros(r.ChipId) && !bytes.Equal(l.HWID, r.ChipId) {
		return attest.Refuse(attest.ClassChain, "the VCEK is of the chip %x, CHIP_ID is %x", l.HWID, r.ChipId)
	}
	return nil
}
