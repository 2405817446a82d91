package simulated

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	"github.com/google/go-sev-guest/proto/sevsnp"

	"consilium.dev/internal/attest"
)

// SNPSpec says what a simulated SEV-SNP machine is like. The zero SNPSpec is a good machine with a well-behaved guest on it,
// as the fields' defaults say; what is zero in a field without a default is zero in the report.
type SNPSpec struct {
	Measurement [48]byte // launch digest; default: SHA-384 of "consilium simulated sev-snp guest"
	HostData    [32]byte
	FamilyID    [16]byte
	ImageID     [16]byte

	IDKeyDigest      [48]byte
	AuthorKeyDigest  [48]byte
	AuthorKeyEnabled bool

	ABIMajor, ABIMinor uint8 // guest policy, least firmware ABI; default 1.55, where both are zero
	SMTAllowed         bool  // guest policy, and so on
	MigrateMA          bool
	Debug              bool
	SingleSocket       bool
	CXLAllowed         bool
	MemAES256XTS       bool
	RAPLDisabled       bool
	CiphertextHiding   bool

	VMPL     uint32
	GuestSVN uint32 // default 1

	// Platform is PLATFORM_INFO; default: TSME, ECC, RAPL disabled, alias check complete.
	Platform *attest.SNPPlatform

	// The TCBs. Reported defaults to {Bootloader: 9, TEE: 0, SNP: 23, Microcode: 72}, the others to Reported. Each component
	// but the microcode is at most 127, and FMC is zero but on Turin.
	Reported, Current, Committed, Launch *attest.TCB

	ChipID     [64]byte // default: random; of Turin the first 8 bytes count, and zeros are behind them
	ChipMasked bool     // the host masks the chip's id: the report shows zeros
}

// DefaultMeasurement is the launch digest of a machine whose spec names none.
func DefaultMeasurement() [48]byte { return sha512.Sum384([]byte("consilium simulated sev-snp guest")) }

// processors are family, model and stepping of each product line, and the product name in its chips' certificates.
var processors = map[string]struct {
	cpuid   uint32
	product string
}{
	"Milan": {abi.FmsToCpuid1Eax(0x19, 0x01, 1), "Milan-B1"},
	"Genoa": {abi.FmsToCpuid1Eax(0x19, 0x11, 1), "Genoa"},
	turin:   {abi.FmsToCpuid1Eax(0x1a, 0x02, 1), turin},
}

// turin is the product line whose hardware ids have 8 bytes, and whose TCBs have an FMC.
const turin = "Turin"

// snpMachine is a chip with one guest.
type snpMachine struct {
	template []byte // the report, without report data and signature
	vcek     *x509.Certificate
	key      *ecdsa.PrivateKey
}

// SNP makes a machine with a chip of the root's product line.
func (r *Root) SNP(s SNPSpec) (*Machine, error) {
	chip := s.ChipID
	if chip == [64]byte{} {
		rand.Read(chip[:]) // cannot fail
	}
	id := chip[:]
	if r.line == turin {
		clear(chip[8:])
		id = chip[:8]
	}
	report, err := s.report(r.line, chip)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a chip's key: %w", err)
	}
	vcek := amd(r.name, "SEV-VCEK", r.ask.NotBefore)
	vcek.SerialNumber = new(big.Int) // AMD's, of all of them
	vcek.BasicConstraintsValid = false
	if vcek.ExtraExtensions, err = vcekExtensions(r.line, report.ReportedTcb, id); err != nil {
		return nil, err
	}
	cert, err := sign(vcek, r.ask, &key.PublicKey, r.askKey)
	if err != nil {
		return nil, err
	}
	template, err := abi.ReportToAbiBytes(report)
	if err != nil {
		return nil, fmt.Errorf("making a report: %w", err)
	}
	return &Machine{root: r.name, snp: &snpMachine{template: template, vcek: cert, key: key}}, nil
}

// report returns a report of version 5 as the spec says.
func (s *SNPSpec) report(line string, chip [64]byte) (*sevsnp.Report, error) {
	var tcbs [4]uint64
	for i, t := range []*attest.TCB{s.Reported, s.Current, s.Committed, s.Launch} {
		if t == nil && i > 0 {
			tcbs[i] = tcbs[0]
			continue
		}
		if t == nil {
			t = &attest.TCB{Bootloader: 9, SNP: 23, Microcode: 72}
		}
		if max(t.FMC, t.Bootloader, t.TEE, t.SNP) > 127 || t.FMC != 0 && line != turin {
			return nil, fmt.Errorf("TCB %+v: want an FMC of zero but on Turin, and other components than the microcode at most 127", *t)
		}
		tcbs[i] = tcbVersion(line, *t)
	}
	if s.Measurement == [48]byte{} {
		s.Measurement = DefaultMeasurement()
	}
	if s.GuestSVN == 0 {
		s.GuestSVN = 1
	}
	shown := chip
	if s.ChipMasked {
		shown = [64]byte{}
	}
	var id [32]byte
	rand.Read(id[:]) // cannot fail
	return &sevsnp.Report{
		Version: abi.ReportVersion5, GuestSvn: s.GuestSVN, Policy: s.policy(), Vmpl: s.VMPL,
		SignatureAlgo: abi.SignEcdsaP384Sha384, PlatformInfo: s.platformInfo(),
		SignerInfo: abi.ComposeSignerInfo(abi.SignerInfo{
			SigningKey: abi.VcekReportSigner, MaskChipKey: s.ChipMasked, AuthorKeyEn: s.AuthorKeyEnabled,
		}),
		FamilyId: s.FamilyID[:], ImageId: s.ImageID[:], ReportData: make([]byte, abi.ReportDataSize),
		Measurement: s.Measurement[:], HostData: s.HostData[:], IdKeyDigest: s.IDKeyDigest[:],
		AuthorKeyDigest: s.AuthorKeyDigest[:], ReportId: id[:], ReportIdMa: make([]byte, abi.ReportIDMASize),
		ReportedTcb: tcbs[0], CurrentTcb: tcbs[1], CommittedTcb: tcbs[2], LaunchTcb: tcbs[3],
		Cpuid1EaxFms: processors[line].cpuid, ChipId: shown[:],
		CurrentBuild: 1, CurrentMinor: 55, CurrentMajor: 1, CommittedBuild: 1, CommittedMinor: 55, CommittedMajor: 1,
		Signature: make([]byte, abi.SignatureSize),
	}, nil
}

func (s *SNPSpec) policy() uint64 {
	p := abi.SnpPolicy{
		ABIMajor: s.ABIMajor, ABIMinor: s.ABIMinor, SMT: s.SMTAllowed, MigrateMA: s.MigrateMA, Debug: s.Debug,
		SingleSocket: s.SingleSocket, CXLAllowed: s.CXLAllowed, MemAES256XTS: s.MemAES256XTS, RAPLDis: s.RAPLDisabled,
		CipherTextHidingDRAM: s.CiphertextHiding,
	}
	if p.ABIMajor == 0 && p.ABIMinor == 0 {
		p.ABIMajor, p.ABIMinor = 1, 55
	}
	return abi.SnpPolicyToBytes(p)
}

func (s *SNPSpec) platformInfo() uint64 {
	p := s.Platform
	if p == nil {
		p = &attest.SNPPlatform{TSME: true, ECC: true, RAPLDisabled: true, AliasCheckComplete: true}
	}
	info := p.Unknown
	for bit, set := range map[int]bool{
		0: p.SMT, 1: p.TSME, 2: p.ECC, 3: p.RAPLDisabled, 4: p.CiphertextHiding, 5: p.AliasCheckComplete, 7: p.TIO,
	} {
		if set {
			info |= 1 << bit
		}
	}
	return info
}

// tcbParts are the places of a TCB's components in a TCB_VERSION, by the extensions that a chip's certificate has for them (AMD
// 56860, tables "TCB_VERSION"). Places that are not named are reserved.
func tcbParts(line string) map[byte]asn1.ObjectIdentifier {
	if line == turin {
		fmc := append(slices.Clone(kds.OidBlSpl[:len(kds.OidBlSpl)-1]), 9)
		return map[byte]asn1.ObjectIdentifier{0: fmc, 1: kds.OidBlSpl, 2: kds.OidTeeSpl, 3: kds.OidSnpSpl, 4: kds.OidSpl5, 5: kds.OidSpl6, 6: kds.OidSpl7, 7: kds.OidUcodeSpl}
	}
	return map[byte]asn1.ObjectIdentifier{
		0: kds.OidBlSpl, 1: kds.OidTeeSpl, 2: kds.OidSpl4, 3: kds.OidSpl5, 4: kds.OidSpl6, 5: kds.OidSpl7, 6: kds.OidSnpSpl, 7: kds.OidUcodeSpl,
	}
}

// tcbVersion puts a TCB's components where its line has them.
func tcbVersion(line string, t attest.TCB) uint64 {
	places := []uint8{t.Bootloader, t.TEE, 0, 0, 0, 0, t.SNP, t.Microcode}
	if line == turin {
		places = []uint8{t.FMC, t.Bootloader, t.TEE, t.SNP, 0, 0, 0, t.Microcode}
	}
	var version uint64
	for i, part := range places {
		version |= uint64(part) << (8 * i)
	}
	return version
}

// vcekExtensions are AMD's extensions in a chip's certificate (AMD 57230, "VCEK Certificate Definition").
func vcekExtensions(line string, tcb uint64, id []byte) ([]pkix.Extension, error) {
	var extensions []pkix.Extension
	add := func(id asn1.ObjectIdentifier, value any) error {
		der, err := asn1.Marshal(value)
		if err != nil {
			return fmt.Errorf("a chip's certificate: %w", err)
		}
		extensions = append(extensions, pkix.Extension{Id: id, Value: der})
		return nil
	}
	if err := add(kds.OidStructVersion, 1); err != nil {
		return nil, err
	}
	if err := add(kds.OidProductName1, asn1.RawValue{Tag: asn1.TagIA5String, Bytes: []byte(processors[line].product)}); err != nil {
		return nil, err
	}
	parts := tcbParts(line)
	for place := range byte(8) {
		if err := add(parts[place], int(tcb>>(8*place)&0xff)); err != nil {
			return nil, err
		}
	}
	return append(extensions, pkix.Extension{Id: kds.OidHwid, Value: id}), nil // bare, as AMD has it
}

// attest returns a report that carries b, with the chip's certificate as collateral.
func (m *snpMachine) attest(b attest.Binding) (attest.Evidence, error) {
	raw := append([]byte(nil), m.template...)
	copy(raw[reportDataOffset:], b.ReportData[:])
	digest := sha512.Sum384(abi.SignedComponent(raw))
	r, s, err := ecdsa.Sign(rand.Reader, m.key, digest[:])
	if err == nil {
		err = abi.SetSignature(r, s, raw)
	}
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("signing a simulated report: %w", err)
	}
	return attest.Evidence{
		Type:       attest.SEVSNP,
		Body:       raw,
		Collateral: attest.Collateral{{Kind: attest.KindCertificate, Bytes: clone(m.vcek)}},
	}, nil
}

// reportDataOffset is where REPORT_DATA lies in a report (AMD 56860).
const reportDataOffset = 0x50
