package simulated

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"time"

	"consilium.dev/internal/attest"
)

// intelRoot is Intel's part of a root: for SGX and TDX. Its root's key is forgotten once all below is signed.
type intelRoot struct {
	root, ca, signer *x509.Certificate // Intel SGX Root CA, PCK Platform CA, TCB Signing
	caKey, signerKey *ecdsa.PrivateKey
	lists            [][]byte // revocation lists of root and ca, which name nobody
}

// intel returns a template for a certificate of Intel's form.
func intel(root, commonName string, serial int64, from time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject: pkix.Name{
			Country: []string{"US"}, Province: []string{"CA"}, Locality: []string{"Santa Clara"},
			Organization: []string{"Intel Corporation"}, CommonName: commonName, SerialNumber: "SIMULATED " + root,
		},
		NotBefore: from, NotAfter: from.Add(lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, SignatureAlgorithm: x509.ECDSAWithSHA256, BasicConstraintsValid: true,
	}
}

func newIntelRoot(name string, from time.Time) (*intelRoot, error) {
	var keys [3]*ecdsa.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, fmt.Errorf("making a simulated root's keys: %w", err)
		}
	}
	r := &intelRoot{caKey: keys[1], signerKey: keys[2]}
	top := intel(name, "Intel SGX Root CA", 1, from)
	top.IsCA, top.MaxPathLen, top.KeyUsage = true, 1, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	ca := intel(name, "Intel SGX PCK Platform CA", 2, from)
	ca.IsCA, ca.MaxPathLenZero, ca.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	var err error
	if r.root, err = sign(top, top, &keys[0].PublicKey, keys[0]); err != nil {
		return nil, err
	}
	if r.ca, err = sign(ca, r.root, &keys[1].PublicKey, keys[0]); err != nil {
		return nil, err
	}
	if r.signer, err = sign(intel(name, "Intel SGX TCB Signing", 3, from), r.root, &keys[2].PublicKey, keys[0]); err != nil {
		return nil, err
	}
	for i, by := range []*x509.Certificate{r.root, r.ca} {
		list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: from, NextUpdate: from.Add(lifetime), SignatureAlgorithm: x509.ECDSAWithSHA256}
		der, err := x509.CreateRevocationList(rand.Reader, list, by, keys[i])
		if err != nil {
			return nil, fmt.Errorf("making the revocation list of %s: %w", by.Subject.CommonName, err)
		}
		r.lists = append(r.lists, der)
	}
	return r, nil
}

// IntelSpec says what the platform under a simulated domain or enclave is like. The zero IntelSpec is a good one.
type IntelSpec struct {
	PPID, Instance [16]byte // default: random
	Status         string   // what TCB info calls the platform, as Intel spells it; default: UpToDate
	Advisories     []string // that are open on it
}

// TDXSpec says what a simulated TDX machine with one trust domain is like. The zero TDXSpec is a good one, as the fields'
// defaults say; what is zero in a field without a default is zero in the quote.
type TDXSpec struct {
	IntelSpec
	MRTD                               [48]byte // default: as DefaultMRTD says
	RTMR                               [4][48]byte
	MRConfigID, MROwner, MROwnerConfig [48]byte
	MRServiceTD                        [48]byte
	MRSEAM                             [48]byte // default: SHA-384 of "consilium simulated tdx module"
	TDAttributes                       [8]byte  // default: SEPT_VE_DISABLE
	XFAM                               [8]byte  // default: e702060000000000
}

// SGXSpec says what a simulated SGX machine with one enclave is like, likewise.
type SGXSpec struct {
	IntelSpec
	MREnclave  [32]byte // default: as DefaultMREnclave says
	MRSigner   [32]byte // default: SHA-256 of "consilium simulated sgx signer"
	ISVProdID  uint16
	ISVSVN     uint16
	ConfigID   [64]byte
	ConfigSVN  uint16
	Attributes [16]byte // default: INIT, MODE64BIT, XFRM e7
	MiscSelect [4]byte
}

// DefaultMRTD is the measurement of a domain whose spec names none: SHA-384 of "consilium simulated tdx domain".
func DefaultMRTD() [48]byte { return sha512.Sum384([]byte("consilium simulated tdx domain")) }

// DefaultMREnclave is the measurement of an enclave whose spec names none: SHA-256 of "consilium simulated sgx enclave".
func DefaultMREnclave() [32]byte { return sha256.Sum256([]byte("consilium simulated sgx enclave")) }

// intelMachine is a platform with one domain or enclave on it, whose quoting enclave has its key already.
type intelMachine struct {
	typ        attest.Type
	quote      []byte            // without report data and signature
	key        *ecdsa.PrivateKey // the attestation key
	collateral attest.Collateral
}

// Where a quote's parts lie (Intel TDX DCAP Quoting Library API, appendix A.3; Intel SGX ECDSA
// QuoteLibReferenceDCAPAPI, appendix A.4).
const (
	quoteHeader   = 48
	enclaveBody   = 384
	domainHead    = 6
	domainBody    = 648 // TDX 1.5
	enclaveData   = quoteHeader + 320
	domainData    = quoteHeader + domainHead + 520
	enclaveSigned = quoteHeader + enclaveBody
	domainSigned  = quoteHeader + domainHead + domainBody
)

// layout returns how much of a quote is signed, and where its report data are.
func (m *intelMachine) layout() (signed, data int) {
	if m.typ == attest.TDX {
		return domainSigned, domainData
	}
	return enclaveSigned, enclaveData
}

// attest returns a quote that carries b, with its collateral.
func (m *intelMachine) attest(b attest.Binding) (attest.Evidence, error) {
	quote := slices.Clone(m.quote)
	signed, data := m.layout()
	copy(quote[data:], b.ReportData[:])
	signature, err := rs(m.key, quote[:signed])
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("signing a simulated quote: %w", err)
	}
	copy(quote[signed+4:], signature)
	var collateral attest.Collateral
	for _, item := range m.collateral {
		collateral = append(collateral, attest.Item{Kind: item.Kind, Bytes: slices.Clone(item.Bytes)})
	}
	return attest.Evidence{Type: m.typ, Body: quote, Collateral: collateral}, nil
}

// rs returns a signature over the SHA-256 of message, r ‖ s.
func rs(key *ecdsa.PrivateKey, message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	return slices.Concat(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))), nil
}

// TDX makes a machine with one trust domain of TDX 1.5. It fails for a root that was made before roots had Intel's part.
func (r *Root) TDX(s TDXSpec) (*Machine, error) {
	orElse(&s.MRTD, DefaultMRTD())
	orElse(&s.MRSEAM, sha512.Sum384([]byte("consilium simulated tdx module")))
	orElse(&s.TDAttributes, [8]byte{3: 0x10})
	orElse(&s.XFAM, [8]byte{0xe7, 2, 6})
	svn := []byte{tdxModuleSVN, tdxModuleVersion, tdxComponent, 15: 0}
	body := slices.Concat(svn, s.MRSEAM[:], make([]byte, 48+8), s.TDAttributes[:], s.XFAM[:], s.MRTD[:], s.MRConfigID[:], s.MROwner[:],
		s.MROwnerConfig[:], s.RTMR[0][:], s.RTMR[1][:], s.RTMR[2][:], s.RTMR[3][:], make([]byte, 64), svn, s.MRServiceTD[:])
	header := quoteHead(5, 0x81)
	head := binary.LittleEndian.AppendUint32([]byte{3, 0}, domainBody)
	return r.quoting(attest.TDX, s.IntelSpec, slices.Concat(header, head, body))
}

// SGX makes a machine with one enclave. It fails as TDX does.
func (r *Root) SGX(s SGXSpec) (*Machine, error) {
	orElse(&s.MREnclave, DefaultMREnclave())
	orElse(&s.MRSigner, sha256.Sum256([]byte("consilium simulated sgx signer")))
	orElse(&s.Attributes, [16]byte{0: 5, 8: 0xe7})
	body := make([]byte, enclaveBody)
	copy(body, slices.Repeat([]byte{component}, 16)) // CPUSVN
	copy(body[16:], s.MiscSelect[:])
	copy(body[48:], s.Attributes[:])
	copy(body[64:], s.MREnclave[:])
	copy(body[128:], s.MRSigner[:])
	copy(body[192:], s.ConfigID[:])
	for i, n := range []uint16{s.ISVProdID, s.ISVSVN, s.ConfigSVN} {
		binary.LittleEndian.PutUint16(body[256+2*i:], n)
	}
	return r.quoting(attest.SGX, s.IntelSpec, slices.Concat(quoteHead(3, 0), body))
}

// orElse sets a value that is zero.
func orElse[T comparable](v *T, standard T) {
	var zero T
	if *v == zero {
		*v = standard
	}
}

// quoteHead returns a quote's header.
func quoteHead(version, tee byte) []byte {
	h := make([]byte, quoteHeader)
	h[0], h[2], h[4] = version, 2, tee // 2: ECDSA P-256
	copy(h[12:], []byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07})
	return h
}

// What all simulated platforms have: the SVN of each component of the processor's TCB, of the PCE, of the TDX module and of the
// quoting enclave; and the kind of platform.
const (
	component        = 5
	pceSVN           = 11
	tdxModuleSVN     = 4
	tdxModuleVersion = 1
	tdxComponent     = 3
	qeSVN            = 8
)

var fmspc = [6]byte{0x00, 0x5e, 0xed, 0, 0, 0}

// quotingEnclaves are MRSIGNER and ISVPRODID of Intel's quoting enclaves, and what their identities are called.
var quotingEnclaves = map[attest.Type]struct {
	id, signer string
	product    uint16
}{
	attest.SGX: {"QE", "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff", 1},
	attest.TDX: {"TD_QE", "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5", 2},
}

// quoting gives a platform a certified key and a quoting enclave with an attestation key, so that signed, a quote's header and body, needs
// nothing more than that key's signature.
func (r *Root) quoting(typ attest.Type, s IntelSpec, signed []byte) (*Machine, error) {
	if r.intel == nil {
		return nil, fmt.Errorf("the simulated root %q was made without Intel's part: make a new root", r.name)
	}
	for _, id := range []*[16]byte{&s.PPID, &s.Instance} {
		if *id == [16]byte{} {
			rand.Read(id[:]) // cannot fail
		}
	}
	pckKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a platform's key: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making an attestation key: %w", err)
	}
	chain, err := r.intel.certify(r.name, s, &pckKey.PublicKey)
	if err != nil {
		return nil, err
	}
	data, err := signatureData(typ, key, pckKey, chain)
	if err != nil {
		return nil, fmt.Errorf("making a quoting enclave: %w", err)
	}
	collateral, err := r.intel.collateral(typ, s)
	if err != nil {
		return nil, fmt.Errorf("making collateral: %w", err)
	}
	quote := binary.LittleEndian.AppendUint32(signed, uint32(len(data)))
	return &Machine{root: r.name, intel: &intelMachine{typ: typ, quote: append(quote, data...), key: key, collateral: collateral}}, nil
}

// signatureData returns what follows a quote's body, with zeros for its signature.
func signatureData(typ attest.Type, key, pckKey *ecdsa.PrivateKey, chain []byte) ([]byte, error) {
	xy, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	auth := make([]byte, 32)
	for i := range auth {
		auth[i] = byte(i) // as Intel's quoting enclaves have it
	}
	qe := make([]byte, enclaveBody)
	of := quotingEnclaves[typ]
	signer, err := hex.DecodeString(of.signer)
	if err != nil {
		return nil, err
	}
	qe[48], qe[56] = 0x15, 0xe7
	copy(qe[128:], signer)
	binary.LittleEndian.PutUint16(qe[256:], of.product)
	binary.LittleEndian.PutUint16(qe[258:], qeSVN)
	bound := sha256.Sum256(slices.Concat(xy[1:], auth))
	copy(qe[320:], bound[:])
	signature, err := rs(pckKey, qe)
	if err != nil {
		return nil, err
	}
	u16, u32 := binary.LittleEndian.AppendUint16, binary.LittleEndian.AppendUint32
	report := slices.Concat(qe, signature, u16(nil, uint16(len(auth))), auth, u32(u16(nil, 5), uint32(len(chain))), chain)
	if typ == attest.TDX {
		report = append(u32(u16(nil, 6), uint32(len(report))), report...)
	}
	return slices.Concat(make([]byte, 64), xy[1:], report), nil
}

// element is one of the SGX extension's.
type element struct {
	ID    asn1.ObjectIdentifier
	Value any
}

// certify returns the chain of a platform's certificate, as quotes carry it.
func (r *intelRoot) certify(root string, s IntelSpec, key *ecdsa.PublicKey) ([]byte, error) {
	oid := func(last ...int) asn1.ObjectIdentifier {
		return append(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, last...)
	}
	var tcb []element
	for i := range 16 {
		tcb = append(tcb, element{oid(2, i+1), component})
	}
	tcb = append(tcb, element{oid(2, 17), pceSVN}, element{oid(2, 18), slices.Repeat([]byte{component}, 16)})
	extension, err := marshal([]element{
		{oid(1), s.PPID[:]},
		{oid(2), tcb},
		{oid(3), []byte{0, 0}},
		{oid(4), fmspc[:]},
		{oid(5), asn1.Enumerated(1)},
		{oid(6), s.Instance[:]},
		{oid(7), []element{{oid(7, 1), true}, {oid(7, 2), true}, {oid(7, 3), true}}},
	})
	if err != nil {
		return nil, fmt.Errorf("a platform's certificate: %w", err)
	}
	var serial [8]byte
	rand.Read(serial[:]) // cannot fail
	leaf := intel(root, "Intel SGX PCK Certificate", int64(binary.BigEndian.Uint64(serial[:])>>2)+4, r.ca.NotBefore)
	leaf.ExtraExtensions = []pkix.Extension{{Id: oid(), Value: extension}}
	cert, err := sign(leaf, r.ca, key, r.caKey)
	if err != nil {
		return nil, err
	}
	var text []byte
	for _, c := range []*x509.Certificate{cert, r.ca, r.root} {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return append(text, 0), nil
}

// marshal returns a sequence of elements, whose values may be such sequences.
func marshal(all []element) ([]byte, error) {
	type raw struct {
		ID    asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	var list []raw
	for _, e := range all {
		var der []byte
		var err error
		if below, ok := e.Value.([]element); ok {
			der, err = marshal(below)
		} else {
			der, err = asn1.Marshal(e.Value)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, raw{e.ID, asn1.RawValue{FullBytes: der}})
	}
	return asn1.Marshal(list)
}

// collateral returns what Intel's service would hand out for the platform.
func (r *intelRoot) collateral(typ attest.Type, s IntelSpec) (attest.Collateral, error) {
	orElse(&s.Status, "UpToDate")
	type object = map[string]any
	of := quotingEnclaves[typ]
	document := func(o object) object {
		o["issueDate"], o["nextUpdate"] = r.signer.NotBefore.UTC().Format(time.RFC3339), r.signer.NotAfter.UTC().Format(time.RFC3339)
		o["tcbEvaluationDataNumber"] = 1
		return o
	}
	level := func(tcb object, status string, advisories []string) []any {
		l := object{"tcb": tcb, "tcbDate": r.signer.NotBefore.UTC().Format(time.RFC3339), "tcbStatus": status}
		if len(advisories) > 0 {
			l["advisoryIDs"] = advisories
		}
		return []any{l}
	}
	svns := func(of func(i int) int) []any {
		var all []any
		for i := range 16 {
			all = append(all, object{"svn": of(i)})
		}
		return all
	}
	tcb := object{"sgxtcbcomponents": svns(func(int) int { return component }), "pcesvn": pceSVN}
	info := document(object{"id": "SGX", "version": 3, "fmspc": hex.EncodeToString(fmspc[:]), "pceId": "0000", "tcbType": 0})
	if typ == attest.TDX {
		info["id"] = "TDX"
		tcb["tdxtcbcomponents"] = svns(func(i int) int { return map[int]int{0: tdxModuleSVN, 1: tdxModuleVersion, 2: tdxComponent}[i] })
		module := func() object {
			return object{
				"mrsigner": hex.EncodeToString(make([]byte, 48)), "attributes": hex.EncodeToString(make([]byte, 8)), "attributesMask": "FFFFFFFFFFFFFFFF",
			}
		}
		own := module()
		own["id"], own["tcbLevels"] = fmt.Sprintf("TDX_%02X", tdxModuleVersion), level(object{"isvsvn": tdxModuleSVN}, "UpToDate", nil)
		info["tdxModule"], info["tdxModuleIdentities"] = module(), []any{own}
	}
	info["tcbLevels"] = level(tcb, s.Status, s.Advisories)
	identity := document(object{
		"id": of.id, "version": 2, "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
		"attributes": "11000000000000000000000000000000", "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
		"mrsigner": of.signer, "isvprodid": of.product, "tcbLevels": level(object{"isvsvn": qeSVN}, "UpToDate", nil),
	})
	var all attest.Collateral
	for _, d := range []struct {
		kind attest.Kind
		name string
		body object
	}{{attest.KindTCBInfo, "tcbInfo", info}, {attest.KindQEIdentity, "enclaveIdentity", identity}} {
		body, err := json.Marshal(d.body)
		if err != nil {
			return nil, err
		}
		signature, err := rs(r.signerKey, body)
		if err != nil {
			return nil, err
		}
		all = append(all, attest.Item{Kind: d.kind, Bytes: fmt.Appendf(nil, `{%q:%s,"signature":"%x"}`, d.name, body, signature)})
	}
	all = append(all, attest.Item{Kind: attest.KindCertificate, Bytes: clone(r.signer)})
	for _, list := range r.lists {
		all = append(all, attest.Item{Kind: attest.KindCRL, Bytes: list})
	}
	return all, nil
}
