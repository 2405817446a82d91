package sevsnp

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/google/go-sev-guest/abi"

	"consilium.dev/internal/attest"
)

var _ attest.Reader = (*Verifier)(nil)

// The names of pieces, by which AMD's service can be asked for them: the revocation list of a line, and the certificate of a chip
// at a TCB, whose parts stand in the order bootloader, TEE, SNP, microcode and, for Turin, FMC.
var (
	listName = regexp.MustCompile(`^sev-snp-(Milan|Genoa|Turin)\.crl$`)
	vcekName = regexp.MustCompile(`^sev-snp-(Milan|Genoa|Turin)-([0-9a-f]{16}|[0-9a-f]{128})-(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?\.der$`)
)

func nameOfList(simulated, line string) string {
	return attest.SimulatedPrefix(simulated) + "sev-snp-" + line + ".crl"
}

func nameOfVCEK(simulated, line string, chip []byte, t attest.TCB) string {
	name := fmt.Sprintf("%ssev-snp-%s-%x-%d.%d.%d.%d", attest.SimulatedPrefix(simulated), line, chip, t.Bootloader, t.TEE, t.SNP, t.Microcode)
	if line == turin {
		name += "." + strconv.Itoa(int(t.FMC))
	}
	return name + ".der"
}

// Source returns where AMD's service has a piece (AMD 57230, "VCEK Certificate and KDS Interface Specification", chapter 4). A VLEK is for
// the cloud provider alone to fetch.
func (v *Verifier) Source(name string) (attest.Service, string, bool) {
	if m := listName.FindStringSubmatch(name); m != nil {
		return attest.KDS, "/vcek/v1/" + m[1] + "/crl", true
	}
	m := vcekName.FindStringSubmatch(name)
	if m == nil || (m[7] != "") != (m[1] == turin) || (len(m[2]) == 2*turinIDSize) != (m[1] == turin) {
		return 0, "", false
	}
	path := fmt.Sprintf("/vcek/v1/%s/%s?blSPL=%s&teeSPL=%s&snpSPL=%s&ucodeSPL=%s", m[1], m[2], m[3], m[4], m[5], m[6])
	if m[7] != "" {
		path += "&fmcSPL=" + m[7]
	}
	return attest.KDS, path, true
}

// Needs returns the names of the revocation list and, unless a cloud provider's key signed the report or the chip's id is masked, of
// the certificate of the chip. A report of version 2 without its certificate names no product line.
func (v *Verifier) Needs(e attest.Evidence) (names []string, err error) {
	defer func() {
		if cause := recover(); cause != nil { // the library's parsers, on a stranger's bytes
			names, err = nil, attest.Refuse(attest.ClassParse, "reading the report panicked: %v", cause)
		}
	}()
	r, refusal := parse(e.Body)
	if refusal != nil {
		return nil, refusal
	}
	theirs, refusal := read(e.Collateral)
	if refusal != nil {
		return nil, refusal
	}
	cert, refusal := certificateOf(r, theirs, &collateral{})
	if refusal == nil {
		said, refusal := formed(cert)
		if refusal != nil {
			return nil, refusal
		}
		root := v.rootOf(cert, said)
		names = append(names, nameOfList(root, said.ProductLine))
		if said.SigningKey == "vcek" {
			names = append(names, nameOfVCEK(root, said.ProductLine, said.HardwareID, said.TCB))
		}
		return names, nil
	}
	if r.line == "" {
		return nil, attest.Refuse(attest.ClassChain, "a report of version %d does not name its product line: its certificate must come with it", r.Version)
	}
	names = append(names, nameOfList("", r.line))
	if r.signer == abi.VcekReportSigner && !zeros(r.ChipId) {
		chip := r.ChipId
		if r.line == turin {
			chip = chip[:turinIDSize]
		}
		names = append(names, nameOfVCEK("", r.line, chip, r.reported))
	}
	return names, nil
}

// rootOf returns the name of the root whose intermediate signed the certificate, "" also where none did.
func (v *Verifier) rootOf(cert *x509.Certificate, said *Endorsement) string {
	for _, by := range v.issuers {
		if by.line == said.ProductLine && signed(cert, by.ca) == nil {
			return by.simulated
		}
	}
	return ""
}

// Examine returns the revocation lists and the certificates of chips that a trusted root stands behind.
func (v *Verifier) Examine(e attest.Evidence) (pieces []attest.Piece) {
	for _, item := range e.Collateral {
		if p, err := v.examine(item); err == nil {
			pieces = append(pieces, p)
		}
	}
	return pieces
}

func (v *Verifier) examine(item attest.Item) (attest.Piece, error) {
	if item.Kind != attest.KindCRL && item.Kind != attest.KindCertificate && item.Kind != attest.KindCertTable {
		return attest.Piece{}, errors.New("of another kind")
	}
	c, refusal := read(attest.Collateral{item})
	if refusal != nil {
		return attest.Piece{}, refusal
	}
	for _, list := range c.lists {
		for _, by := range v.issuers {
			if bytes.Equal(list.RawIssuer, by.ark.RawSubject) && list.CheckSignatureFrom(by.ark) == nil {
				return attest.Piece{
					Name: nameOfList(by.simulated, by.line), Item: item, Number: number(list), From: list.ThisUpdate, Until: list.NextUpdate,
				}, nil
			}
		}
	}
	for _, cert := range c.certs {
		said, refusal := formed(cert)
		if refusal != nil {
			return attest.Piece{}, refusal
		}
		if said.SigningKey != "vcek" {
			continue // a cloud provider's
		}
		for _, by := range v.issuers {
			if by.line == said.ProductLine && by.signer == abi.VcekReportSigner && signed(cert, by.ca) == nil {
				return attest.Piece{
					Name: nameOfVCEK(by.simulated, by.line, said.HardwareID, said.TCB),
					Item: attest.Item{Kind: attest.KindCertificate, Bytes: cert.Raw}, From: cert.NotBefore, Until: cert.NotAfter,
				}, nil
			}
		}
	}
	return attest.Piece{}, errors.New("no trusted root stands behind it")
}
