package dcap

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	_ "embed" // Intel's root
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// intelPEM is Intel's root certificate for SGX and TDX, as Intel hands it out
// (https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.pem). This copy is the one that
// github.com/google/go-tdx-guest ships as verify/trusted_root.pem.
//
//go:embed intel-sgx-root.pem
var intelPEM []byte

// intelFingerprint is the SHA-256 of its DER.
const intelFingerprint = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"

// A root is a certificate that chains may end in.
type root struct {
	simulated string // "" for Intel's
	*x509.Certificate
}

// trusted returns Intel's root and the simulated ones. A key may stand under one name only: else a manifest could give
// Intel's platforms a simulated name, or the reverse.
func trusted(simulated map[string]*x509.Certificate) ([]root, error) {
	intel, err := manufacturer()
	if err != nil {
		return nil, fmt.Errorf("the root of Intel: %w", err)
	}
	roots := []root{{"", intel}}
	for _, name := range slices.Sorted(maps.Keys(simulated)) {
		cert := simulated[name]
		if name == "" || cert == nil {
			return nil, fmt.Errorf("simulated root %q: want a name and a certificate", name)
		}
		if key, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
			return nil, fmt.Errorf("simulated root %q: its key is not on P-256", name)
		}
		if err := link(cert, cert); err != nil {
			return nil, fmt.Errorf("simulated root %q: not self-signed: %w", name, err)
		}
		for _, other := range roots {
			if bytes.Equal(other.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo) {
				return nil, fmt.Errorf("simulated root %q: its key is that of another root, %q", name, other.Subject.CommonName)
			}
		}
		roots = append(roots, root{name, cert})
	}
	return roots, nil
}

func manufacturer() (*x509.Certificate, error) {
	block, _ := pem.Decode(intelPEM)
	if block == nil {
		return nil, errors.New("not PEM")
	}
	if got := sha256.Sum256(block.Bytes); hex.EncodeToString(got[:]) != intelFingerprint {
		return nil, fmt.Errorf("fingerprint %x, want %s", got, intelFingerprint)
	}
	return x509.ParseCertificate(block.Bytes)
}

// link checks that parent, a certificate authority, signed child in Intel's way and is named as its issuer.
func link(child, parent *x509.Certificate) error {
	if !bytes.Equal(child.RawIssuer, parent.RawSubject) {
		return fmt.Errorf("issuer is %q, want %q", child.Issuer, parent.Subject)
	}
	if child.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return fmt.Errorf("certificate signature algorithm is %s, want ECDSA-SHA256", child.SignatureAlgorithm)
	}
	return child.CheckSignatureFrom(parent) // asks for IsCA and the key usage of parent, too
}
