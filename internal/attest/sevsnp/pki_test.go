package sevsnp_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/sevsnp"
)

// These tests do not use the simulated platform: they need evidence that is wrong in one thing and rightly signed in all
// others, and an encoder that shares no code with what it tests. Its RSA keys are short, to be quick.

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// pki is a root, an intermediate for chips and one for cloud providers, under AMD's names.
type pki struct {
	line                    string
	ark, ask, asvk          *x509.Certificate
	arkKey, askKey, asvkKey *rsa.PrivateKey
}

// Four of them, made once: one of each product line that verifiers trust, and a stranger with the first one's names.
var pkis = sync.OnceValue(func() map[string]*pki {
	return map[string]*pki{"genoa": newPKI("Genoa"), "milan": newPKI("Milan"), "turin": newPKI("Turin"), "stranger": newPKI("Genoa")}
})

func newPKI(line string) *pki {
	p := &pki{line: line, arkKey: rsaKey(), askKey: rsaKey(), asvkKey: rsaKey()}
	ark := template("ARK-"+line, 1)
	ark.IsCA, ark.BasicConstraintsValid, ark.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	p.ark = certificate(ark, ark, &p.arkKey.PublicKey, p.arkKey)
	ask := template("SEV-"+line, 2)
	ask.IsCA, ask.BasicConstraintsValid, ask.MaxPathLenZero, ask.KeyUsage = true, true, true, x509.KeyUsageCertSign
	p.ask = certificate(ask, p.ark, &p.askKey.PublicKey, p.arkKey)
	ask.Subject.CommonName, ask.SerialNumber = "SEV-VLEK-"+line, big.NewInt(3)
	p.asvk = certificate(ask, p.ark, &p.asvkKey.PublicKey, p.arkKey)
	return p
}

func (p *pki) certs() []*x509.Certificate { return []*x509.Certificate{p.ark, p.ask, p.asvk} }

func rsaKey() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) }

func ecKey(c elliptic.Curve) *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(c, rand.Reader)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func template(commonName string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject: pkix.Name{
			Country: []string{"US"}, Locality: []string{"Santa Clara"}, Province: []string{"CA"},
			Organization: []string{"Advanced Micro Devices"}, OrganizationalUnit: []string{"Engineering"}, CommonName: commonName,
		},
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0), SignatureAlgorithm: x509.SHA384WithRSAPSS,
	}
}

func certificate(template, parent *x509.Certificate, key crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, parent, key, by))))
}

// scene is one piece of evidence in the making. A case spoils one thing of it.
type scene struct {
	report   []byte            // the 1184 bytes, unsigned
	leaf     *x509.Certificate // template
	oids     []pkix.Extension  // AMD's extensions of it
	key      *ecdsa.PrivateKey // the leaf's
	certKey  crypto.PublicKey  // what the leaf says its key is; nil for key's
	issuer   *x509.Certificate
	by       crypto.Signer
	made     func(der []byte) []byte    // the leaf, after signing
	sent     func(report []byte) []byte // after signing
	more     attest.Collateral          // beside the leaf
	table    bool                       // the leaf comes in a certificate table
	leafless bool
	ours     attest.Collateral
	binding  attest.Binding
	now      time.Time
}

// oid returns the number of AMD's extension under 1.3.6.1.4.1.3704.1.
func oid(last ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, last...)
}

func extension(id asn1.ObjectIdentifier, value any) pkix.Extension {
	return pkix.Extension{Id: id, Value: must(asn1.Marshal(value))}
}

func ia5(s string) asn1.RawValue { return asn1.RawValue{Tag: asn1.TagIA5String, Bytes: []byte(s)} }

// newScene returns a scene with which nothing is wrong: a Genoa of report version 5, TCB 9, 0, 23, 72.
func newScene() *scene {
	p := pkis()["genoa"]
	s := &scene{issuer: p.ask, by: p.askKey, key: ecKey(elliptic.P384()), now: now, leaf: template("SEV-VCEK", 77)}
	chip := bytes.Repeat([]byte{0xc5}, 64)
	s.oids = []pkix.Extension{
		extension(oid(1), 0), extension(oid(2), ia5("Genoa")), extension(oid(3, 1), 9), extension(oid(3, 2), 0),
		extension(oid(3, 4), 0), extension(oid(3, 5), 0), extension(oid(3, 6), 0), extension(oid(3, 7), 0),
		extension(oid(3, 3), 23), extension(oid(3, 8), 72),
		{Id: oid(4), Value: chip},
	}
	for i := range s.binding.ReportData {
		s.binding.ReportData[i] = byte(i + 1)
	}
	r := make([]byte, 1184)
	binary.LittleEndian.PutUint32(r[0x00:], 5)
	binary.LittleEndian.PutUint32(r[0x04:], 7)                // GUEST_SVN
	binary.LittleEndian.PutUint64(r[0x08:], 1<<17|0x01<<8|55) // POLICY: ABI 1.55
	binary.LittleEndian.PutUint32(r[0x34:], 1)                // SIGNATURE_ALGO
	for _, at := range tcbs {
		setTCB(r[at:], 9, 0, 23, 72)
	}
	binary.LittleEndian.PutUint64(r[0x40:], 0x25) // PLATFORM_INFO
	copy(r[0x50:], s.binding.ReportData[:])
	copy(r[0x90:], bytes.Repeat([]byte{0x4d}, 48))
	r[0x188], r[0x189], r[0x18A] = 0x19, 0x11, 1
	copy(r[0x1A0:], chip)
	s.report = r
	return s
}

func setTCB(at []byte, bootloader, tee, snp, microcode byte) {
	at[0], at[1], at[6], at[7] = bootloader, tee, snp, microcode
}

// tcbs are where a report's TCBs lie: current, reported, committed, launch.
var tcbs = []int{0x38, 0x180, 0x1E0, 0x1F0}

// turin makes the scene a Turin's: TCB 3, 9, 0, 23, 72, the first of them its FMC, and a hardware id of 8 bytes.
func (s *scene) turin() {
	p := pkis()["turin"]
	s.issuer, s.by = p.ask, p.askKey
	s.report[0x188], s.report[0x189] = 0x1A, 0x02
	for _, at := range tcbs {
		copy(s.report[at:], []byte{3, 9, 0, 23, 0, 0, 0, 72})
	}
	clear(s.report[0x1A0+8 : 0x1A0+64])
	s.with(extension(oid(2), ia5("Turin")))
	s.with(extension(oid(3, 9), 3))
	s.without(oid(3, 4))
	s.with(pkix.Extension{Id: oid(4), Value: bytes.Repeat([]byte{0xc5}, 8)})
}

// vlek makes the scene's report one that a cloud provider's key signed.
func (s *scene) vlek() {
	s.report[0x48] = 1 << 2
	s.asVLEK()
}

// asVLEK makes the scene's certificate a cloud provider's.
func (s *scene) asVLEK() {
	p := pkis()["genoa"]
	s.issuer, s.by, s.leaf.Subject.CommonName = p.asvk, p.asvkKey, "SEV-VLEK"
	s.oids[len(s.oids)-1] = extension(oid(5), ia5("CN=cloud.example"))
}

// without drops the leaf's extension with the number.
func (s *scene) without(id asn1.ObjectIdentifier) {
	s.oids = slices.DeleteFunc(s.oids, func(e pkix.Extension) bool { return e.Id.Equal(id) })
}

// with replaces it.
func (s *scene) with(e pkix.Extension) {
	s.without(e.Id)
	s.oids = append(s.oids, e)
}

func (s *scene) leafDER() []byte {
	s.leaf.ExtraExtensions = s.oids
	key := s.certKey
	if key == nil {
		key = &s.key.PublicKey
	}
	der := must(x509.CreateCertificate(rand.Reader, s.leaf, s.issuer, key, s.by))
	if s.made != nil {
		der = s.made(der)
	}
	return der
}

// signed is what certificates and revocation lists have in common.
type signed struct {
	Body      asn1.RawValue
	Algorithm asn1.RawValue
	Signature asn1.BitString
}

// resigned returns a certificate or list with its body and algorithm edited, signed again by RSA-PSS with SHA-384 and a salt
// of so many bytes: the standard library cannot be asked for such things, and would not sign them.
func resigned(der []byte, key *rsa.PrivateKey, salt int, edit func([]byte) []byte) []byte {
	var s signed
	if rest, err := asn1.Unmarshal(der, &s); err != nil || len(rest) != 0 {
		panic(err)
	}
	body := edit(slices.Clone(s.Body.FullBytes))
	digest := sha512.Sum384(body)
	signature := must(rsa.SignPSS(rand.Reader, key, crypto.SHA384, digest[:], &rsa.PSSOptions{SaltLength: salt}))
	return must(asn1.Marshal(signed{
		asn1.RawValue{FullBytes: body},
		asn1.RawValue{FullBytes: edit(slices.Clone(s.Algorithm.FullBytes))},
		asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)},
	}))
}

// evidence signs what the scene has become.
func (s *scene) evidence() attest.Evidence {
	raw := slices.Clone(s.report)
	digest := sha512.Sum384(raw[:0x2A0])
	r, v, err := ecdsa.Sign(rand.Reader, s.key, digest[:])
	if err != nil {
		panic(err)
	}
	setSignature(raw, r, v)
	if s.sent != nil {
		raw = s.sent(raw)
	}
	e := attest.Evidence{Type: attest.SEVSNP, Body: raw, Collateral: slices.Clone(s.more)}
	switch {
	case s.table:
		e.Collateral = append(e.Collateral, attest.Item{Kind: attest.KindCertTable, Bytes: certTable(s.leafDER())})
	case !s.leafless:
		e.Collateral = append(e.Collateral, attest.Item{Kind: attest.KindCertificate, Bytes: s.leafDER()})
	}
	return e
}

// setSignature writes r and s as 72 bytes each, little-endian.
func setSignature(raw []byte, r, s *big.Int) {
	for i, n := range []*big.Int{r, s} {
		field := raw[0x2A0+72*i:][:72]
		n.FillBytes(field)
		slices.Reverse(field)
	}
}

// guidVCEK is 63da758d-e664-4564-adc5-f4b93be8accd.
var guidVCEK = []byte{0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd}

// certTable returns a table with a VCEK in it.
func certTable(vcek []byte) []byte {
	t := append(tableEntry(guidVCEK, 48, uint32(len(vcek))), make([]byte, 24)...)
	return append(t, vcek...)
}

func tableEntry(guid []byte, offset, length uint32) []byte {
	e := slices.Clone(guid)
	e = binary.LittleEndian.AppendUint32(e, offset)
	return binary.LittleEndian.AppendUint32(e, length)
}

// verify judges the scene by a verifier that trusts all pkis but the stranger's.
func (s *scene) verify(t *testing.T) (attest.Claims, error) {
	t.Helper()
	return trusting(t).Verify(t.Context(), s.evidence(), s.binding, s.now, s.ours)
}

func trusting(t testing.TB) *sevsnp.Verifier {
	t.Helper()
	return newVerifier(t, &sevsnp.Options{SimulatedRoots: map[string][]*x509.Certificate{
		"genoa": pkis()["genoa"].certs(), "milan": pkis()["milan"].certs(), "turin": pkis()["turin"].certs(),
	}})
}

// crl returns a revocation list that holds now, spoilt by each of the functions.
func crl(by *x509.Certificate, key crypto.Signer, spoil ...func(*x509.RevocationList)) attest.Item {
	l := &x509.RevocationList{
		Number: big.NewInt(5), ThisUpdate: now.AddDate(0, 0, -1), NextUpdate: now.AddDate(0, 0, 1),
		SignatureAlgorithm: x509.SHA384WithRSAPSS,
	}
	for _, f := range spoil {
		f(l)
	}
	return attest.Item{Kind: attest.KindCRL, Bytes: must(x509.CreateRevocationList(rand.Reader, l, by, key))}
}

func revoking(serial int64) func(*x509.RevocationList) {
	return func(l *x509.RevocationList) {
		l.RevokedCertificateEntries = []x509.RevocationListEntry{
			{SerialNumber: big.NewInt(serial), RevocationTime: now.AddDate(0, -1, 0)},
		}
	}
}
