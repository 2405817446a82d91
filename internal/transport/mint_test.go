package transport_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"
)

// mint makes leaves that the product would not make. The zero mint is a good leaf of participant north.
type mint struct {
	uri      string
	key      crypto.Signer           // of the leaf; nil is a new Ed25519 key
	signer   crypto.Signer           // of the leaf; nil is the identity's
	identity ed25519.PrivateKey      // whose certificate comes second; nil is north's
	edit     func(*x509.Certificate) // of the leaf's template
	chain    func([][]byte) [][]byte // of what is sent
	parent   func(*x509.Certificate) // of the identity's template
}

const northURI = "spiffe://heart/participant/north/00112233445566778899aabbccddeeff"

func parsedURI(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (m mint) make(t testing.TB) tls.Certificate {
	t.Helper()
	if m.uri == "" {
		m.uri = northURI
	}
	if m.identity == nil {
		m.identity = seeded("participant/north")
	}
	if m.signer == nil {
		m.signer = m.identity
	}
	if m.key == nil {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		m.key = key
	}
	now := time.Now()
	identity := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "north"}, NotBefore: now, NotAfter: now.Add(time.Hour),
	}
	if m.parent != nil {
		m.parent(identity)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "north"}, NotBefore: now.Add(-time.Minute),
		NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:        []*url.URL{parsedURI(t, m.uri)},
	}
	if m.edit != nil {
		m.edit(leaf)
	}
	second, err := x509.CreateCertificate(rand.Reader, identity, identity, m.identity.Public(), m.identity)
	if err != nil {
		t.Fatal(err)
	}
	parent, err := x509.ParseCertificate(second)
	if err != nil {
		t.Fatal(err)
	}
	parent.PublicKey = m.signer.Public() // or crypto/x509 would not let another key sign
	first, err := x509.CreateCertificate(rand.Reader, leaf, parent, m.key.Public(), m.signer)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(first)
	if err != nil {
		t.Fatal(err)
	}
	chain := [][]byte{first, second}
	if m.chain != nil {
		chain = m.chain(chain)
	}
	return tls.Certificate{Certificate: chain, PrivateKey: m.key, Leaf: parsed}
}
