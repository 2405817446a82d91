package sevsnp_test

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	pb "github.com/google/go-sev-guest/proto/sevsnp"
	"github.com/google/go-sev-guest/validate"
	"github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"consilium.dev/internal/attest"
)

// libraryRoots are AMD's, as go-sev-guest wants them. Its own default leaves the cloud providers' intermediates out.
func libraryRoots(t *testing.T) map[string][]*trust.AMDRootCerts {
	t.Helper()
	roots := map[string][]*trust.AMDRootCerts{}
	for line, bundles := range map[string][2][]byte{
		"Milan": {trust.AskArkMilanVcekBytes, trust.AskArkMilanVlekBytes}, "Genoa": {trust.AskArkGenoaVcekBytes, trust.AskArkGenoaVlekBytes},
	} {
		r := &trust.AMDRootCerts{ProductLine: line}
		if err := r.FromKDSCertBytes(bundles[0]); err != nil {
			t.Fatal(err)
		}
		r.ProductCerts.Asvk = parsePEM(t, bundles[1])
		roots[line] = []*trust.AMDRootCerts{r}
	}
	return roots
}

// library judges a report by go-sev-guest, by both of its halves: only the second compares the certificate with the report.
func library(t *testing.T, e attest.Evidence, b attest.Binding, v *vector) error {
	t.Helper()
	report, err := abi.ReportToProto(e.Body)
	if err != nil {
		return err
	}
	a := &pb.Attestation{Report: report, CertificateChain: &pb.CertificateChain{}}
	for _, item := range e.Collateral {
		der := item.Bytes
		if item.Kind == attest.KindCertTable { // its entries are PEM here, which the library's second half does not read
			table := new(abi.CertTable)
			if err := table.Unmarshal(item.Bytes); err != nil {
				return err
			}
			block, _ := pem.Decode(table.Proto().GetVcekCert())
			if block == nil {
				t.Fatal("the table has no VCEK in PEM")
			}
			der = block.Bytes
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		if cert.Subject.CommonName == "SEV-VLEK" {
			a.CertificateChain.VlekCert = der
		} else {
			a.CertificateChain.VcekCert = der
		}
	}
	o := &verify.Options{DisableCertFetching: true, Now: v.AtTime, TrustedRoots: libraryRoots(t)}
	if report.Version == 2 { // which names no CPU; all that are public are Milans of one stepping
		o.Product = &pb.SevProduct{Name: pb.SevProduct_SEV_PRODUCT_MILAN, MachineStepping: wrapperspb.UInt32(0)}
	}
	if err := verify.SnpAttestation(a, o); err != nil {
		return err
	}
	vmpl := int(v.Fields.VMPL)
	return validate.SnpAttestation(a, &validate.Options{
		ReportData: b.ReportData[:], VMPL: &vmpl, PermitProvisionalFirmware: true,
		GuestPolicy: abi.SnpPolicy{SMT: true, MigrateMA: true, Debug: true, CXLAllowed: true},
	})
}

// TestAgainstLibrary: go-sev-guest judges each real report as we do, and reads the same out of its certificate.
func TestAgainstLibrary(t *testing.T) {
	folder := os.Getenv("CONSILIUM_VECTORS")
	if folder == "" {
		folder = "testdata/vectors"
	}
	paths, err := filepath.Glob(filepath.Join(folder, "sevsnp", "*", "report.bin"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var v vector
			if err := json.Unmarshal(load(t, dir, "vector.json"), &v); err != nil {
				t.Fatal(err)
			}
			e := evidenceIn(t, dir, &v)
			var b attest.Binding
			copy(b.ReportData[:], e.Body[0x50:])
			claims, ours := newVerifier(t, nil).Verify(t.Context(), e, b, v.AtTime, nil)
			theirs := library(t, e, b, &v)
			if (ours == nil) != (theirs == nil) {
				t.Fatalf("we say %v, the library %v", ours, theirs)
			}
			if ours != nil {
				return
			}
			tcb := kds.DecomposeTCBVersion(kds.TCBVersion(must(abi.ReportToProto(e.Body)).ReportedTcb))
			if got, want := claims.SNP.Reported, (attest.TCB{Bootloader: tcb.BlSpl, TEE: tcb.TeeSpl, SNP: tcb.SnpSpl, Microcode: tcb.UcodeSpl}); got != want {
				t.Errorf("the reported TCB is %+v, the library says %+v", got, want)
			}
		})
	}
}

// TestTurinLibrary shows why certificates' extensions are read here: the library refuses a real Turin's.
func TestTurinLibrary(t *testing.T) {
	cert, err := x509.ParseCertificate(load(t, "testdata/vectors/sevsnp/turin-vcek-only-virtee", "vcek.der"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kds.CertificateExtensions(cert, abi.VcekReportSigner); err == nil || !strings.Contains(err.Error(), "not an AMD KDS OID") {
		t.Errorf("go-sev-guest = %v: where it reads Turin's certificates, decision 14 may be looked at again", err)
	}
}

// TestExtensionsAgainstLibrary: of certificates of these tests' making, right and wrong, we take none that the library refuses.
func TestExtensionsAgainstLibrary(t *testing.T) {
	same := 0
	for _, list := range [][]refusal{{{name: "plain", spoil: func(*scene) {}}, {name: "VLEK", spoil: (*scene).vlek}}, chainRefusals} {
		for _, r := range list {
			if !strings.HasPrefix(r.name, "A35") && !strings.HasPrefix(r.name, "A30") && r.class != 0 {
				continue
			}
			s := newScene()
			r.spoil(s)
			cert, err := x509.ParseCertificate(s.leafDER())
			if err != nil {
				continue // neither sees it
			}
			signer := abi.VcekReportSigner
			if cert.Subject.CommonName == "SEV-VLEK" {
				signer = abi.VlekReportSigner
			}
			_, theirs := kds.CertificateExtensions(cert, signer)
			_, ours := trusting(t).Endorse(cert, now)
			if theirs != nil && ours == nil {
				t.Errorf("%s: the library says %v, we take it", r.name, theirs)
			}
			same++
		}
	}
	if same < 12 {
		t.Errorf("%d certificates compared, want more", same)
	}
}
