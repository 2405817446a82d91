// Package platform is the one list of platforms: which evidence can be judged, and which machines can be attested, by this
// version of Consilium. A new platform is a line here.
//
//	verifiers, err := platform.Verifiers(platform.Options{SimulatedRoots: m.SimulatedRoots()})
//	machine, err := platform.Open(ctx, "auto", platform.Host{Now: time.Now, System: hardware.Linux("/")})
package platform

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/nitro"
	"consilium.dev/internal/attest/sevsnp"
	"consilium.dev/internal/attest/sgx"
	"consilium.dev/internal/attest/tdx"
)

// Options says what is trusted beside the manufacturers' roots, which are compiled in.
type Options struct {
	// SimulatedRoots are the private roots of simulated platforms that a manifest names: under each name the DER certificates
	// that simulated.Root.Certificates returns. RSA certificates are AMD's part, first the root, then the intermediates that
	// it signed; one on P-384 is AWS's; one on P-256 is Intel's, of SGX and TDX alike.
	SimulatedRoots map[string][][]byte
}

// Verifiers returns one verifier for each type of evidence that can be judged, ascending by type. It fails where a simulated
// root does not parse, or is a manufacturer's.
func Verifiers(o Options) ([]attest.Verifier, error) {
	amd, aws, intel := map[string][]*x509.Certificate{}, map[string][]*x509.Certificate{}, map[string]*x509.Certificate{}
	for _, name := range slices.Sorted(maps.Keys(o.SimulatedRoots)) {
		for i, der := range o.SimulatedRoots[name] {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, fmt.Errorf("simulated root %q: certificate %d: %w", name, i, err)
			}
			switch key := cert.PublicKey.(type) {
			case *rsa.PublicKey:
				amd[name] = append(amd[name], cert)
			case *ecdsa.PublicKey:
				if key.Curve != elliptic.P256() {
					aws[name] = append(aws[name], cert)
					continue
				}
				if intel[name] != nil {
					return nil, fmt.Errorf("simulated root %q: certificate %d is the second of Intel's part", name, i)
				}
				intel[name] = cert
			default:
				return nil, fmt.Errorf("simulated root %q: certificate %d has a key of the kind %s, want RSA (SEV-SNP), P-256 (SGX, TDX) or P-384 (Nitro)",
					name, i, cert.PublicKeyAlgorithm)
			}
		}
	}
	snp, err := sevsnp.NewVerifier(sevsnp.Options{SimulatedRoots: amd})
	if err != nil {
		return nil, fmt.Errorf("roots of sev-snp: %w", err)
	}
	domains, err := tdx.NewVerifier(tdx.Options{SimulatedRoots: intel})
	if err != nil {
		return nil, fmt.Errorf("roots of tdx: %w", err)
	}
	enclaves, err := sgx.NewVerifier(sgx.Options{SimulatedRoots: intel})
	if err != nil {
		return nil, fmt.Errorf("roots of sgx: %w", err)
	}
	nsm, err := nitro.NewVerifier(nitro.Options{SimulatedRoots: aws})
	if err != nil {
		return nil, fmt.Errorf("roots of nitro: %w", err)
	}
	return []attest.Verifier{snp, domains, enclaves, nsm}, nil
}
