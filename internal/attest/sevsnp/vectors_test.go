package sevsnp_test

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/sevsnp"
)

// A vector is one piece of evidence of a collection, as its vector.json describes it.
type vector struct {
	Platform string    `json:"platform"`
	Kind     string    `json:"kind"`
	Expect   string    `json:"expect"`
	Why      string    `json:"why"`
	AtTime   time.Time `json:"at_time"`
	Fields   fields    `json:"fields"`
}

type fields struct {
	HCLType    string  `json:"hcl_type"`
	Hardware   *fields `json:"hw"` // of the SEV-SNP report inside an Azure report
	Product    string  `json:"product"`
	Version    uint32  `json:"version"`
	VMPL       uint32  `json:"vmpl"`
	GuestSVN   uint32  `json:"guest_svn"`
	Debug      bool    `json:"debug"`
	Policy     string  `json:"policy"`
	Info       string  `json:"platform_info"`
	Key        string  `json:"signing_key"`
	ReportData string  `json:"report_data"`
	Measured   string  `json:"measurement"`
	HostData   string  `json:"host_data"`
	ChipID     string  `json:"chip_id"`
	Current    string  `json:"current_tcb"`
	Reported   string  `json:"reported_tcb"`
	Committed  string  `json:"committed_tcb"`
	Launch     string  `json:"launch_tcb"`
}

// refusals are the classes of samples whose fault is known by name; of others it is asked only that the fault is their own.
var refusals = map[string]attest.Class{
	"reject-signature-cmc":               attest.ClassSig,
	"reject-vcek-invalid-legacy-trustee": attest.ClassChain,
	"reject-vcek-invalid-new-trustee":    attest.ClassChain,
	"milan-v3-fcp-kms-novcek":            attest.ClassChain,
	"reject-kinvolk-snp-other-vcek":      attest.ClassChain,
}

func TestVectors(t *testing.T) {
	folder := os.Getenv("CONSILIUM_VECTORS")
	if folder == "" {
		t.Skip("CONSILIUM_VECTORS names no folder of attestation evidence; TestRealEvidence judges what is committed")
	}
	judgeFolder(t, folder)
}

func TestRealEvidence(t *testing.T) { judgeFolder(t, "testdata/vectors") }

// judgeFolder judges the SEV-SNP reports in a folder of vectors: those of bare machines, and those inside Azure's reports.
func judgeFolder(t *testing.T, folder string) {
	if all, err := filepath.Glob(filepath.Join(folder, "*", "*", "vector.json")); err != nil || len(all) == 0 {
		t.Fatalf("%s holds no vectors: %v", folder, err)
	}
	for _, platform := range []string{"sevsnp", "azure-vtpm"} {
		paths, err := filepath.Glob(filepath.Join(folder, platform, "*", "vector.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			dir := filepath.Dir(path)
			t.Run(platform+"/"+filepath.Base(dir), func(t *testing.T) { judgeVector(t, dir) })
		}
	}
}

func judgeVector(t *testing.T, dir string) {
	var v vector
	if err := json.Unmarshal(load(t, dir, "vector.json"), &v); err != nil {
		t.Fatal(err)
	}
	if v.Kind == "certificate" {
		judgeCertificate(t, dir, &v)
		return
	}
	e := evidenceIn(t, dir, &v)
	var b attest.Binding
	if n, err := hex.Decode(b.ReportData[:], []byte(v.Fields.ReportData)); err != nil || n != 64 {
		t.Fatalf("report_data of %d bytes: %v", n, err)
	}
	claims, err := newVerifier(t, nil).Verify(t.Context(), e, b, v.AtTime, nil)
	if v.Expect == "reject" {
		judgeRefusal(t, filepath.Base(dir), &v, err)
		return
	}
	if err != nil {
		t.Fatalf("Verify: %v, want claims: %s", err, v.Why)
	}
	if diff := cmp.Diff(v.Fields, said(claims)); diff != "" {
		t.Errorf("claims (-vector +said):\n%s", diff)
	}
	for _, bit := range []int{0, 255, 511} {
		altered := b
		altered.ReportData[bit/8] ^= 1 << (bit % 8)
		_, err := newVerifier(t, nil).Verify(t.Context(), e, altered, v.AtTime, nil)
		wantClass(t, err, attest.ClassBind)
	}
}

// judgeCertificate judges a certificate of which no report was published, by what Verify asks of a report's.
func judgeCertificate(t *testing.T, dir string, v *vector) {
	name := "vcek.der"
	if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
		name = "vlek.der"
	}
	der := load(t, dir, name)
	judge := func(der []byte) (*sevsnp.Endorsement, *attest.Error) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, attest.Refuse(attest.ClassChain, "%v", err)
		}
		return newVerifier(t, nil).Endorse(cert, v.AtTime)
	}
	e, err := judge(der)
	if v.Expect == "reject" {
		if err == nil || err.Class == attest.ClassTime {
			t.Errorf("Endorse: %v, want a refusal for the certificate's own fault: %s", err, v.Why)
		}
		return
	}
	if err != nil {
		t.Fatalf("Endorse: %v, want %s", err, v.Why)
	}
	line, _, _ := strings.Cut(v.Fields.Product, "-")
	if e.ProductLine != line || e.SigningKey+".der" != name || e.Simulated != "" {
		t.Errorf("Endorse = %+v, want a %s of a %s", e, name, line)
	}
	t.Logf("a %s's %s: hardware id %x, TCB %+v", e.ProductLine, e.SigningKey, e.HardwareID, e.TCB)
	der[len(der)-1] ^= 1 // of the signature
	if _, err := judge(der); err == nil || err.Class != attest.ClassChain {
		t.Errorf("Endorse of the certificate with another signature = %v, want the class CHAIN", err)
	}
}

func judgeRefusal(t *testing.T, name string, v *vector, err error) {
	if err == nil && v.Platform == "azure-vtpm" {
		t.Skipf("its SEV-SNP report is genuine, and Azure's part around it is not judged yet: %s", v.Why)
	}
	var refusal *attest.Error
	if !errors.As(err, &refusal) {
		t.Fatalf("Verify: %v, want a refusal: %s", err, v.Why)
	}
	if want, known := refusals[name]; known {
		wantClass(t, err, want)
	}
	if refusal.Class == attest.ClassTime || refusal.Class == attest.ClassBind {
		t.Errorf("Verify: %v, want a refusal for the sample's own fault: %s", err, v.Why)
	}
}

// evidenceIn puts a vector's files together, and makes v.Fields what its SEV-SNP report says.
func evidenceIn(t *testing.T, dir string, v *vector) attest.Evidence {
	t.Helper()
	e := attest.Evidence{Type: attest.SEVSNP}
	if v.Platform == "azure-vtpm" {
		if v.Fields.HCLType != "SNP" || v.Fields.Hardware == nil {
			t.Skipf("an Azure report around %s: not supported yet", v.Fields.HCLType)
		}
		report := load(t, dir, "hcl_report.bin")
		e.Body, v.Fields = report[32:32+1184], *v.Fields.Hardware
	} else {
		e.Body = load(t, dir, "report.bin")
	}
	v.Fields.Product, _, _ = strings.Cut(v.Fields.Product, "-") // the stepping is not claimed
	for _, file := range []struct {
		name string
		kind attest.Kind
	}{
		{"vcek.der", attest.KindCertificate}, {"vlek.der", attest.KindCertificate}, {"certtable.bin", attest.KindCertTable},
	} {
		if raw, err := os.ReadFile(filepath.Join(dir, file.name)); err == nil {
			e.Collateral = append(e.Collateral, attest.Item{Kind: file.kind, Bytes: raw})
		}
	}
	return e
}

// said puts claims the way vectors are written.
func said(c attest.Claims) fields {
	s := c.SNP
	tcb := func(t attest.TCB) string {
		if s.ProductLine == "Turin" {
			return fmt.Sprintf("0x%02x000000%02x%02x%02x%02x", t.Microcode, t.SNP, t.TEE, t.Bootloader, t.FMC)
		}
		return fmt.Sprintf("0x%02x%02x00000000%02x%02x", t.Microcode, t.SNP, t.TEE, t.Bootloader)
	}
	bits := func(of ...bool) (n uint64) {
		for i, set := range of {
			if set {
				n |= 1 << i
			}
		}
		return n
	}
	p := s.Platform
	policy := bits(s.SMTAllowed, true, s.MigrateMA, s.Debug, s.SingleSocket, s.CXLAllowed, s.MemAES256XTS, s.RAPLDisabled,
		s.CiphertextHiding, s.PageSwapDisabled)<<16 | uint64(s.ABIMajor)<<8 | uint64(s.ABIMinor)
	info := p.Unknown | bits(p.SMT, p.TSME, p.ECC, p.RAPLDisabled, p.CiphertextHiding, p.AliasCheckComplete, false, p.TIO)
	return fields{
		Product: s.ProductLine, Version: s.Version, VMPL: s.VMPL, GuestSVN: s.GuestSVN, Debug: s.Debug,
		Policy: fmt.Sprintf("%#x", policy), Info: fmt.Sprintf("%#x", info), Key: strings.ToUpper(s.SigningKey),
		ReportData: hex.EncodeToString(s.ReportData[:]), Measured: hex.EncodeToString(s.Measurement[:]),
		HostData: hex.EncodeToString(s.HostData[:]), ChipID: hex.EncodeToString(s.ChipID[:]),
		Current: tcb(s.Current), Reported: tcb(s.Reported), Committed: tcb(s.Committed), Launch: tcb(s.Launch),
	}
}

func load(t *testing.T, dir, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func wantClass(t *testing.T, err error, want attest.Class) {
	t.Helper()
	var refusal *attest.Error
	if !errors.As(err, &refusal) || refusal.Class != want {
		t.Errorf("Verify: %v, want the class %s", err, want)
	}
}

func newVerifier(t testing.TB, o *sevsnp.Options) *sevsnp.Verifier {
	t.Helper()
	if o == nil {
		o = &sevsnp.Options{}
	}
	v, err := sevsnp.NewVerifier(*o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
