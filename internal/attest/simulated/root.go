package simulated

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// lifetime is how long a root, and each certificate of a machine under it, is valid. It begins an hour before the root was
// made, since clocks differ.
const (
	lifetime = 10 * 365 * 24 * time.Hour
	leeway   = time.Hour
)

// Root is a private root of trust: AMD's root and intermediate for one product line, AWS's root, and Intel's. It does not change,
// and is safe for concurrent use.
type Root struct {
	name, line string
	ark        *x509.Certificate // its key is forgotten once the ASK is signed
	ask        *x509.Certificate
	askKey     *rsa.PrivateKey
	nitro      *x509.Certificate
	nitroKey   *ecdsa.PrivateKey
	intel      *intelRoot // nil of a root that was made before roots had Intel's part
}

// manufacturers are names that no simulated root may have: a log line that says so would pass for hardware's.
var manufacturers = []string{"amd", "aws", "amazon", "arm", "azure", "gcp", "google", "intel", "microsoft", "nvidia"}

// NewRoot makes a root that is valid from shortly before now, for ten years. name is what manifests will call it, 1 to 63 of
// a-z, 0-9 and -, and no manufacturer's; productLine is Milan, Genoa or Turin. It takes seconds, for its two RSA keys of 4096 bits; keep what it returns.
func NewRoot(name, productLine string, now time.Time) (*Root, error) {
	if err := valid(name, productLine); err != nil {
		return nil, err
	}
	var arkKey, askKey *rsa.PrivateKey
	var keys errgroup.Group
	for _, key := range []**rsa.PrivateKey{&arkKey, &askKey} {
		keys.Go(func() (err error) {
			*key, err = rsa.GenerateKey(rand.Reader, 4096)
			return err
		})
	}
	if err := keys.Wait(); err != nil {
		return nil, fmt.Errorf("making a simulated root's keys: %w", err)
	}
	nitroKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a simulated root's keys: %w", err)
	}
	r := &Root{name: name, line: productLine, askKey: askKey, nitroKey: nitroKey}
	ark := amd(name, "ARK-"+productLine, now.Add(-leeway))
	ark.IsCA, ark.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	if r.ark, err = sign(ark, ark, &arkKey.PublicKey, arkKey); err != nil {
		return nil, err
	}
	ask := amd(name, "SEV-"+productLine, now.Add(-leeway))
	ask.SerialNumber = big.NewInt(2)
	ask.IsCA, ask.MaxPathLenZero, ask.KeyUsage = true, true, x509.KeyUsageCertSign
	if r.ask, err = sign(ask, r.ark, &askKey.PublicKey, arkKey); err != nil {
		return nil, err
	}
	top := aws(name, "aws.nitro-enclaves", now.Add(-leeway))
	top.IsCA, top.KeyUsage = true, x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	if r.nitro, err = sign(top, top, &nitroKey.PublicKey, nitroKey); err != nil {
		return nil, err
	}
	if r.intel, err = newIntelRoot(name, now.Add(-leeway)); err != nil {
		return nil, err
	}
	return r, nil
}

// valid checks a root's name and product line.
func valid(name, line string) error {
	if len(name) < 1 || len(name) > 63 {
		return fmt.Errorf("a simulated root's name has %d bytes, want 1 to 63", len(name))
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("a simulated root's name %q: want a-z, 0-9 and -", name)
		}
	}
	if slices.Contains(manufacturers, name) {
		return fmt.Errorf("a simulated root's name %q is a manufacturer's", name)
	}
	if _, ok := processors[line]; !ok {
		return fmt.Errorf("product line %q: want Milan, Genoa or Turin", line)
	}
	return nil
}

// Certificates returns what a manifest lists under the root's name, each as DER: AMD's root and intermediate (both RSA), then
// AWS's root (P-384), then Intel's (P-256). platform.Verifiers takes the list as it is.
func (r *Root) Certificates() [][]byte {
	all := [][]byte{clone(r.ark), clone(r.ask), clone(r.nitro)}
	if r.intel != nil {
		all = append(all, clone(r.intel.root))
	}
	return all
}

func clone(c *x509.Certificate) []byte { return append([]byte(nil), c.Raw...) }

// amd returns a template for a certificate of AMD's form.
func amd(root, commonName string, from time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject: pkix.Name{
			Country: []string{"US"}, Locality: []string{"Santa Clara"}, Province: []string{"CA"},
			Organization: []string{"Advanced Micro Devices"}, OrganizationalUnit: []string{"Engineering"},
			CommonName: commonName, SerialNumber: "SIMULATED " + root,
		},
		NotBefore:             from,
		NotAfter:              from.Add(lifetime),
		SignatureAlgorithm:    x509.SHA384WithRSAPSS,
		BasicConstraintsValid: true,
	}
}

// aws returns a template for a certificate of AWS's form.
func aws(root, commonName string, from time.Time) *x509.Certificate {
	var serial [16]byte
	rand.Read(serial[:]) // cannot fail
	serial[0] &= 0x7f
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:]),
		Subject: pkix.Name{
			Country: []string{"US"}, Organization: []string{"Amazon"}, OrganizationalUnit: []string{"AWS"},
			CommonName: commonName, SerialNumber: "SIMULATED " + root,
		},
		NotBefore:             from,
		NotAfter:              from.Add(lifetime),
		SignatureAlgorithm:    x509.ECDSAWithSHA384,
		BasicConstraintsValid: true,
	}
}

// sign makes the certificate that template describes.
func sign(template, parent *x509.Certificate, key crypto.PublicKey, by crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, by)
	if err != nil {
		return nil, fmt.Errorf("making the certificate of %s: %w", template.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return cert, nil
}
