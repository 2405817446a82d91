package transport

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"strings"
	"time"

	"consilium.dev/internal/attest"
)

const (
	leafLife  = 24 * time.Hour  // the most that a leaf may be valid for, from first to last instant
	leafRenew = 12 * time.Hour  // we make a new one when less than this is left
	leafSkew  = 5 * time.Minute // our leaves begin this long ago, for peers whose clock is behind
)

var (
	oidSAN              = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
)

// leafID is what a leaf's one name says: spiffe://FEDERATION/OFFICE/NAME/INSTANCE.
type leafID struct {
	federation string
	office     attest.Office
	name       string
	instance   string
}

func (l leafID) uri() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: l.federation, Path: "/" + l.office.String() + "/" + l.name + "/" + l.instance}
}

// leaf is our own: a key in memory, and its chain of two certificates.
type leaf struct {
	cert tls.Certificate
	spki []byte

	notBefore, notAfter time.Time
}

// newIdentity returns the self-signed certificate of an identity key, of which peers take only the key.
func newIdentity(rand io.Reader, id crypto.Signer, name string) ([]byte, error) {
	t := x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280: no well-defined end
	}
	der, err := x509.CreateCertificate(rand, &t, &t, id.Public(), id)
	if err != nil {
		return nil, fmt.Errorf("transport: identity certificate of %s: %w", name, err)
	}
	return der, nil
}

// newLeaf makes a leaf key and has the identity key endorse it.
func newLeaf(rand io.Reader, id crypto.Signer, identity []byte, who leafID, now time.Time) (*leaf, error) {
	pub, key, err := ed25519.GenerateKey(rand)
	if err != nil {
		return nil, fmt.Errorf("transport: leaf key: %w", err)
	}
	serial := make([]byte, 16)
	if _, err := io.ReadFull(rand, serial); err != nil {
		return nil, fmt.Errorf("transport: serial number: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and never shorter
	begin := now.Add(-leafSkew).Truncate(time.Second)
	t := x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{CommonName: who.name}, // an empty subject would make the name critical
		NotBefore:             begin,
		NotAfter:              begin.Add(leafLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{who.uri()},
	}
	parent, err := x509.ParseCertificate(identity)
	if err != nil {
		return nil, fmt.Errorf("transport: identity certificate: %w", err)
	}
	der, err := x509.CreateCertificate(rand, &t, parent, pub, id)
	if err != nil {
		return nil, fmt.Errorf("transport: endorsing a leaf for %s: %w", who.name, err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("transport: own leaf: %w", err)
	}
	return &leaf{
		cert:      tls.Certificate{Certificate: [][]byte{der, identity}, PrivateKey: key, Leaf: parsed},
		spki:      parsed.RawSubjectPublicKeyInfo,
		notBefore: parsed.NotBefore, notAfter: parsed.NotAfter,
	}, nil
}

// readLeaf judges the form of a peer's leaf, and that it is valid now, and returns what it says. Nothing of that is proven
// before endorsed has been asked.
func readLeaf(cert *x509.Certificate, now time.Time) (leafID, error) {
	switch key := cert.PublicKey.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return leafID{}, attest.Refuse(attest.ClassChain, "leaf key on curve %s, want P-256 or Ed25519", key.Params().Name)
		}
	default:
		return leafID{}, attest.Refuse(attest.ClassChain, "leaf key %T, want P-256 or Ed25519", key)
	}
	for _, e := range cert.Extensions {
		if e.Critical && !e.Id.Equal(oidKeyUsage) && !e.Id.Equal(oidBasicConstraints) {
			return leafID{}, attest.Refuse(attest.ClassChain, "leaf has the critical extension %v", e.Id)
		}
	}
	switch {
	case cert.IsCA:
		return leafID{}, attest.Refuse(attest.ClassChain, "leaf is a certificate authority")
	case cert.KeyUsage&x509.KeyUsageDigitalSignature == 0 || cert.KeyUsage&x509.KeyUsageCertSign != 0:
		return leafID{}, attest.Refuse(attest.ClassChain, "leaf's key usage is %#x, want digital signature", int(cert.KeyUsage))
	case !clientAndServer(cert):
		return leafID{}, attest.Refuse(attest.ClassChain, "leaf's extended key usage is not client and server authentication")
	case cert.NotAfter.Sub(cert.NotBefore) > leafLife:
		return leafID{}, attest.Refuse(attest.ClassTime, "leaf is valid for %v, at most %v allowed",
			cert.NotAfter.Sub(cert.NotBefore), leafLife)
	case now.Before(cert.NotBefore) || now.After(cert.NotAfter):
		return leafID{}, attest.Refuse(attest.ClassTime, "leaf is valid from %s to %s, not at %s",
			cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return readName(cert)
}

func clientAndServer(cert *x509.Certificate) bool {
	if len(cert.ExtKeyUsage) != 2 || len(cert.UnknownExtKeyUsage) != 0 {
		return false
	}
	a, b := cert.ExtKeyUsage[0], cert.ExtKeyUsage[1]
	return a == x509.ExtKeyUsageClientAuth && b == x509.ExtKeyUsageServerAuth ||
		a == x509.ExtKeyUsageServerAuth && b == x509.ExtKeyUsageClientAuth
}

// readName reads a leaf's one name. It is encoded again and compared, so that nothing can stand beside it unread.
func readName(cert *x509.Certificate) (leafID, error) {
	if len(cert.URIs) != 1 {
		return leafID{}, attest.Refuse(attest.ClassChain, "leaf has %d URI names, want 1", len(cert.URIs))
	}
	parts := strings.Split(cert.URIs[0].Path, "/")
	if len(parts) != 4 || parts[0] != "" {
		return leafID{}, attest.Refuse(attest.ClassChain, "leaf's name is not spiffe://FEDERATION/OFFICE/NAME/INSTANCE")
	}
	id := leafID{federation: cert.URIs[0].Host, name: parts[2], instance: parts[3]}
	for _, o := range []attest.Office{attest.Coordinator, attest.Participant, attest.Person} {
		if parts[1] == o.String() {
			id.office = o
		}
	}
	if !validInstance(id.instance) || id.office == 0 || !validName(id.federation) || !validName(id.name) {
		return leafID{}, attest.Refuse(attest.ClassChain, "leaf's name is not spiffe://FEDERATION/OFFICE/NAME/INSTANCE")
	}
	want, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(id.uri().String())}})
	if err != nil {
		return leafID{}, attest.Refuse(attest.ClassChain, "leaf's name: %w", err)
	}
	for _, e := range cert.Extensions {
		if e.Id.Equal(oidSAN) && bytes.Equal(e.Value, want) {
			return id, nil
		}
	}
	return leafID{}, attest.Refuse(attest.ClassChain, "leaf has more names than its URI, or spells it in another way")
}

// endorsed refuses a leaf that the key which p gives to its office and name has not signed. identity is the certificate
// that came after the leaf; only its key counts.
func endorsed(p attest.Policy, id leafID, cert, identity *x509.Certificate) error {
	key, ok := p.Key(id.office, id.name)
	if !ok || len(key) != ed25519.PublicKeySize {
		return attest.Refuse(attest.ClassManifest, "the manifest has no key for the %v %q", id.office, id.name)
	}
	if !key.Equal(identity.PublicKey) {
		return attest.Refuse(attest.ClassManifest, "the identity key shown is not that of the %v %q", id.office, id.name)
	}
	if cert.SignatureAlgorithm != x509.PureEd25519 || !ed25519.Verify(key, cert.RawTBSCertificate, cert.Signature) {
		return attest.Refuse(attest.ClassSig, "the identity key of the %v %q has not signed this leaf", id.office, id.name)
	}
	return nil
}

// validInstance reports whether s is 32 lower-case hex digits.
func validInstance(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 16 && hex.EncodeToString(raw) == s
}
