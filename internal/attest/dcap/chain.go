package dcap

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"time"

	"consilium.dev/internal/attest"
)

// The common names that Intel gives its certificates (Intel SGX PCK Certificate and Certificate Revocation List Profile
// Specification, section 1.3).
const (
	namePlatformCA  = "Intel SGX PCK Platform CA"
	nameProcessorCA = "Intel SGX PCK Processor CA"
	nameLeaf        = "Intel SGX PCK Certificate"
	nameTCBSigning  = "Intel SGX TCB Signing"
)

// authorities are those that certify platforms' keys, as claims name them.
var authorities = map[string]string{namePlatformCA: "platform", nameProcessorCA: "processor"}

// A chain is the certificate of a platform's key, with those above it.
type chain struct {
	leaf, ca *x509.Certificate
	root     *root
	key      *ecdsa.PublicKey // the leaf's
	platform extensions
}

// chainIn reads the PCK certificate's chain out of a quote. Its shape is fixed: leaf, intermediate, root, of which the root
// is held here, so it is checked link by link.
func (v *Verifier) chainIn(text []byte, now time.Time) (*chain, *attest.Error) {
	ders, refusal := strictPEM(text)
	if refusal != nil {
		return nil, refusal
	}
	c := &chain{}
	for i := range v.roots {
		if bytes.Equal(v.roots[i].Raw, ders[2]) {
			c.root = &v.roots[i]
		}
	}
	if c.root == nil {
		return nil, attest.Refuse(attest.ClassChain, "the PCK certificate's chain ends in no root that is trusted here (SHA-256 %x)", sha256.Sum256(ders[2]))
	}
	for i, cert := range []**x509.Certificate{&c.leaf, &c.ca} {
		var err error
		if *cert, err = x509.ParseCertificate(ders[i]); err != nil {
			return nil, attest.Refuse(attest.ClassChain, "certificate %d of the PCK certificate's chain does not parse: %v", i, err)
		}
	}
	if name := c.ca.Subject.CommonName; authorities[name] == "" {
		return nil, attest.Refuse(attest.ClassChain, "the PCK certificate's issuer is named %q, want %q or %q", name, namePlatformCA, nameProcessorCA)
	}
	for _, pair := range [][2]*x509.Certificate{{c.ca, c.root.Certificate}, {c.leaf, c.ca}} {
		if err := link(pair[0], pair[1]); err != nil {
			return nil, attest.Refuse(attest.ClassChain, "%s: %v", pair[0].Subject.CommonName, err)
		}
	}
	for _, cert := range []*x509.Certificate{c.root.Certificate, c.ca, c.leaf} {
		if err := valid(cert, now); err != nil {
			return nil, err
		}
	}
	return c, c.formed()
}

// formed checks that the leaf has the form that Intel gives to those of platforms' keys, and reads its extensions.
func (c *chain) formed() *attest.Error {
	if err := signing(c.leaf, nameLeaf); err != nil {
		return err
	}
	c.key = c.leaf.PublicKey.(*ecdsa.PublicKey)
	var err *attest.Error
	c.platform, err = readExtensions(c.leaf)
	return err
}

// signing checks that a certificate is of a key that signs something, and no certificates.
func signing(cert *x509.Certificate, name string) *attest.Error {
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	switch {
	case cert.Subject.CommonName != name:
		return attest.Refuse(attest.ClassChain, "a certificate is named %q, want %q", cert.Subject.CommonName, name)
	case cert.Version != 3 || cert.IsCA || len(cert.UnhandledCriticalExtensions) != 0:
		return attest.Refuse(attest.ClassChain, "%s: version %d, CA %t, unknown critical extensions %v", name, cert.Version, cert.IsCA,
			cert.UnhandledCriticalExtensions)
	case !ok || key.Curve != elliptic.P256():
		return attest.Refuse(attest.ClassChain, "%s: its key is not on P-256", name)
	case cert.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return attest.Refuse(attest.ClassChain, "%s: its key is not for signatures", name)
	}
	return nil
}

func valid(cert *x509.Certificate, now time.Time) *attest.Error {
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return attest.Refuse(attest.ClassTime, "%s is valid from %s to %s, not at %s", cert.Subject.CommonName,
			cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// The lines around a certificate in PEM, and the letters of base64 on a line between them.
const (
	pemBegin = "-----BEGIN CERTIFICATE-----\n"
	pemEnd   = "-----END CERTIFICATE-----\n"
	pemLine  = 64
)

// strictPEM reads the DER of exactly three certificates, written as Intel writes them: one after the other, with nothing before,
// between or behind them but one newline and one zero byte at the end. Readers of PEM pass over much more, and what they pass over
// could be altered unseen.
func strictPEM(text []byte) ([][]byte, *attest.Error) {
	text = bytes.TrimSuffix(text, []byte{0})
	if !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text[:len(text):len(text)], '\n')
	}
	var ders [][]byte
	for len(text) > 0 {
		inside, begun := bytes.CutPrefix(text, []byte(pemBegin))
		lines, rest, ended := bytes.Cut(inside, []byte(pemEnd))
		der := strictBase64(lines)
		if !begun || !ended || der == nil || len(ders) == 3 {
			return nil, attest.Refuse(attest.ClassParse, "the PCK certificate's chain is not three certificates in strict PEM")
		}
		ders = append(ders, der)
		text = rest
	}
	if len(ders) != 3 {
		return nil, attest.Refuse(attest.ClassChain, "the PCK certificate's chain has %d certificates, want 3", len(ders))
	}
	return ders, nil
}

// strictBase64 decodes lines of 64 letters, of which the last may be shorter; nil where they are not that, or are not the one way
// to write what they decode to.
func strictBase64(lines []byte) []byte {
	letters := make([]byte, 0, len(lines))
	for len(lines) > 0 {
		n := min(pemLine, len(lines)-1)
		if lines[n] != '\n' {
			return nil
		}
		letters, lines = append(letters, lines[:n]...), lines[n+1:]
	}
	if bytes.ContainsAny(letters, "\r\n") { // which the decoder would pass over
		return nil
	}
	der, err := base64.StdEncoding.Strict().DecodeString(string(letters))
	if err != nil || len(der) == 0 {
		return nil
	}
	return der
}
