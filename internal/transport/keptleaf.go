package transport

import (
	"crypto/sha256"
	"crypto/x509"
	"time"

	"consilium.dev/internal/attest"
)

// Leaf is what a leaf certificate says that was endorsed.
type Leaf struct {
	Federation string
	Office     attest.Office
	Name       string
	Instance   string   // 32 hex digits: the process that made it
	SPKI       [32]byte // SHA-256 of its key
	NotAfter   time.Time
}

// ParseLeaf judges a leaf certificate that was kept, DER, as a handshake at the instant at judges one: its form, that it was
// valid then, and that the key which p gives to its office and name has endorsed it. A refusal is an [*attest.Error].
func ParseLeaf(p attest.Policy, der []byte, at time.Time) (Leaf, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Leaf{}, attest.Refuse(attest.ClassParse, "leaf: %w", err)
	}
	id, err := readLeaf(cert, at)
	if err != nil {
		return Leaf{}, err
	}
	key, _ := p.Key(id.office, id.name) // the certificate of the identity key says nothing but this
	if err := endorsed(p, id, cert, &x509.Certificate{PublicKey: key}); err != nil {
		return Leaf{}, err
	}
	return Leaf{
		Federation: id.federation, Office: id.office, Name: id.name, Instance: id.instance,
		SPKI: sha256.Sum256(cert.RawSubjectPublicKeyInfo), NotAfter: cert.NotAfter,
	}, nil
}
