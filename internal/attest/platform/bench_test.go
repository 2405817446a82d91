package platform_test

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	"github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/validate"
	snpverify "github.com/google/go-sev-guest/verify"
	"github.com/google/go-tdx-guest/pcs"
	tdxverify "github.com/google/go-tdx-guest/verify"
	"github.com/hf/nitrite"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap/dcaptest"
	"consilium.dev/internal/attest/platform"
)

// BenchmarkVerify judges one piece of real evidence of each platform, again and again, by our verifier and by the library that is
// asked the same, in one run: make bench. What a library leaves out it is not asked to do (nitrite: nonce, user data and key;
// go-tdx-guest: the standing of platforms of TDX 1.5); there is none for SGX.
func BenchmarkVerify(b *testing.B) {
	verifiers, err := platform.Verifiers(platform.Options{})
	if err != nil {
		b.Fatal(err)
	}
	ours := map[attest.Type]attest.Verifier{}
	for _, v := range verifiers {
		ours[v.Type()] = v
	}
	snp, nitro := snpSample(b), nitroSample(b)
	tdx := dcaptest.Load(b, "../tdx/testdata/vectors/tdx/v4-gcp-cos113-gotdxguest", attest.TDX)
	sgx := dcaptest.Load(b, "../sgx/testdata/vectors/sgx/v3-cmc", attest.SGX)
	type unbound interface { // a real document of Nitro was made for another protocol than ours
		VerifyUnbound(attest.Evidence, time.Time, attest.Collateral) (attest.Claims, error)
	}
	for _, one := range []struct {
		name   string
		verify func() error
	}{
		{"sev-snp/ours", func() error {
			_, err := ours[attest.SEVSNP].Verify(b.Context(), snp.evidence, snp.binding, snp.at, nil)
			return err
		}},
		{"sev-snp/go-sev-guest", snp.library},
		{"nitro/ours", func() error {
			_, err := ours[attest.Nitro].(unbound).VerifyUnbound(nitro.evidence, nitro.at, nil)
			return err
		}},
		{"nitro/nitrite", nitro.library},
		{"tdx/ours", judging(b, ours[attest.TDX], tdx)},
		{"tdx/go-tdx-guest", tdxLibrary(b, tdx)},
		{"sgx/ours", judging(b, ours[attest.SGX], sgx)},
	} {
		b.Run(one.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := one.verify(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "verifications/s")
		})
	}
}

// sample is a piece of real evidence, and what the platform's library makes of it.
type sample struct {
	evidence attest.Evidence
	binding  attest.Binding
	at       time.Time
	library  func() error
}

// open reads a file of a vector, and its description.
func open(b *testing.B, dir, name string) (raw []byte, at time.Time, reportData string) {
	b.Helper()
	var v struct {
		At     time.Time `json:"at_time"`
		Fields struct {
			ReportData string `json:"report_data"`
		} `json:"fields"`
	}
	text, err := os.ReadFile(filepath.Join(dir, "vector.json"))
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err == nil {
		raw, err = os.ReadFile(filepath.Join(dir, name))
	}
	if err != nil {
		b.Fatal(err)
	}
	return raw, v.At, v.Fields.ReportData
}

func snpSample(b *testing.B) *sample {
	const dir = "../sevsnp/testdata/vectors/sevsnp/genoa-v5-oak"
	report, at, data := open(b, dir, "report.bin")
	vcek, _, _ := open(b, dir, "vcek.der")
	s := &sample{at: at, evidence: attest.Evidence{
		Type: attest.SEVSNP, Body: report, Collateral: attest.Collateral{{Kind: attest.KindCertificate, Bytes: vcek}},
	}}
	if _, err := hex.Decode(s.binding.ReportData[:], []byte(data)); err != nil {
		b.Fatal(err)
	}
	// Both halves of the library: only validate compares report data, chip and TCB.
	s.library = func() error {
		fields, err := abi.ReportToProto(report)
		if err != nil {
			return err
		}
		a := &sevsnp.Attestation{Report: fields, CertificateChain: &sevsnp.CertificateChain{VcekCert: vcek}}
		if err := snpverify.SnpAttestation(a, &snpverify.Options{DisableCertFetching: true, Now: at}); err != nil {
			return err
		}
		return validate.SnpAttestation(a, &validate.Options{
			ReportData: s.binding.ReportData[:], GuestPolicy: abi.SnpPolicy{SMT: true, Debug: true}, PermitProvisionalFirmware: true,
			MinimumTCB: kds.TCBParts{}, MinimumLaunchTCB: kds.TCBParts{},
		})
	}
	return s
}

func nitroSample(b *testing.B) *sample {
	document, at, _ := open(b, "../nitro/testdata/vectors/nitro/dstack-nsm", "document.cbor")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(nitrite.DefaultCARoots))
	return &sample{evidence: attest.Evidence{Type: attest.Nitro, Body: document}, at: at, library: func() error {
		_, err := nitrite.Verify(document, nitrite.VerifyOptions{Roots: roots, CurrentTime: at})
		return err
	}}
}

// judging returns what judges a quote of Intel's by our verifier.
func judging(b *testing.B, v attest.Verifier, of *dcaptest.Vector) func() error {
	return func() error {
		_, err := v.Verify(b.Context(), of.Evidence, of.Binding, of.AtTime, nil)
		return err
	}
}

// pcsFiles answers go-tdx-guest's questions to Intel's service.
type pcsFiles attest.Collateral

func (f pcsFiles) Get(link string) (map[string][]string, []byte, error) {
	of := func(kind attest.Kind, n int) []byte {
		for _, item := range f {
			if item.Kind == kind {
				if n--; n < 0 {
					return item.Bytes
				}
			}
		}
		return nil
	}
	chain := func(name string, n int) map[string][]string {
		return map[string][]string{name: {url.QueryEscape(string(of(attest.KindIssuerChain, n)))}}
	}
	switch { // the order of files is dcaptest.Load's
	case strings.Contains(link, "/pckcrl"):
		return chain(pcs.SgxPckCrlIssuerChainPhrase, 2), of(attest.KindCRL, 0), nil
	case strings.Contains(link, "/tcb?"):
		return chain(pcs.TcbInfoIssuerChainPhrase, 0), of(attest.KindTCBInfo, 0), nil
	case strings.Contains(link, "/qe/identity"):
		return chain(pcs.SgxQeIdentityIssuerChainPhrase, 1), of(attest.KindQEIdentity, 0), nil
	}
	return nil, of(attest.KindCRL, 1), nil
}

func tdxLibrary(b *testing.B, of *dcaptest.Vector) func() error {
	root, err := os.ReadFile("../dcap/intel-sgx-root.pem")
	if err != nil {
		b.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	at := tdxverify.TimeSet{PckCertChain: of.AtTime, TcbInfo: of.AtTime, QeIdentity: of.AtTime, PckCrl: of.AtTime, RootCaCrl: of.AtTime}
	return func() error {
		return tdxverify.RawTdxQuote(of.Evidence.Body, &tdxverify.Options{
			CheckRevocations: true, GetCollateral: true, Getter: pcsFiles(of.Evidence.Collateral), TrustedRoots: roots, Now: &at,
		})
	}
}
