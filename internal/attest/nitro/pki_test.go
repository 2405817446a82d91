package nitro_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"io"
	"math/big"
	"slices"
	"sync"
	"testing"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/nitro"
)

// These tests do not use the simulated platform: they need documents that are wrong in one thing and rightly signed in all
// others, in encodings that no library writes, by an encoder that shares no code with what it tests. All keys come of their
// names, and signatures of keys, so that a fuzzer's processes agree on every byte.

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// A pki is a root and the authorities under it as AWS has them, down to the instance that signs documents' certificates.
type pki struct {
	certs []*x509.Certificate // root, region, zone, instance
	keys  []*ecdsa.PrivateKey
}

// Two of them: what verifiers trust, and a stranger with the same names.
var pkis = sync.OnceValue(func() map[string]*pki {
	return map[string]*pki{"demo": newPKI("demo"), "stranger": newPKI("stranger")}
})

func newPKI(name string) *pki {
	p := &pki{}
	root := template("aws.nitro-enclaves")
	root.KeyUsage |= x509.KeyUsageDigitalSignature
	p.add(root, ecKey(elliptic.P384(), name+" root"))
	for depth, level := range []string{"region", "zone", "instance"} {
		next := template(level + ".aws.nitro-enclaves")
		next.MaxPathLen, next.MaxPathLenZero = 2-depth, depth == 2
		p.add(next, ecKey(elliptic.P384(), name+" "+level))
	}
	return p
}

// add signs the next authority by the last one, or the first by itself.
func (p *pki) add(template *x509.Certificate, key *ecdsa.PrivateKey) {
	parent, by := template, key
	if n := len(p.certs); n > 0 {
		parent, by = p.certs[n-1], p.keys[n-1]
	}
	p.certs, p.keys = append(p.certs, certificate(template, parent, &key.PublicKey, by)), append(p.keys, key)
}

// cut returns the pki down to its n-th authority, to go on in another way.
func (p *pki) cut(n int) *pki { return &pki{slices.Clone(p.certs[:n]), slices.Clone(p.keys[:n])} }

// template is an authority's.
func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes([]byte(name)),
		Subject:      pkix.Name{Country: []string{"US"}, Organization: []string{"Amazon"}, OrganizationalUnit: []string{"AWS"}, CommonName: name},
		NotBefore:    now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0), SignatureAlgorithm: x509.ECDSAWithSHA384,
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// ecKey returns the key of a name.
func ecKey(c elliptic.Curve, name string) *ecdsa.PrivateKey {
	size := (c.Params().BitSize + 7) / 8
	digest := sha512.Sum512([]byte(name))
	scalar := make([]byte, size)
	copy(scalar[max(1, size-len(digest)):], digest[:]) // below every order
	return must(ecdsa.ParseRawPrivateKey(c, scalar))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// certificate signs without chance: the same again is the same bytes.
func certificate(template, parent *x509.Certificate, key crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	return must(x509.ParseCertificate(must(x509.CreateCertificate(nil, template, parent, key, chanceless{by}))))
}

type chanceless struct{ crypto.Signer }

func (s chanceless) Sign(_ io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	return s.Signer.Sign(nil, digest, o)
}

// What CBOR is made of (RFC 8949, section 3): a head with the major type and a number, in its shortest form.
func head(major byte, n uint64) []byte {
	switch {
	case n < 24:
		return []byte{major<<5 | byte(n)}
	case n < 1<<8:
		return []byte{major<<5 | 24, byte(n)}
	case n < 1<<16:
		return binary.BigEndian.AppendUint16([]byte{major<<5 | 25}, uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32([]byte{major<<5 | 26}, uint32(n))
	}
	return binary.BigEndian.AppendUint64([]byte{major<<5 | 27}, n)
}

func number(n uint64) []byte { return head(0, n) }
func bstr(b []byte) []byte   { return append(head(2, uint64(len(b))), b...) }
func tstr(s string) []byte   { return append(head(3, uint64(len(s))), s...) }

func list(items ...[]byte) []byte {
	return append(head(4, uint64(len(items))), slices.Concat(items...)...)
}

// null and others are simple values and marks.
var null, endless, stop = []byte{0xf6}, map[byte][]byte{2: {0x5f}, 3: {0x7f}, 4: {0x9f}, 5: {0xbf}}, []byte{0xff}

// A field is one pair of a map, both parts encoded.
type field struct{ key, value []byte }

func mapOf(pairs ...field) []byte {
	m := head(5, uint64(len(pairs)))
	for _, p := range pairs {
		m = slices.Concat(m, p.key, p.value)
	}
	return m
}

// scene is one document in the making. A case spoils one thing of it.
type scene struct {
	document []field // in AWS's order
	registers
	pki     *pki
	bundle  [][]byte          // DER; nil for the pki's
	leaf    *x509.Certificate // template
	key     crypto.Signer     // the leaf's
	certKey crypto.PublicKey  // what the leaf says its key is; nil for key's
	issuer  *x509.Certificate // nil for the pki's last
	by      *ecdsa.PrivateKey // its key
	leafDER []byte            // in place of all of these

	payload     func(pairs []field) []byte // how the document is encoded; nil for a plain map
	protected   []byte
	unprotected []byte
	signature   func(sig []byte) []byte                // after signing
	envelope    func(p, u, payload, sig []byte) []byte // nil for a plain list of four
	binding     attest.Binding
	now         time.Time
}

type registers struct{ pcrs []field }

var (
	nonce = sha256.Sum256([]byte("nonce"))
	data  = sha512.Sum512([]byte("report data"))
	spki  = bytesOf("a public key, PKIX", 91)
)

func bytesOf(s string, n int) []byte {
	var b []byte
	for len(b) < n {
		b = append(b, s...)
	}
	return b[:n]
}

// newScene returns a scene with which nothing is wrong.
func newScene() *scene {
	s := &scene{
		pki: pkis()["demo"], leaf: template("i-0123456789abcdef0-enc0123456789abcdef"), key: ecKey(elliptic.P384(), "document"),
		protected: []byte{0xa1, 0x01, 0x38, 0x22}, unprotected: mapOf(), now: now,
		binding: attest.Binding{ReportData: data, Nonce: nonce, SPKI: spki},
	}
	s.leaf.IsCA, s.leaf.KeyUsage = false, x509.KeyUsageDigitalSignature
	s.leaf.NotBefore, s.leaf.NotAfter = now.Add(-time.Minute), now.Add(3*time.Hour)
	for index := range uint64(16) {
		value := make([]byte, 48)
		if index < 3 {
			value = bytesOf(string(rune('a'+index)), 48)
		}
		s.pcrs = append(s.pcrs, field{number(index), bstr(value)})
	}
	s.document = []field{
		{tstr("module_id"), tstr("i-0123456789abcdef0-enc0123456789abcdef")},
		{tstr("digest"), tstr("SHA384")},
		{tstr("timestamp"), number(uint64(now.UnixMilli()))},
		{tstr("pcrs"), nil}, // made of registers
		{tstr("certificate"), nil},
		{tstr("cabundle"), nil},
		{tstr("public_key"), bstr(spki)},
		{tstr("user_data"), bstr(data[:])},
		{tstr("nonce"), bstr(nonce[:])},
	}
	return s
}

// at returns where the field of that name stands in the document.
func (s *scene) at(name string) int {
	i := slices.IndexFunc(s.document, func(f field) bool { return string(f.key) == string(tstr(name)) })
	if i < 0 {
		panic("no field " + name)
	}
	return i
}

// with returns a spoiler that gives a field of the document another value.
func with(name string, value []byte) func(*scene) {
	return func(s *scene) { s.document[s.at(name)].value = value }
}

// without returns a spoiler that takes a field out.
func without(name string) func(*scene) {
	return func(s *scene) { s.document = slices.Delete(s.document, s.at(name), s.at(name)+1) }
}

// register returns a spoiler that puts a register in the place of the index-th.
func register(index int, key, value []byte) func(*scene) {
	return func(s *scene) { s.pcrs[index] = field{key, value} }
}

// certify makes the document's own certificate.
func (s *scene) certify() []byte {
	if s.leafDER != nil {
		return s.leafDER
	}
	last := len(s.pki.certs) - 1
	issuer, by, key := s.issuer, s.by, s.certKey
	if issuer == nil {
		issuer = s.pki.certs[last]
	}
	if by == nil {
		by = s.pki.keys[last]
	}
	if key == nil {
		key = s.key.Public()
	}
	return must(x509.CreateCertificate(nil, s.leaf, issuer, key, chanceless{by}))
}

// evidence signs what the scene has become.
func (s *scene) evidence() attest.Evidence {
	if s.bundle == nil {
		for _, c := range s.pki.certs {
			s.bundle = append(s.bundle, c.Raw)
		}
	}
	var bundle [][]byte
	for _, der := range s.bundle {
		bundle = append(bundle, bstr(der))
	}
	for i, f := range s.document {
		if f.value != nil {
			continue
		}
		switch string(f.key) {
		case string(tstr("pcrs")):
			s.document[i].value = mapOf(s.pcrs...)
		case string(tstr("certificate")):
			s.document[i].value = bstr(s.certify())
		case string(tstr("cabundle")):
			s.document[i].value = list(bundle...)
		}
	}
	payload := mapOf(s.document...)
	if s.payload != nil {
		payload = s.payload(s.document)
	}
	sig := s.sign(payload)
	if s.signature != nil {
		sig = s.signature(sig)
	}
	if s.envelope != nil {
		return attest.Evidence{Type: attest.Nitro, Body: s.envelope(s.protected, s.unprotected, payload, sig)}
	}
	return attest.Evidence{Type: attest.Nitro, Body: list(bstr(s.protected), s.unprotected, bstr(payload), bstr(sig))}
}

// sign signs the payload as a COSE_Sign1 does (RFC 9052, section 4.4), by whatever key the scene has.
func (s *scene) sign(payload []byte) []byte {
	signed := list(tstr("Signature1"), bstr(s.protected), bstr(nil), bstr(payload))
	if key, ok := s.key.(*rsa.PrivateKey); ok {
		digest := sha512.Sum384(signed)
		return must(key.Sign(nil, digest[:], crypto.SHA384))
	}
	key := s.key.(*ecdsa.PrivateKey)
	digest, hash, size := hashOf(key.Curve, signed)
	return rawSignature(must(key.Sign(nil, digest, hash)), size)
}

// hashOf returns what ES256, ES384 and ES512 sign, and the bytes of a coordinate.
func hashOf(c elliptic.Curve, message []byte) (digest []byte, hash crypto.Hash, size int) {
	switch c {
	case elliptic.P256():
		d := sha256.Sum256(message)
		return d[:], crypto.SHA256, 32
	case elliptic.P521():
		d := sha512.Sum512(message)
		return d[:], crypto.SHA512, 66
	}
	d := sha512.Sum384(message)
	return d[:], crypto.SHA384, 48
}

// verify judges the scene by a verifier that trusts AWS's root and the pki demo.
func (s *scene) verify(t *testing.T) (attest.Claims, error) {
	t.Helper()
	return trusting(t).Verify(t.Context(), s.evidence(), s.binding, s.now, nil)
}

func trusting(t testing.TB) *nitro.Verifier {
	t.Helper()
	return newVerifier(t, &nitro.Options{SimulatedRoots: map[string][]*x509.Certificate{"demo": pkis()["demo"].certs[:1]}})
}
