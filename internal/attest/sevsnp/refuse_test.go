package sevsnp_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/sevsnp"
)

// A refusal is something wrong with evidence that is rightly signed, and the class that it must be refused with. Names
// begin with the case's number in the list of what a great verifier must refuse.
type refusal struct {
	name  string
	class attest.Class
	spoil func(*scene)
}

func TestRefuses(t *testing.T) {
	for _, list := range [][]refusal{
		formRefusals, bindingRefusals, chainRefusals, turinRefusals, signatureRefusals, tableRefusals(), listRefusals(),
	} {
		for _, r := range list {
			t.Run(numbered(r.name), func(t *testing.T) {
				s := newScene()
				r.spoil(s)
				claims, err := s.verify(t)
				wantClass(t, err, r.class)
				if claims.SNP != nil || claims.Type != 0 {
					t.Errorf("Verify refused and gave claims: %+v", claims)
				}
			})
		}
	}
}

// numbered returns the name of a subtest, NUMBER/WHAT, of a case "A5 what".
func numbered(name string) string {
	number, what, found := strings.Cut(name, " ")
	if n, err := strconv.Atoi(number[1:]); err == nil && found {
		return fmt.Sprintf("%03d/%s", n, what)
	}
	return "other/" + name
}

// set returns a spoiler that writes bytes into the report before it is signed.
func set(at int, value ...byte) func(*scene) {
	return func(s *scene) { copy(s.report[at:], value) }
}

// sent returns a spoiler that changes the report after it was signed.
func sent(f func([]byte) []byte) func(*scene) { return func(s *scene) { s.sent = f } }

var formRefusals = []refusal{
	{"A5 reserved bit 17 of the policy is zero", attest.ClassParse, set(0x0A, 0)},
	{"A6 policy bit 26", attest.ClassParse, set(0x0B, 1<<2)},
	{"A6 policy bit 63", attest.ClassParse, set(0x0F, 1<<7)},
	{"A25 unknown CPU", attest.ClassPlat, set(0x188, 0x17, 0x31)},
	{"A25 unknown model behind Genoa's first", attest.ClassPlat, set(0x189, 0x20)},
	{"A25 unknown model behind Genoa's last", attest.ClassPlat, set(0x189, 0xB0)},
	{"A25 unknown model behind Turin's last", attest.ClassPlat, set(0x188, 0x1A, 0x12)},
	{"A29 SIGNING_KEY 7, none", attest.ClassSig, set(0x48, 7<<2)},
	{"A29 SIGNING_KEY 2, reserved", attest.ClassSig, set(0x48, 2<<2)},
	{"A36 SIGNATURE_ALGO 0", attest.ClassSig, set(0x34, 0)},
	{"A36 SIGNATURE_ALGO 2", attest.ClassSig, set(0x34, 2)},
	{"A36 SIGNATURE_ALGO 257", attest.ClassSig, set(0x34, 1, 1)},
	{"A38 reserved after the signature", attest.ClassParse, sent(func(r []byte) []byte { r[0x2A0+144] = 1; return r })},
	{"A38 last byte", attest.ClassParse, sent(func(r []byte) []byte { r[1183] = 0x80; return r })},
	{"A40 version 0", attest.ClassParse, set(0, 0)},
	{"A40 version 1", attest.ClassParse, set(0, 1)},
	{"A40 version 6", attest.ClassParse, set(0, 6)},
	{"A40 version 261", attest.ClassParse, set(0, 5, 1)},
	{"A40 version 2 with a CPUID", attest.ClassParse, set(0, 2)},
	{"A40 version 4 with mitigation vectors", attest.ClassParse, func(s *scene) { s.report[0], s.report[0x1F8] = 4, 1 }},
	{"A41 nothing", attest.ClassParse, sent(func([]byte) []byte { return nil })},
	{"A41 1183 bytes", attest.ClassParse, sent(func(r []byte) []byte { return r[:1183] })},
	{"A41 1185 bytes", attest.ClassParse, sent(func(r []byte) []byte { return append(r, 0) })},
	{"A41 2368 bytes", attest.ClassParse, sent(func(r []byte) []byte { return append(r, r...) })},
	{"A42 key info bit 5", attest.ClassParse, set(0x48, 1<<5)},
	{"A42 key info bit 31", attest.ClassParse, set(0x4B, 1<<7)},
	{"A42 byte 0x4C", attest.ClassParse, set(0x4C, 1)},
	{"A42 byte 0x18B", attest.ClassParse, set(0x18B, 1)},
	{"A42 byte 0x19F", attest.ClassParse, set(0x19F, 1)},
	{"A42 byte 0x1EB", attest.ClassParse, set(0x1EB, 1)},
	{"A42 byte 0x1EF", attest.ClassParse, set(0x1EF, 1)},
	{"A42 byte 0x208", attest.ClassParse, set(0x208, 1)},
	{"A42 byte 0x29F", attest.ClassParse, set(0x29F, 1)},
	{"A42 reserved component of CURRENT_TCB", attest.ClassParse, set(0x38+2, 1)},
	{"A42 reserved component of REPORTED_TCB", attest.ClassParse, set(0x180+3, 1)},
	{"A42 reserved component of COMMITTED_TCB", attest.ClassParse, set(0x1E0+4, 1)},
	{"A42 reserved component of LAUNCH_TCB", attest.ClassParse, set(0x1F0+5, 1)},
}

var bindingRefusals = []refusal{
	{"A8 REPORT_DATA differs in byte 0", attest.ClassBind, func(s *scene) { s.binding.ReportData[0] ^= 1 }},
	{"A8 REPORT_DATA differs in byte 63", attest.ClassBind, func(s *scene) { s.binding.ReportData[63] ^= 0x80 }},
	{"A8 REPORT_DATA equals in the first 32 only", attest.ClassBind, func(s *scene) { clear(s.binding.ReportData[32:]) }},
	{"A8 REPORT_DATA is zero", attest.ClassBind, set(0x50, make([]byte, 64)...)},
}

var chainRefusals = []refusal{
	{"A18 VCEK of another bootloader", attest.ClassChain, func(s *scene) { s.with(extension(oid(3, 1), 8)) }},
	{"A18 VCEK of another TEE", attest.ClassChain, func(s *scene) { s.with(extension(oid(3, 2), 1)) }},
	{"A18 VCEK of another SNP firmware", attest.ClassChain, func(s *scene) { s.with(extension(oid(3, 3), 22)) }},
	{"A18 VCEK of another microcode", attest.ClassChain, func(s *scene) { s.with(extension(oid(3, 8), 73)) }},
	{"A18 VCEK with a reserved component", attest.ClassChain, func(s *scene) { s.with(extension(oid(3, 5), 1)) }},
	{"A18 REPORTED_TCB raised", attest.ClassChain, set(0x180+7, 99)},
	{"A19 VCEK of another chip", attest.ClassChain, set(0x1A0+63, 0)},
	{"A24 Genoa report, VCEK by Milan's ASK", attest.ClassChain, func(s *scene) {
		s.issuer, s.by = pkis()["milan"].ask, pkis()["milan"].askKey
	}},
	{"A24 Milan report and VCEK, by Genoa's ASK", attest.ClassChain, func(s *scene) {
		s.report[0x189] = 0x01
		s.with(extension(oid(2), ia5("Milan-B1")))
	}},
	{"A25 Milan report, Genoa VCEK", attest.ClassChain, set(0x189, 0x01)},
	{"A25 Genoa report, Milan VCEK", attest.ClassChain, func(s *scene) { s.with(extension(oid(2), ia5("Milan-B0"))) }},
	{"A26 root of a stranger under AMD's names", attest.ClassChain, func(s *scene) {
		s.issuer, s.by = pkis()["stranger"].ask, pkis()["stranger"].askKey
	}},
	{"A26 the stranger's root and intermediate sent along", attest.ClassChain, func(s *scene) {
		p := pkis()["stranger"]
		s.issuer, s.by = p.ask, p.askKey
		s.more = attest.Collateral{{Kind: attest.KindCertificate, Bytes: p.ark.Raw}, {Kind: attest.KindCertificate, Bytes: p.ask.Raw}}
	}},
	{"A26 self-signed VCEK", attest.ClassChain, func(s *scene) {
		key := rsaKey()
		s.issuer, s.by = s.leaf, key
	}},
	{"A27 VCEK by the ASK's key under another name", attest.ClassChain, func(s *scene) {
		s.issuer = listing(pkis()["genoa"].ask, pkis()["milan"].ask)
	}},
	{"A27 VCEK by the ASVK", attest.ClassChain, func(s *scene) { s.issuer, s.by = pkis()["genoa"].asvk, pkis()["genoa"].asvkKey }},
	{"A27 VCEK by the ARK", attest.ClassChain, func(s *scene) { s.issuer, s.by = pkis()["genoa"].ark, pkis()["genoa"].arkKey }},
	{"A28 VLEK report, VCEK", attest.ClassChain, set(0x48, 1<<2)},
	{"A28 VCEK report, VLEK", attest.ClassChain, func(s *scene) { s.asVLEK() }},
	{"A28 VLEK named VCEK", attest.ClassChain, func(s *scene) { s.asVLEK(); s.leaf.Subject.CommonName = "SEV-VCEK" }},
	{"A34 VCEK not yet valid", attest.ClassTime, func(s *scene) { s.leaf.NotBefore = now.Add(time.Minute) }},
	{"A34 VCEK expired", attest.ClassTime, func(s *scene) { s.leaf.NotAfter = now.Add(-time.Minute) }},
	{"A34 all expired", attest.ClassTime, func(s *scene) { s.now = now.AddDate(2, 0, 0) }},
	{"A34 no instant", attest.ClassTime, func(s *scene) { s.now = time.Time{} }},
	{"A34 expired, and a stranger's: the chain comes first", attest.ClassChain, func(s *scene) {
		s.leaf.NotAfter = now.Add(-time.Minute)
		s.issuer, s.by = pkis()["stranger"].ask, pkis()["stranger"].askKey
	}},
	{"A35 RSA-PSS with SHA-256", attest.ClassChain, func(s *scene) { s.leaf.SignatureAlgorithm = x509.SHA256WithRSAPSS }},
	{"A35 RSA PKCS #1", attest.ClassChain, func(s *scene) { s.leaf.SignatureAlgorithm = x509.SHA384WithRSA }},
	{"A35 RSA-PSS with a salt of 20", attest.ClassChain, func(s *scene) {
		s.made = func(der []byte) []byte { return resigned(der, pkis()["genoa"].askKey, 20, as) }
	}},
	{"A35 RSA-PSS with a mask by SHA-256", attest.ClassChain, func(s *scene) {
		s.made = func(der []byte) []byte { return resigned(der, pkis()["genoa"].askKey, 48, maskedBySHA256) }
	}},
	{"A35 a byte behind the VCEK", attest.ClassChain, func(s *scene) {
		s.made = func(der []byte) []byte { return append(der, 0) }
	}},
	{"A30 VLEK without the name of its cloud provider", attest.ClassChain, func(s *scene) { s.vlek(); s.without(oid(5)) }},
	{"A30 VLEK with a hardware id", attest.ClassChain, func(s *scene) {
		s.vlek()
		s.with(pkix.Extension{Id: oid(4), Value: bytes.Repeat([]byte{0xc5}, 64)})
	}},
	{"A30 VCEK with the name of a cloud provider", attest.ClassChain, func(s *scene) { s.with(extension(oid(5), ia5("CN=cloud.example"))) }},
	{"A18 VLEK of another TCB", attest.ClassChain, func(s *scene) { s.vlek(); s.with(extension(oid(3, 1), 8)) }},
	{"A27 VLEK by the ASK", attest.ClassChain, func(s *scene) { s.vlek(); s.issuer, s.by = pkis()["genoa"].ask, pkis()["genoa"].askKey }},
	{"A35 extension twice", attest.ClassChain, func(s *scene) { s.oids = append(s.oids, extension(oid(3, 1), 9)) }},
	{"A35 no product name", attest.ClassChain, func(s *scene) { s.without(oid(2)) }},
	{"A35 no hardware id", attest.ClassChain, func(s *scene) { s.without(oid(4)) }},
	{"A35 a product name without its type", attest.ClassChain, func(s *scene) { s.with(pkix.Extension{Id: oid(2), Value: []byte("Genoa")}) }},
	{"A35 an SPL of 256", attest.ClassChain, func(s *scene) { s.with(extension(oid(3, 1), 256+9)) }},
	{"A35 bytes behind an SPL", attest.ClassChain, func(s *scene) { s.with(pkix.Extension{Id: oid(3, 1), Value: []byte{2, 1, 9, 0}}) }},
	{"A35 no structure version", attest.ClassChain, func(s *scene) { s.without(oid(1)) }},
	{"A35 an extension that is not AMD's", attest.ClassChain, func(s *scene) {
		s.with(pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte{0x30, 0}}) // basic constraints
	}},
	{"A35 no bootloader SPL", attest.ClassChain, func(s *scene) { s.without(oid(3, 1)) }},
	{"A35 unknown extension of AMD's", attest.ClassChain, func(s *scene) { s.with(extension(oid(9), 1)) }},
	{"A35 unknown critical extension", attest.ClassChain, func(s *scene) {
		s.with(pkix.Extension{Id: oid(9), Critical: true, Value: []byte{5, 0}})
	}},
	{"A35 VCEK that is an authority", attest.ClassChain, func(s *scene) { s.leaf.IsCA, s.leaf.BasicConstraintsValid = true, true }},
	{"A35 VCEK on P-256", attest.ClassChain, func(s *scene) { s.certKey = &ecKey(elliptic.P256()).PublicKey }},
	{"A35 VCEK on P-521", attest.ClassChain, func(s *scene) { s.certKey = &ecKey(elliptic.P521()).PublicKey }},
	{"A35 VCEK with an RSA key", attest.ClassChain, func(s *scene) { s.certKey = &pkis()["genoa"].askKey.PublicKey }},
	{"no VCEK", attest.ClassChain, func(s *scene) { s.leafless = true }},
	{"two VCEKs", attest.ClassChain, func(s *scene) {
		other := newScene()
		s.more = attest.Collateral{{Kind: attest.KindCertificate, Bytes: other.leafDER()}}
	}},
	{"two VCEKs sent, where the right one is held", attest.ClassChain, func(s *scene) {
		other := newScene()
		s.ours = attest.Collateral{{Kind: attest.KindCertificate, Bytes: s.leafDER()}}
		s.more = attest.Collateral{{Kind: attest.KindCertificate, Bytes: other.leafDER()}}
	}},
	{"VCEK is not DER", attest.ClassChain, func(s *scene) {
		s.leafless, s.more = true, attest.Collateral{{Kind: attest.KindCertificate, Bytes: []byte("-----BEGIN")}}
	}},
	{"VCEK of 8193 bytes", attest.ClassChain, func(s *scene) {
		s.more = attest.Collateral{{Kind: attest.KindCertificate, Bytes: make([]byte, 8193)}}
	}},
}

// onTurin returns a spoiler of a scene that is a Turin's.
func onTurin(spoil func(*scene)) func(*scene) {
	return func(s *scene) { s.turin(); spoil(s) }
}

var turinRefusals = []refusal{
	{"A18 Turin: VCEK of another FMC", attest.ClassChain, onTurin(func(s *scene) { s.with(extension(oid(3, 9), 4)) })},
	{"A18 Turin: VCEK of another bootloader", attest.ClassChain, onTurin(func(s *scene) { s.with(extension(oid(3, 1), 8)) })},
	{"A18 Turin: VCEK of another SNP firmware", attest.ClassChain, onTurin(func(s *scene) { s.with(extension(oid(3, 3), 22)) })},
	{"A18 Turin: VCEK with a reserved component", attest.ClassChain, onTurin(func(s *scene) { s.with(extension(oid(3, 6), 1)) })},
	{"A18 Turin: a TCB in Milan's order", attest.ClassChain, onTurin(func(s *scene) {
		s.without(oid(3, 9))
		s.with(extension(oid(3, 1), 3)) // what Milan has where Turin has its FMC
		s.with(extension(oid(3, 9), 0))
	})},
	{"A19 Turin: VCEK of another chip", attest.ClassChain, onTurin(set(0x1A0+7, 0))},
	{"A20 Turin: CHIP_ID goes on behind the hardware id", attest.ClassChain, onTurin(set(0x1A0+63, 1))},
	{"A20 Turin: CHIP_ID goes on with the next byte", attest.ClassChain, onTurin(set(0x1A0+8, 1))},
	{"A20 Turin: hardware id of 64 bytes", attest.ClassChain, onTurin(func(s *scene) {
		s.with(pkix.Extension{Id: oid(4), Value: bytes.Repeat([]byte{0xc5}, 64)})
	})},
	{"A20 Genoa: hardware id of 8 bytes", attest.ClassChain, func(s *scene) {
		s.with(pkix.Extension{Id: oid(4), Value: bytes.Repeat([]byte{0xc5}, 8)})
	}},
	{"A21 Turin: a certificate without its FMC", attest.ClassChain, onTurin(func(s *scene) { s.without(oid(3, 9)) })},
	{"A21 Genoa: a certificate with an FMC", attest.ClassChain, func(s *scene) { s.with(extension(oid(3, 9), 0)) }},
	{"A24 Turin report and VCEK, by Genoa's ASK", attest.ClassChain, onTurin(func(s *scene) {
		s.issuer, s.by = pkis()["genoa"].ask, pkis()["genoa"].askKey
	})},
	{"A25 Turin report, Genoa VCEK", attest.ClassChain, func(s *scene) {
		genoa := slices.Clone(s.oids)
		s.turin()
		s.issuer, s.by, s.oids = pkis()["genoa"].ask, pkis()["genoa"].askKey, genoa
	}},
	{"A25 Genoa report, Turin VCEK", attest.ClassChain, onTurin(func(s *scene) {
		s.report[0x188], s.report[0x189] = 0x19, 0x11
		for _, at := range tcbs {
			clear(s.report[at:][:8])
			setTCB(s.report[at:], 9, 0, 23, 72)
		}
	})},
	{"A42 Turin: reserved component of CURRENT_TCB", attest.ClassParse, onTurin(set(0x38+4, 1))},
	{"A42 Turin: reserved component of LAUNCH_TCB", attest.ClassParse, onTurin(set(0x1F0+6, 1))},
}

// as leaves bytes as they are.
func as(b []byte) []byte { return b }

// maskedBySHA256 has RSA-PSS's parameters say that its mask is made with SHA-256: the second of the two hashes in them.
func maskedBySHA256(der []byte) []byte {
	hash := []byte{6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2} // SHA-384
	first := bytes.Index(der, hash) + len(hash)
	return append(der[:first:first], bytes.Replace(der[first:], hash, append(hash[:10:10], 1), 1)...)
}

var signatureRefusals = []refusal{
	{"A37 r is zero", attest.ClassSig, sent(func(r []byte) []byte { clear(r[0x2A0:][:72]); return r })},
	{"A37 s is zero", attest.ClassSig, sent(func(r []byte) []byte { clear(r[0x2E8:][:72]); return r })},
	{"A37 r is n", attest.ClassSig, sent(func(r []byte) []byte {
		setSignature(r, elliptic.P384().Params().N, big.NewInt(1))
		return r
	})},
	{"A37 s is s + n", attest.ClassSig, sent(func(raw []byte) []byte {
		r, s := signature(raw)
		setSignature(raw, r, s.Add(s, elliptic.P384().Params().N))
		return raw
	})},
	{"A37 byte 48 of r", attest.ClassSig, sent(func(r []byte) []byte { r[0x2A0+48] = 1; return r })},
	{"A37 byte 71 of s", attest.ClassSig, sent(func(r []byte) []byte { r[0x2E8+71] = 1; return r })},
	{"signed by another key", attest.ClassSig, func(s *scene) { s.certKey = &ecKey(elliptic.P384()).PublicKey }},
	{"measurement changed after signing", attest.ClassSig, sent(func(r []byte) []byte { r[0x90] ^= 1; return r })},
	{"report data changed after signing, as wished", attest.ClassSig, func(s *scene) {
		s.binding.ReportData[5] ^= 1
		s.sent = func(r []byte) []byte { r[0x55] ^= 1; return r }
	}},
}

// signature reads r and s.
func signature(raw []byte) (r, s *big.Int) {
	read := func(at int) *big.Int {
		field := slices.Clone(raw[at:][:72])
		slices.Reverse(field)
		return new(big.Int).SetBytes(field)
	}
	return read(0x2A0), read(0x2E8)
}

// tableRefusals are certificate tables.
func tableRefusals() []refusal {
	vlek := []byte{0xa8, 0x07, 0x4b, 0xc2, 0xa2, 0x5a, 0x48, 0x3e, 0xaa, 0xe6, 0x39, 0xc0, 0x45, 0xa0, 0xb8, 0xa1}
	other := make([]byte, 16)
	other[3] = 9
	end, hundred := make([]byte, 24), make([]byte, 100)
	var list []refusal
	for _, table := range []struct {
		name  string
		class attest.Class
		raw   []byte
	}{
		{"empty", attest.ClassParse, nil},
		{"without an end", attest.ClassParse, tableEntry(guidVCEK, 24, 0)},
		{"entry into the entries", attest.ClassParse, slices.Concat(tableEntry(guidVCEK, 47, 10), end, hundred)},
		{"entry beyond the end", attest.ClassParse, slices.Concat(tableEntry(guidVCEK, 48, 101), end, hundred)},
		{"entry of a stranger beyond the end", attest.ClassParse, slices.Concat(tableEntry(other, 148, 1), end, hundred)},
		{"offset and length wrap", attest.ClassParse, slices.Concat(tableEntry(guidVCEK, 0xFFFFFFF0, 0x20), end, hundred)},
		{"length wraps", attest.ClassParse, slices.Concat(tableEntry(guidVCEK, 48, 0xFFFFFFFF), end, hundred)},
		{"overlap", attest.ClassParse, slices.Concat(tableEntry(guidVCEK, 72, 50), tableEntry(vlek, 121, 20), end, hundred)},
		{"17 entries", attest.ClassParse, slices.Concat(slices.Repeat(tableEntry(other, 432, 0), 17), end, hundred)},
		{"certificate of zeros", attest.ClassChain, slices.Concat(tableEntry(guidVCEK, 48, 100), end, hundred)},
		{"PEM with something behind it", attest.ClassChain, certTable([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\nx"))},
		{"PEM of a key", attest.ClassChain, certTable([]byte("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"))},
		{"too long", attest.ClassParse, append(certTable(nil), make([]byte, 64<<10)...)},
	} {
		list = append(list, refusal{"A41 table: " + table.name, table.class, func(s *scene) {
			s.more = attest.Collateral{{Kind: attest.KindCertTable, Bytes: table.raw}}
		}})
	}
	return append(list, refusal{"A41 17 pieces of collateral", attest.ClassParse, func(s *scene) {
		s.more = slices.Repeat(attest.Collateral{{Kind: attest.KindEventLog}}, 17)
	}})
}

// listing returns the certificate of by as one that signs revocation lists under the name of another.
func listing(by, as *x509.Certificate) *x509.Certificate {
	c := *by
	c.RawSubject, c.Subject, c.KeyUsage = as.RawSubject, as.Subject, x509.KeyUsageCRLSign
	return &c
}

// listRefusals are revocation lists. Each is tried as sent by the peer and as held here.
func listRefusals() []refusal {
	p, stranger := pkis()["genoa"], pkis()["stranger"]
	var list []refusal
	for _, one := range []struct {
		name string
		crl  attest.Item
	}{
		{"A31 VCEK on the list", crl(p.ark, p.arkKey, revoking(77))},
		{"A31 ASK on the list", crl(p.ark, p.arkKey, revoking(2))},
		{"A31 ARK on the list", crl(p.ark, p.arkKey, revoking(1))},
		{"A32 list by another key", crl(stranger.ark, stranger.arkKey)},
		{"A32 expired list", crl(p.ark, p.arkKey, func(l *x509.RevocationList) { l.NextUpdate = now.Add(-time.Minute) })},
		{"A32 list from the future", crl(p.ark, p.arkKey, func(l *x509.RevocationList) { l.ThisUpdate = now.Add(time.Minute) })},
		{"A32 list with a critical extension", crl(p.ark, p.arkKey, func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 4}}} // a delta
		})},
		{"A32 list signed by the ASK", crl(listing(p.ask, p.ark), p.askKey)},
		{"A32 list without nextUpdate", withoutNextUpdate(crl(p.ark, p.arkKey), p.arkKey)},
		{"list that does not parse", attest.Item{Kind: attest.KindCRL, Bytes: []byte{0x30, 0}}},
		{"list of 65537 bytes", attest.Item{Kind: attest.KindCRL, Bytes: make([]byte, 65537)}},
	} {
		list = append(list,
			refusal{one.name + ", sent", attest.ClassRevoked, func(s *scene) { s.more = attest.Collateral{one.crl} }},
			refusal{one.name + ", held", attest.ClassRevoked, func(s *scene) { s.ours = attest.Collateral{one.crl} }})
	}
	vlekListed := func(serial int64) func(*scene) {
		return func(s *scene) { s.vlek(); s.more = attest.Collateral{crl(p.ark, p.arkKey, revoking(serial))} }
	}
	return append(list,
		refusal{"A31 VLEK on the list", attest.ClassRevoked, vlekListed(77)},
		refusal{"A31 ASVK on the list", attest.ClassRevoked, vlekListed(3)},
		refusal{"A32 list without a number where one is held", attest.ClassRevoked, func(s *scene) {
			s.more = attest.Collateral{withoutNumber(crl(p.ark, p.arkKey), p.arkKey)}
			s.ours = attest.Collateral{crl(p.ark, p.arkKey)}
		}},
		refusal{"A32 list of another product line, sent", attest.ClassRevoked, func(s *scene) {
			s.more = attest.Collateral{crl(pkis()["milan"].ark, pkis()["milan"].arkKey)}
		}},
		refusal{"A32 list under another root's name by this root's key, sent", attest.ClassRevoked, func(s *scene) {
			s.more = attest.Collateral{crl(listing(p.ark, pkis()["milan"].ark), p.arkKey)}
		}},
		refusal{"A32 number lower than one seen", attest.ClassRevoked, func(s *scene) {
			s.more = attest.Collateral{crl(p.ark, p.arkKey)}
			s.ours = attest.Collateral{crl(p.ark, p.arkKey, func(l *x509.RevocationList) { l.Number = big.NewInt(6) })}
		}})
}

// TestRootsApart: what chains to a private root is nothing to a verifier that does not know it, and what chains to AMD
// is nothing to a name.
func TestRootsApart(t *testing.T) {
	s := newScene()
	_, err := newVerifier(t, nil).Verify(t.Context(), s.evidence(), s.binding, now, nil)
	wantClass(t, err, attest.ClassChain)

	_, err = trusting(t).Verify(t.Context(), attest.Evidence{Type: attest.Nitro, Body: s.evidence().Body}, s.binding, now, nil)
	wantClass(t, err, attest.ClassParse)
}

func TestOptions(t *testing.T) {
	genoa, milan, stranger := pkis()["genoa"], pkis()["milan"], pkis()["stranger"]
	// authority returns one that is in order but for its name, or who signed it.
	authority := func(name string, key *rsa.PrivateKey, parent *x509.Certificate, by *rsa.PrivateKey) *x509.Certificate {
		c := template(name, 9)
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		if parent == nil {
			parent = c
		}
		return certificate(c, parent, &key.PublicKey, by)
	}
	naples := authority("ARK-Naples", stranger.arkKey, nil, stranger.arkKey)
	cross := authority("ARK-Genoa", stranger.arkKey, milan.ark, milan.arkKey)
	for _, o := range []struct {
		name  string
		roots map[string][]*x509.Certificate
	}{
		{"no name", map[string][]*x509.Certificate{"": genoa.certs()}},
		{"nothing", map[string][]*x509.Certificate{"a": nil}},
		{"no intermediate", map[string][]*x509.Certificate{"a": {genoa.ark}}},
		{"wrong order", map[string][]*x509.Certificate{"a": {genoa.ask, genoa.ark}}},
		{"intermediate of another line", map[string][]*x509.Certificate{"a": {genoa.ark, milan.ask}}},
		{"intermediate of another root", map[string][]*x509.Certificate{"a": {genoa.ark, stranger.ask}}},
		{"root that is not self-signed", map[string][]*x509.Certificate{"a": {
			cross, authority("SEV-Genoa", stranger.askKey, cross, stranger.arkKey),
		}}},
		{"another line", map[string][]*x509.Certificate{"a": {naples, authority("SEV-Naples", stranger.askKey, naples, stranger.arkKey)}}},
		{"root without a product line", map[string][]*x509.Certificate{"a": {genoa.ask, genoa.ask}}},
		{"one root, two names, each with an intermediate of its own", map[string][]*x509.Certificate{
			"a": {genoa.ark, genoa.ask}, "b": {genoa.ark, authority("SEV-Genoa", stranger.askKey, genoa.ark, genoa.arkKey)},
		}},
		{"one intermediate's key under two roots", map[string][]*x509.Certificate{
			"a": {genoa.ark, genoa.ask}, "b": {stranger.ark, authority("SEV-Genoa", genoa.askKey, stranger.ark, stranger.arkKey)},
		}},
		{"one root, two names", map[string][]*x509.Certificate{"a": genoa.certs(), "b": genoa.certs()}},
		{"one intermediate twice", map[string][]*x509.Certificate{"a": {genoa.ark, genoa.ask, genoa.ask}}},
		{"AMD's own", map[string][]*x509.Certificate{"a": amdGenoa(t)}},
	} {
		t.Run(o.name, func(t *testing.T) {
			if _, err := sevsnp.NewVerifier(sevsnp.Options{SimulatedRoots: o.roots}); err == nil {
				t.Error("NewVerifier accepted")
			}
		})
	}
}

// amdGenoa returns AMD's root and intermediate for Genoa, out of the certificate table of real evidence.
func amdGenoa(t *testing.T) []*x509.Certificate {
	t.Helper()
	table := load(t, "testdata/vectors/sevsnp/genoa-v3-certtable-veraison", "certtable.bin")
	byName := map[string]*x509.Certificate{}
	for i := 0; binary.LittleEndian.Uint32(table[i+20:]) != 0; i += 24 {
		from, size := binary.LittleEndian.Uint32(table[i+16:]), binary.LittleEndian.Uint32(table[i+20:])
		cert := parsePEM(t, table[from:from+size])
		byName[cert.Subject.CommonName] = cert
	}
	if byName["ARK-Genoa"] == nil || byName["SEV-Genoa"] == nil {
		t.Fatalf("the table has %v", byName)
	}
	return []*x509.Certificate{byName["ARK-Genoa"], byName["SEV-Genoa"]}
}
