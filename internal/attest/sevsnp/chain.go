package sevsnp

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-sev-guest/abi"

	"consilium.dev/internal/attest"
)

// An Endorsement is what the certificate of a key that signs reports says, and which root it leads to.
type Endorsement struct {
	ProductLine string     // "Milan", "Genoa", "Turin"
	SigningKey  string     // "vcek" or "vlek"
	TCB         attest.TCB // of the firmware that the key belongs to
	HardwareID  []byte     // the chip's, 8 bytes on Turin, else 64; nil for a VLEK
	Provider    string     // a VLEK's cloud provider; "" for a VCEK
	Simulated   string     // name of the private root that it leads to; "" for AMD's

	by *issuer
}

// Endorse judges the certificate of a key that signs reports, at the instant now: its form, its chain, its validity. It is
// what Verify asks of a report's certificate before it compares the two.
func (v *Verifier) Endorse(cert *x509.Certificate, now time.Time) (*Endorsement, *attest.Error) {
	e, err := formed(cert)
	if err != nil {
		return nil, err
	}
	if e.by, err = v.issuerOf(cert, e, now); err != nil {
		return nil, err
	}
	e.Simulated = e.by.simulated
	return e, nil
}

// certificateOf finds the certificate of the key that r says signed it. What came with the evidence goes before what is held
// here. Exactly one must be there: to try several would let a sender choose.
func certificateOf(r *report, theirs, ours *collateral) (*x509.Certificate, *attest.Error) {
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
			return found[0], nil
		}
	}
	return nil, attest.Refuse(attest.ClassChain, "no %s certificate came with the report, and none is held here", r.signer)
}

// formed checks that a certificate has the form that AMD gives to those of its kind of key, and reads its extensions.
func formed(cert *x509.Certificate) (*Endorsement, *attest.Error) {
	if cert.Version != 3 || cert.IsCA || len(cert.UnhandledCriticalExtensions) != 0 {
		return nil, attest.Refuse(attest.ClassChain, "the %s certificate: version %d, CA %t, unknown critical extensions %v",
			cert.Subject.CommonName, cert.Version, cert.IsCA, cert.UnhandledCriticalExtensions)
	}
	if key, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P384() {
		return nil, attest.Refuse(attest.ClassChain, "the %s certificate's key is not on P-384", cert.Subject.CommonName)
	}
	e, err := extensionsOf(cert)
	if err != nil {
		return nil, attest.Refuse(attest.ClassChain, "the %s certificate: %v", cert.Subject.CommonName, err)
	}
	if !slices.Contains(lines, e.ProductLine) {
		return nil, attest.Refuse(attest.ClassPlat, "product %q: want one of the lines %s", e.ProductLine, lines)
	}
	return e, nil
}

// arc is AMD's arc of object identifiers, 1.3.6.1.4.1.3704.1; the constants are the identifiers under it (AMD 57230, table
// "VCEK and VLEK Certificate Extensions"). go-sev-guest reads them for Milan and Genoa, and refuses Turin's.
const (
	arc = "1.3.6.1.4.1.3704.1."

	oidStructVersion = arc + "1"
	oidProductName   = arc + "2"
	oidBootloader    = arc + "3.1"
	oidTEE           = arc + "3.2"
	oidSNP           = arc + "3.3"
	oidMicrocode     = arc + "3.8"
	oidFMC           = arc + "3.9" // Turin only
	oidHardwareID    = arc + "4"   // VCEK only
	oidProvider      = arc + "5"   // VLEK only

	oidAuthorityKeyID = "2.5.29.35"
)

// oidReserved are components of the TCB that must be zero where a certificate has them. Turin's have no fourth.
var oidReserved = []string{arc + "3.4", arc + "3.5", arc + "3.6", arc + "3.7"}

// fields are the extensions of a certificate by their identifiers; what has been read is taken out, so that what is left is
// unknown. (The parser of certificates has refused doubled ones.)
type fields map[string]pkix.Extension

// extensionsOf reads AMD's extensions. Each must be there that certificates of the kind and the line have, and no other.
func extensionsOf(cert *x509.Certificate) (*Endorsement, error) {
	f := fields{}
	for _, x := range cert.Extensions {
		f[x.Id.String()] = x
	}
	delete(f, oidAuthorityKeyID)
	var e Endorsement
	product, err := f.text(oidProductName)
	if err != nil {
		return nil, err
	}
	e.ProductLine, _, _ = strings.Cut(product, "-") // "Milan-B0": line and stepping
	if _, err := f.number(oidStructVersion); err != nil {
		return nil, err
	}
	if err := e.readTCB(f); err != nil {
		return nil, err
	}
	switch cert.Subject.CommonName {
	case "SEV-" + abi.VcekReportSigner.String():
		e.SigningKey = "vcek"
		e.HardwareID, err = f.hardwareID(e.ProductLine)
	case "SEV-" + abi.VlekReportSigner.String():
		e.SigningKey = "vlek"
		e.Provider, err = f.text(oidProvider)
	default:
		err = fmt.Errorf("its subject is %q, want SEV-VCEK or SEV-VLEK", cert.Subject.CommonName)
	}
	if err != nil {
		return nil, err
	}
	for id := range f {
		return nil, fmt.Errorf("its kind has no extension %s", id)
	}
	return &e, nil
}

// readTCB reads the TCB's components, each an extension of its own.
func (e *Endorsement) readTCB(f fields) error {
	parts := map[string]*uint8{
		oidBootloader: &e.TCB.Bootloader, oidTEE: &e.TCB.TEE, oidSNP: &e.TCB.SNP, oidMicrocode: &e.TCB.Microcode,
	}
	if e.ProductLine == turin {
		parts[oidFMC] = &e.TCB.FMC
	}
	for id, dst := range parts {
		var err error
		if *dst, err = f.number(id); err != nil {
			return err
		}
	}
	for _, id := range oidReserved {
		if _, there := f[id]; !there {
			continue
		}
		if n, err := f.number(id); err != nil || n != 0 {
			return fmt.Errorf("the reserved component %s of its TCB is not zero", id)
		}
	}
	return nil
}

// take returns an extension's value, and takes it out.
func (f fields) take(id string) ([]byte, error) {
	x, there := f[id]
	if !there {
		return nil, fmt.Errorf("it has no extension %s", id)
	}
	delete(f, id)
	return x.Value, nil
}

// number reads an extension that is an INTEGER of one byte.
func (f fields) number(id string) (uint8, error) {
	value, err := f.take(id)
	if err != nil {
		return 0, err
	}
	var n int
	if rest, err := asn1.Unmarshal(value, &n); err != nil || len(rest) != 0 || n < 0 || n > 255 {
		return 0, fmt.Errorf("its extension %s is %x, want a number up to 255", id, value)
	}
	return uint8(n), nil
}

// text reads an extension that is an IA5String of at least one character.
func (f fields) text(id string) (string, error) {
	value, err := f.take(id)
	if err != nil {
		return "", err
	}
	var s string
	if rest, err := asn1.UnmarshalWithParams(value, &s, "ia5"); err != nil || len(rest) != 0 || s == "" || value[0] != asn1.TagIA5String {
		return "", fmt.Errorf("its extension %s is %x, want an IA5String", id, value)
	}
	return s, nil
}

// hardwareID reads a chip's id: bare, as AMD writes it, or as an OCTET STRING, as AMD's specification has it.
func (f fields) hardwareID(line string) ([]byte, error) {
	value, err := f.take(oidHardwareID)
	if err != nil {
		return nil, err
	}
	size := abi.ChipIDSize
	if line == turin {
		size = turinIDSize
	}
	if len(value) == size {
		return value, nil
	}
	var octets []byte
	if rest, err := asn1.Unmarshal(value, &octets); err != nil || len(rest) != 0 || len(octets) != size {
		return nil, fmt.Errorf("its hardware id is %x, want %d bytes", value, size)
	}
	return octets, nil
}

// turinIDSize is the length of a Turin's hardware id. Reports have it in the first bytes of CHIP_ID, zeros behind it.
const turinIDSize = 8

// issuerOf returns the issuer that signed a certificate, if the whole chain is valid at now. The shape of the chain is fixed,
// three certificates of which two are held here, so it is checked link by link; a search for chains would tell a foreign chain
// from an expired one less well.
func (v *Verifier) issuerOf(cert *x509.Certificate, e *Endorsement, now time.Time) (*issuer, *attest.Error) {
	signer := abi.VcekReportSigner
	if e.SigningKey == "vlek" {
		signer = abi.VlekReportSigner
	}
	var last error
	for i := range v.issuers {
		by := &v.issuers[i]
		if by.line != e.ProductLine || by.signer != signer {
			continue
		}
		if last = signed(cert, by.ca); last != nil {
			continue
		}
		for _, cert := range []*x509.Certificate{by.ark, by.ca, cert} {
			if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
				return nil, attest.Refuse(attest.ClassTime, "%s is valid from %s to %s, not at %s", cert.Subject.CommonName,
					cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
			}
		}
		return by, nil
	}
	return nil, attest.Refuse(attest.ClassChain, "the %s %s leads to no root that is trusted here: %v", e.ProductLine, signer, last)
}

// describes checks that e is of the CPU, of the chip and of the TCB that r is of. Without it a key of an old, broken firmware
// could sign reports that claim the newest. A report of version 2, which names no CPU, gets its product line from e.
func (e *Endorsement) describes(r *report) *attest.Error {
	if r.line == "" {
		r.line = e.ProductLine
		if err := r.readTCBs(); err != nil {
			return err
		}
	}
	if r.line != e.ProductLine {
		return attest.Refuse(attest.ClassChain, "the report is of a %s, its %s of a %s", r.line, r.signer, e.ProductLine)
	}
	if e.TCB != r.reported {
		return attest.Refuse(attest.ClassChain, "the %s is of another TCB than REPORTED_TCB: %s", r.signer, e.TCB.Differences(r.reported, "reported"))
	}
	if r.signer != abi.VcekReportSigner || zeros(r.ChipId) {
		return nil
	}
	if n := len(e.HardwareID); !bytes.Equal(e.HardwareID, r.ChipId[:n]) || !zeros(r.ChipId[n:]) {
		return attest.Refuse(attest.ClassChain, "the VCEK is of the chip %x, CHIP_ID is %x", e.HardwareID, r.ChipId)
	}
	return nil
}
