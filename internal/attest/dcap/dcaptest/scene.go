package dcaptest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"time"

	"consilium.dev/internal/attest"
)

// LeafSerial is the serial number of a scene's PCK certificate.
const LeafSerial = 77

// Object is a JSON object.
type Object = map[string]any

// A Scene is one piece of evidence in the making. A case spoils one thing of it.
type Scene struct {
	Type           attest.Type
	Header         []byte // 48 bytes
	BodyHead       []byte // of version 5
	Body           []byte
	AttestationKey *ecdsa.PrivateKey
	KeyBytes       func(xy []byte) []byte // the attestation key as written

	QE       []byte // report of the quoting enclave; its report data are filled in
	AuthData []byte
	Unbound  func(reportData []byte) // spoils them

	Leaf     *x509.Certificate       // template of the PCK certificate
	Elements []Element               // of its SGX extension
	Extended func(der []byte) []byte // the extension as written
	PCKKey   *ecdsa.PrivateKey
	CertKey  crypto.PublicKey // what the certificate says its key is; nil for PCKKey's
	Issuer   *Authority
	Root     *Authority                        // the last of the chain
	Chain    func(certs [][]byte) []byte       // the chain as written
	Layout   func(signatureData []byte) []byte // before its length is written
	Written  func(quote []byte) []byte

	Info, Identity         Object     // nil for none
	InfoBy, IdentityBy     *Authority // who signs them
	InfoText, IdentityText func(text []byte) []byte
	Signer                 *Authority // sent along as their issuer; nil for none
	Lists                  attest.Collateral
	More                   attest.Collateral // sent, beside all that
	Held                   attest.Collateral // of the verifier's own

	Binding attest.Binding
	Now     time.Time
}

// Element is one of the SGX extension's.
type Element struct {
	ID    asn1.ObjectIdentifier
	Value asn1.RawValue
}

// OID returns the number of an element of Intel's SGX extension, or the extension's own.
func OID(last ...int) asn1.ObjectIdentifier {
	return append(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, last...)
}

// ElementOf returns an element.
func ElementOf(value any, id ...int) Element {
	return Element{OID(id...), asn1.RawValue{FullBytes: must(asn1.Marshal(value))}}
}

// The parts of a platform that scenes are of.
var (
	FMSPC    = []byte{0x90, 0xc0, 0x6f, 0, 0, 0}
	Instance = bytes.Repeat([]byte{0x1d}, 16)
	PPID     = bytes.Repeat([]byte{0x99}, 16)
)

// qeSigner is MRSIGNER of Intel's quoting enclaves.
var qeSigner = map[attest.Type]string{
	attest.SGX: "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff",
	attest.TDX: "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5",
}

// newScene returns what scenes of SGX and TDX have in common.
func newScene(t attest.Type) *Scene {
	p := Trusted()
	s := &Scene{
		Type: t, Now: Now, AttestationKey: NewKey(elliptic.P256()), PCKKey: NewKey(elliptic.P256()), AuthData: []byte("authentication"),
		Leaf: Template("Intel SGX PCK Certificate", LeafSerial), Issuer: p.Platform, Root: p.Root,
		InfoBy: p.TCBSigning, IdentityBy: p.TCBSigning, Signer: p.TCBSigning,
		Lists: attest.Collateral{List(p.Root), List(p.Platform)},
	}
	for i := range s.Binding.ReportData {
		s.Binding.ReportData[i] = byte(i + 1)
	}
	s.Header = make([]byte, 48)
	s.Header[2] = 2
	copy(s.Header[12:], must(hex.DecodeString("939a7233f79c4ca9940a0db3957f0607")))
	s.QE = make([]byte, 384)
	s.QE[48], s.QE[56] = 0x15, 3 // ATTRIBUTES: INIT, MODE64BIT, PROVISION_KEY
	copy(s.QE[128:], must(hex.DecodeString(qeSigner[t])))
	s.QE[256], s.QE[258] = 2, 4 // ISVPRODID, ISVSVN
	var tcb []Element
	for i := range 16 {
		tcb = append(tcb, ElementOf(5, 2, i+1))
	}
	tcb = append(tcb, ElementOf(11, 2, 17), ElementOf(bytes.Repeat([]byte{5}, 16), 2, 18))
	s.Elements = []Element{
		ElementOf(PPID, 1), ElementOf(tcb, 2), ElementOf([]byte{0, 0}, 3), ElementOf(FMSPC, 4), ElementOf(asn1.Enumerated(1), 5),
		ElementOf(Instance, 6), ElementOf([]Element{ElementOf(true, 7, 1), ElementOf(true, 7, 2), ElementOf(true, 7, 3)}, 7),
	}
	s.Info = document("TDX", 3, Object{"fmspc": hex.EncodeToString(FMSPC), "pceId": "0000", "tcbType": 0, "tcbLevels": []any{
		Level("UpToDate", 5, 11, 3), Level("OutOfDate", 4, 11, 2, "INTEL-SA-00002", "INTEL-SA-00001"),
	}})
	s.Identity = document("TD_QE", 2, Object{
		"miscselect": "00000000", "miscselectMask": "FFFFFFFF",
		"attributes": "11000000000000000000000000000000", "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
		"mrsigner": strings.ToUpper(qeSigner[t]), "isvprodid": 2,
		"tcbLevels": []any{SVNLevel("UpToDate", 4), SVNLevel("OutOfDate", 2, "INTEL-SA-00003"), SVNLevel("Revoked", 1)},
	})
	return s
}

// document returns a TCB info or QE identity that holds Now.
func document(id string, version int, more Object) Object {
	more["id"], more["version"], more["tcbEvaluationDataNumber"] = id, version, 18
	more["issueDate"], more["nextUpdate"] = Now.AddDate(0, 0, -2).Format(time.RFC3339), Now.AddDate(0, 0, 28).Format(time.RFC3339)
	return more
}

// Level returns a level of a TCB info: each of the 16 components of the processor's TCB, the PCE's version, the component of TDX's
// that is no module's.
func Level(status string, component, pce, tdx int, advisories ...string) Object {
	var sgx, td []any
	for i := range 16 {
		sgx = append(sgx, Object{"svn": component, "category": "BIOS"})
		td = append(td, Object{"svn": map[int]int{0: 4, 2: tdx}[i]}) // the module's version is at 1
	}
	return level(status, Object{"sgxtcbcomponents": sgx, "pcesvn": pce, "tdxtcbcomponents": td}, advisories)
}

// SVNLevel returns a level of a TDX module or of a quoting enclave.
func SVNLevel(status string, svn int, advisories ...string) Object {
	return level(status, Object{"isvsvn": svn}, advisories)
}

func level(status string, tcb Object, advisories []string) Object {
	l := Object{"tcb": tcb, "tcbDate": "2024-11-13T00:00:00Z", "tcbStatus": status}
	if len(advisories) > 0 {
		l["advisoryIDs"] = advisories
	}
	return l
}

// NewTDX returns a scene with which nothing is wrong: a trust domain of TDX 1.5, quote version 5, module TDX_01 with the SVN 4.
func NewTDX() *Scene {
	s := newScene(attest.TDX)
	s.Header[0], s.Header[4] = 5, 0x81
	s.BodyHead = binary.LittleEndian.AppendUint32([]byte{3, 0}, 648)
	b := make([]byte, 648)
	copy(b, []byte{4, 1, 3}) // TEE_TCB_SVN
	fill(b[16:64], 0x5e)     // MRSEAM
	b[120+3] = 0x10          // TDATTRIBUTES: SEPT_VE_DISABLE
	copy(b[128:], []byte{0xe7, 2, 6})
	fill(b[136:184], 0x71) // MRTD
	for i := range 4 {
		fill(b[328+48*i:][:48], byte(0xb0+i)) // RTMRs
	}
	copy(b[520:], s.Binding.ReportData[:])
	copy(b[584:], []byte{6, 1, 3}) // TEE_TCB_SVN_2
	s.Body = b
	zero48, zero8, ones8 := strings.Repeat("00", 48), strings.Repeat("00", 8), strings.Repeat("FF", 8)
	s.Info["tdxModule"] = Object{"mrsigner": zero48, "attributes": zero8, "attributesMask": ones8}
	s.Info["tdxModuleIdentities"] = []any{
		Object{"id": "TDX_03", "mrsigner": zero48, "attributes": zero8, "attributesMask": ones8, "tcbLevels": []any{SVNLevel("UpToDate", 3)}},
		Object{
			"id": "TDX_01", "mrsigner": zero48, "attributes": zero8, "attributesMask": ones8,
			"tcbLevels": []any{SVNLevel("UpToDate", 4), SVNLevel("OutOfDate", 2, "INTEL-SA-00004")},
		},
	}
	return s
}

// TDX10 makes a scene of NewTDX one of TDX 1.0: quote version 4, a module without levels of its own.
func (s *Scene) TDX10() {
	s.Header[0], s.BodyHead, s.Body = 4, nil, s.Body[:584]
	s.Body[1] = 0
}

// NewSGX returns a scene with which nothing is wrong: an enclave, quote version 3.
func NewSGX() *Scene {
	s := newScene(attest.SGX)
	s.Header[0], s.Header[8], s.Header[10] = 3, 4, 11
	s.Info["id"], s.Identity["id"] = "SGX", "QE"
	b := make([]byte, 384)
	fill(b[:16], 5)                  // CPUSVN
	b[48], b[56] = 0x05, 0xe7        // ATTRIBUTES: INIT, MODE64BIT; XFRM
	fill(b[64:96], 0xe1)             // MRENCLAVE
	fill(b[128:160], 0x51)           // MRSIGNER
	fill(b[192:256], 0xc0)           // CONFIGID
	b[256], b[258], b[260] = 7, 3, 1 // ISVPRODID, ISVSVN, CONFIGSVN
	copy(b[320:], s.Binding.ReportData[:])
	s.Body = b
	return s
}

func fill(b []byte, value byte) { copy(b, bytes.Repeat([]byte{value}, len(b))) }

// Processor has the scene's platform certified by the processor's authority, which knows no instance and no configuration.
func (s *Scene) Processor() {
	s.Issuer, s.Elements = Trusted().Processor, s.Elements[:5]
	s.Lists[1] = List(Trusted().Processor)
}

// With replaces an element of the SGX extension.
func (s *Scene) With(e Element) {
	for i := range s.Elements {
		if s.Elements[i].ID.Equal(e.ID) {
			s.Elements[i] = e
		}
	}
}

// Without drops it.
func (s *Scene) Without(id ...int) {
	s.Elements = slices.DeleteFunc(s.Elements, func(e Element) bool { return e.ID.Equal(OID(id...)) })
}

// TCBElement returns the extension's TCB with one of its 18 parts replaced.
func TCBElement(n int, value any) Element {
	var tcb []Element
	for i := range 16 {
		tcb = append(tcb, ElementOf(5, 2, i+1))
	}
	tcb = append(tcb, ElementOf(11, 2, 17), ElementOf(bytes.Repeat([]byte{5}, 16), 2, 18))
	tcb[n-1] = ElementOf(value, 2, n)
	return ElementOf(tcb, 2)
}

// LeafDER signs the scene's PCK certificate.
func (s *Scene) LeafDER() []byte {
	leaf := *s.Leaf
	extension := must(asn1.Marshal(s.Elements))
	if s.Extended != nil {
		extension = s.Extended(extension)
	}
	if extension != nil {
		leaf.ExtraExtensions = append(slices.Clone(leaf.ExtraExtensions), pkix.Extension{Id: OID(), Value: extension})
	}
	key := s.CertKey
	if key == nil {
		key = &s.PCKKey.PublicKey
	}
	return must(x509.CreateCertificate(rand.Reader, &leaf, s.Issuer.Certificate, key, s.Issuer.Key))
}

// Quote signs what the scene has become.
func (s *Scene) Quote() []byte {
	xy := must(s.AttestationKey.PublicKey.Bytes())[1:]
	if s.KeyBytes != nil {
		xy = s.KeyBytes(xy)
	}
	qe := slices.Clone(s.QE)
	bound := sha256.Sum256(slices.Concat(xy, s.AuthData))
	copy(qe[320:], bound[:])
	if s.Unbound != nil {
		s.Unbound(qe[320:384])
	}
	chain := [][]byte{s.LeafDER(), s.Issuer.Raw, s.Root.Raw}
	written := append(PEM(chain...), 0)
	if s.Chain != nil {
		written = s.Chain(chain)
	}
	signed := slices.Concat(s.Header, s.BodyHead, s.Body)
	report := slices.Concat(qe, sign(s.PCKKey, qe), u16(len(s.AuthData)), s.AuthData, u16(5), u32(len(written)), written)
	if s.Header[0] > 3 {
		report = slices.Concat(u16(6), u32(len(report)), report)
	}
	data := slices.Concat(sign(s.AttestationKey, signed), xy, report)
	if s.Layout != nil {
		data = s.Layout(data)
	}
	quote := slices.Concat(signed, u32(len(data)), data)
	if s.Written != nil {
		quote = s.Written(quote)
	}
	return quote
}

func u16(n int) []byte { return binary.LittleEndian.AppendUint16(nil, uint16(n)) }
func u32(n int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(n)) }

// sign returns r ‖ s, 32 bytes each, big-endian.
func sign(key *ecdsa.PrivateKey, message []byte) []byte {
	digest := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		panic(err)
	}
	return slices.Concat(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32)))
}

// Twin replaces a signature, r ‖ s, by the other that ECDSA gives for each.
func Twin(signature []byte) {
	s := new(big.Int).SetBytes(signature[32:64])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(signature[32:64])
}

// InfoItem signs the scene's TCB info.
func (s *Scene) InfoItem() attest.Item {
	return item(attest.KindTCBInfo, "tcbInfo", s.Info, s.InfoBy, s.InfoText)
}

// IdentityItem signs the scene's QE identity.
func (s *Scene) IdentityItem() attest.Item {
	return item(attest.KindQEIdentity, "enclaveIdentity", s.Identity, s.IdentityBy, s.IdentityText)
}

func item(kind attest.Kind, name string, o Object, by *Authority, text func([]byte) []byte) attest.Item {
	body := must(json.Marshal(o))
	all := []byte(`{"` + name + `":` + string(body) + `,"signature":"` + hex.EncodeToString(sign(by.Key, body)) + `"}`)
	if text != nil {
		all = text(all)
	}
	return attest.Item{Kind: kind, Bytes: all}
}

// Collateral returns what is sent with the quote.
func (s *Scene) Collateral() attest.Collateral {
	var c attest.Collateral
	if s.Info != nil {
		c = append(c, s.InfoItem())
	}
	if s.Identity != nil {
		c = append(c, s.IdentityItem())
	}
	if s.Signer != nil {
		c = append(c, attest.Item{Kind: attest.KindIssuerChain, Bytes: PEM(s.Signer.Raw, s.Root.Raw)})
	}
	return slices.Concat(c, s.Lists, s.More)
}

// Evidence returns the quote with its collateral.
func (s *Scene) Evidence() attest.Evidence {
	return attest.Evidence{Type: s.Type, Body: s.Quote(), Collateral: s.Collateral()}
}
