// Package dcaptest makes Intel's quotes and collateral under a private root, in Intel's forms and rightly signed, so that tests
// can spoil one thing of them; and it reads collections of real ones. Its encoders share no code with what they test. Only tests
// import it.
//
//	s := dcaptest.NewTDX()
//	s.Body[0] = 3                        // an older TDX module
//	claims, err := verifier.Verify(ctx, s.Evidence(), s.Binding, s.Now, s.Held)
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
	"encoding/pem"
	"math/big"
	"slices"
	"sync"
	"time"

	"consilium.dev/internal/attest"
)

// Now is when everything that this package makes is valid.
var Now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// An Authority is a certificate with its key.
type Authority struct {
	*x509.Certificate
	Key *ecdsa.PrivateKey
}

// PKI is a root with the authorities that it certified, under Intel's names.
type PKI struct {
	Root, Platform, Processor, TCBSigning *Authority
}

var pkis = [...]func() *PKI{sync.OnceValue(newPKI), sync.OnceValue(newPKI)}

// Trusted returns the PKI that scenes are made with; a verifier that shall take them is given its root.
func Trusted() *PKI { return pkis[0]() }

// Stranger returns another PKI with the same names.
func Stranger() *PKI { return pkis[1]() }

func newPKI() *PKI {
	p := &PKI{}
	root := Template("Intel SGX Root CA", 1)
	root.IsCA, root.MaxPathLen, root.KeyUsage = true, 1, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	p.Root = Certify(root, nil, nil)
	for i, ca := range []**Authority{&p.Platform, &p.Processor} {
		t := Template([]string{"Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"}[i], int64(2+i))
		t.IsCA, t.MaxPathLenZero, t.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		*ca = Certify(t, p.Root, nil)
	}
	p.TCBSigning = Certify(Template("Intel SGX TCB Signing", 4), p.Root, nil)
	return p
}

// Template returns a certificate to be signed: of a key for signatures, valid for a year before and after Now.
func Template(commonName string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), BasicConstraintsValid: true,
		Subject: pkix.Name{
			Country: []string{"US"}, Province: []string{"CA"}, Locality: []string{"Santa Clara"},
			Organization: []string{"Intel Corporation"}, CommonName: commonName,
		},
		NotBefore: Now.AddDate(-1, 0, 0), NotAfter: Now.AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
}

// Certify makes a certificate, signed by the authority, or by itself where that is nil; of a new key where key is nil.
func Certify(t *x509.Certificate, by *Authority, key crypto.PublicKey) *Authority {
	a := &Authority{Key: NewKey(elliptic.P256())}
	if key == nil {
		key = &a.Key.PublicKey
	}
	if by == nil {
		by = &Authority{t, a.Key}
	}
	a.Certificate = must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, t, by.Certificate, key, by.Key))))
	return a
}

// NewKey returns a new key on the curve.
func NewKey(c elliptic.Curve) *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(c, rand.Reader)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// PEM returns certificates as Intel writes chains.
func PEM(certs ...[]byte) []byte {
	var text []byte
	for _, der := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return text
}

// List returns a revocation list that holds Now, spoilt by each of the functions.
func List(by *Authority, spoil ...func(*x509.RevocationList)) attest.Item {
	l := &x509.RevocationList{
		Number: big.NewInt(5), ThisUpdate: Now.AddDate(0, 0, -1), NextUpdate: Now.AddDate(0, 0, 1), SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	for _, f := range spoil {
		f(l)
	}
	return attest.Item{Kind: attest.KindCRL, Bytes: must(x509.CreateRevocationList(rand.Reader, l, by.Certificate, by.Key))}
}

// WithoutNextUpdate returns a list without the field, signed again: the standard library does not make such.
func WithoutNextUpdate(list attest.Item, by *Authority) attest.Item {
	return resigned(list, by, func(body []byte) []byte {
		var parts []asn1.RawValue
		must(asn1.Unmarshal(body, &parts))
		// version, algorithm, issuer, thisUpdate, nextUpdate, ...
		return must(asn1.Marshal(slices.Delete(parts, 4, 5)))
	})
}

// WithoutNumber returns a list whose number stands in an extension that nobody knows, likewise.
func WithoutNumber(list attest.Item, by *Authority) attest.Item {
	return resigned(list, by, func(body []byte) []byte {
		return bytes.Replace(body, []byte{6, 3, 0x55, 0x1d, 20}, []byte{6, 3, 0x55, 0x1d, 99}, 1)
	})
}

// resigned returns a list with its body edited, signed again.
func resigned(list attest.Item, by *Authority, edit func(body []byte) []byte) attest.Item {
	var s struct {
		Body, Algorithm asn1.RawValue
		Signature       asn1.BitString
	}
	must(asn1.Unmarshal(list.Bytes, &s))
	body := edit(s.Body.FullBytes)
	digest := sha256.Sum256(body)
	signature := must(ecdsa.SignASN1(rand.Reader, by.Key, digest[:]))
	s.Body, s.Signature = asn1.RawValue{FullBytes: body}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	return attest.Item{Kind: attest.KindCRL, Bytes: must(asn1.Marshal(s))}
}

// Revoking has a list name a serial number.
func Revoking(serial int64) func(*x509.RevocationList) {
	return func(l *x509.RevocationList) {
		l.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(serial), RevocationTime: Now.AddDate(0, -1, 0)}}
	}
}
