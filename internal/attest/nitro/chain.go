package nitro

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hf/nitrite"

	"consilium.dev/internal/attest"
)

// rootG1 is the SHA-256 of AWS's root certificate, "aws.nitro-enclaves", as DER (AWS, "Verifying the root of trust").
const rootG1 = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"

// maxSkew is how far the module's clock and ours may differ.
const maxSkew = time.Minute

// A root is one root of trust.
type root struct {
	simulated string // its name; "" for AWS's
	cert      *x509.Certificate
	pool      *x509.CertPool // of cert alone
}

func newRoot(name string, cert *x509.Certificate) root {
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return root{simulated: name, cert: cert, pool: pool}
}

// manufacturer returns AWS's root.
func manufacturer() (root, error) {
	block, _ := pem.Decode([]byte(nitrite.DefaultCARoots))
	if block == nil {
		return root{}, errors.New("the AWS Nitro root is not PEM")
	}
	if got := sha256.Sum256(block.Bytes); hex.EncodeToString(got[:]) != rootG1 {
		return root{}, fmt.Errorf("the AWS Nitro root has the fingerprint %x, want %s", got, rootG1)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return root{}, fmt.Errorf("the AWS Nitro root: %w", err)
	}
	return newRoot("", cert), nil
}

// simulated returns AWS's root and the simulated ones. A key may stand under one name only: else a manifest could give AWS's
// enclaves a simulated name, or the reverse.
func simulated(aws root, named map[string][]*x509.Certificate) ([]root, error) {
	roots := []root{aws}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		if name == "" || len(named[name]) != 1 {
			return nil, fmt.Errorf("simulated root %q: %d certificates, want a name and one certificate", name, len(named[name]))
		}
		cert := named[name][0]
		if err := link(cert, cert); err != nil {
			return nil, fmt.Errorf("simulated root %q: not self-signed: %w", name, err)
		}
		for _, other := range roots {
			if bytes.Equal(other.cert.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo) {
				return nil, fmt.Errorf("simulated root %q: its key is that of another root, %q", name, other.cert.Subject)
			}
		}
		roots = append(roots, newRoot(name, cert))
	}
	return roots, nil
}

// chain checks the document's certificates, from the bundle's first, which must be a root that is trusted here, down to the
// document's own, and returns them in that order. AWS fixes the order, so nothing is searched for.
func (v *Verifier) chain(d *document) (*root, []*x509.Certificate, *attest.Error) {
	if len(d.CABundle) == 0 || len(d.CABundle) > maxBundle {
		return nil, nil, attest.Refuse(attest.ClassChain, "a bundle of %d certificates, want 1 to %d", len(d.CABundle), maxBundle)
	}
	var chain []*x509.Certificate
	for i, der := range append(slices.Clone(d.CABundle), d.Certificate) {
		if len(der) == 0 || len(der) > maxCertificate {
			return nil, nil, attest.Refuse(attest.ClassChain, "certificate %d has %d bytes, want 1 to %d", i, len(der), maxCertificate)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, attest.Refuse(attest.ClassChain, "certificate %d does not parse: %v", i, err)
		}
		chain = append(chain, cert)
	}
	at := slices.IndexFunc(v.roots, func(r root) bool { return bytes.Equal(r.cert.Raw, chain[0].Raw) })
	if at < 0 {
		return nil, nil, attest.Refuse(attest.ClassChain, "the chain begins with %q, fingerprint %x, which is not trusted here",
			chain[0].Subject, sha256.Sum256(chain[0].Raw))
	}
	last := len(chain) - 1
	for i, cert := range chain[1:] {
		if err := link(cert, chain[i]); err != nil {
			return nil, nil, attest.Refuse(attest.ClassChain, "certificate %d: %v", i+1, err)
		}
	}
	for i, cert := range chain[:last] {
		// RFC 5280, section 4.2.1.9: how many authorities may stand between this one and the last certificate.
		if below := last - i - 1; cert.MaxPathLen >= 0 && below > cert.MaxPathLen {
			return nil, nil, attest.Refuse(attest.ClassChain, "certificate %d allows %d authorities below it, there are %d",
				i, cert.MaxPathLen, below)
		}
	}
	if leaf := chain[last]; leaf.IsCA || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, nil, attest.Refuse(attest.ClassChain, "the document's certificate may not sign documents: CA %t, key usage %#x",
			leaf.IsCA, leaf.KeyUsage)
	}
	return &v.roots[at], chain, nil
}

// link checks that parent, a certificate authority, signed child in AWS's way and is named as its issuer.
func link(child, parent *x509.Certificate) error {
	if !bytes.Equal(child.RawIssuer, parent.RawSubject) {
		return fmt.Errorf("issuer is %q, want %q", child.Issuer, parent.Subject)
	}
	if key, ok := child.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P384() {
		return fmt.Errorf("the key of %q is not on P-384", child.Subject)
	}
	if child.SignatureAlgorithm != x509.ECDSAWithSHA384 {
		return fmt.Errorf("signature algorithm is %s, want ECDSA-SHA384", child.SignatureAlgorithm)
	}
	if len(child.UnhandledCriticalExtensions) != 0 {
		return fmt.Errorf("unknown critical extensions %v", child.UnhandledCriticalExtensions)
	}
	if parent.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("%q may not sign certificates", parent.Subject)
	}
	return child.CheckSignatureFrom(parent) // asks for IsCA, too
}

// inTime checks that the chain is valid at now, and that the document was made in its certificate's life: not before it, and
// not after now, which lies in it.
func inTime(chain []*x509.Certificate, made, now time.Time) *attest.Error {
	for i, cert := range chain {
		if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
			return attest.Refuse(attest.ClassTime, "certificate %d, %q, is valid from %s to %s, not at %s", i, cert.Subject,
				cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
	}
	leaf := chain[len(chain)-1]
	if made.Before(leaf.NotBefore.Add(-maxSkew)) || made.After(now.Add(maxSkew)) {
		return attest.Refuse(attest.ClassTime, "the document is of %s; its certificate is valid from %s to %s, and it is %s",
			made.Format(time.RFC3339), leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339),
			now.UTC().Format(time.RFC3339))
	}
	return nil
}
