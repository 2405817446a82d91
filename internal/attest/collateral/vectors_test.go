package collateral_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/collateral"
	"consilium.dev/internal/attest/sevsnp"
	"consilium.dev/internal/attest/sgx"
	"consilium.dev/internal/attest/tdx"
)

// TestRealServices: real evidence, whose collateral a server at AMD's and Intel's paths hands out, is judged as with the collateral that was
// published with it: fetched, kept, exported, imported elsewhere. It walks the evidence that this repository has, and CONSILIUM_VECTORS.
func TestRealServices(t *testing.T) {
	plain := makers(t)
	seen := map[attest.Type]int{}
	for _, root := range slices.DeleteFunc([]string{
		"../sevsnp/testdata/vectors", "../tdx/testdata/vectors", "../sgx/testdata/vectors", os.Getenv("CONSILIUM_VECTORS"),
	}, func(s string) bool { return s == "" }) {
		for _, v := range plain {
			dirs, err := filepath.Glob(filepath.Join(root, strings.ReplaceAll(v.Type().String(), "-", ""), "*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, dir := range dirs {
				real, ok := readVector(t, dir, v)
				if !ok {
					continue
				}
				seen[v.Type()]++
				t.Run(v.Type().String()+"/"+filepath.Base(dir), func(t *testing.T) { real.judge(t, plain) })
			}
		}
	}
	for _, v := range plain {
		if seen[v.Type()] == 0 {
			t.Errorf("no evidence of %s with all of its collateral", v.Type())
		}
	}
}

func makers(t *testing.T) []attest.Verifier {
	t.Helper()
	snp, err := sevsnp.NewVerifier(sevsnp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	domains, err := tdx.NewVerifier(tdx.Options{})
	if err != nil {
		t.Fatal(err)
	}
	enclaves, err := sgx.NewVerifier(sgx.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return []attest.Verifier{snp, domains, enclaves}
}

// vector is real evidence with all that it can be judged by.
type vector struct {
	attest.Evidence
	at    time.Time
	files map[string][]byte
	want  attest.Claims
}

// readVector reads evidence that is genuine with all of its collateral, and reports whether it is.
func readVector(t *testing.T, dir string, v attest.Verifier) (*vector, bool) {
	t.Helper()
	var said struct {
		Expect string    `json:"expect"`
		AtTime time.Time `json:"at_time"`
	}
	raw, err := os.ReadFile(filepath.Join(dir, "vector.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &said); err != nil {
		t.Fatal(err)
	}
	r := &vector{Evidence: attest.Evidence{Type: v.Type()}, at: said.AtTime, files: map[string][]byte{}}
	body, folder, want := "quote.bin", filepath.Join(dir, "collateral"), []string{
		"tcb_info.json", "tcb_info_issuer_chain.pem", "qe_identity.json", "qe_identity_issuer_chain.pem", "pck_crl.der", "pck_crl_issuer_chain.pem", "root_ca_crl.der",
	}
	if v.Type() == attest.SEVSNP {
		body, folder, want = "report.bin", dir, []string{"vcek.der"}
	}
	if r.Body, err = os.ReadFile(filepath.Join(dir, body)); err != nil || said.Expect != "accept" {
		return nil, false
	}
	for _, name := range want {
		if r.files[name], err = os.ReadFile(filepath.Join(folder, name)); err != nil {
			return nil, false
		}
	}
	files, err := collateral.ReadFolder(folder, 64)
	if err != nil {
		t.Fatal(err)
	}
	var all attest.Collateral
	for _, f := range files {
		if f.Name != "ccel.bin" {
			all = append(all, f.Items...)
		}
	}
	if r.want, err = v.(attest.Reader).VerifyUnbound(r.Evidence, r.at, all); err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	if v.Type() == attest.SEVSNP && r.want.SNP.Version < 3 {
		return nil, false // whose report does not say what to ask for
	}
	return r, true
}

// serve lays out the vector's files at the makers' paths for the names.
func (r *vector) serve(m *maker, names []string) {
	for _, name := range names {
		switch {
		case strings.HasSuffix(name, "tcb_info.json"):
			m.put("/"+r.Type.String()+"/certification/v4/tcb?fmspc="+strings.Split(name, "-")[1],
				answer{r.files["tcb_info.json"], "TCB-Info-Issuer-Chain", r.files["tcb_info_issuer_chain.pem"]})
		case strings.HasSuffix(name, "qe_identity.json"):
			m.put("/"+r.Type.String()+"/certification/v4/qe/identity",
				answer{r.files["qe_identity.json"], "SGX-Enclave-Identity-Issuer-Chain", r.files["qe_identity_issuer_chain.pem"]})
		case name == "intel-root.crl":
			m.put("/sgx/certification/v4/rootcacrl", answer{body: r.files["root_ca_crl.der"]})
		case strings.HasPrefix(name, "intel-"):
			ca := strings.TrimSuffix(strings.TrimPrefix(name, "intel-"), ".crl")
			m.put("/sgx/certification/v4/pckcrl?ca="+ca+"&encoding=der", answer{r.files["pck_crl.der"], "SGX-PCK-CRL-Issuer-Chain", r.files["pck_crl_issuer_chain.pem"]})
		case strings.HasSuffix(name, ".der"):
			// sev-snp-LINE-CHIP-bl.tee.snp.ucode.der
			parts := strings.Split(strings.TrimSuffix(name, ".der"), "-")
			t := strings.Split(parts[4], ".")
			m.put("/vcek/v1/"+parts[2]+"/"+parts[3]+"?blSPL="+t[0]+"&teeSPL="+t[1]+"&snpSPL="+t[2]+"&ucodeSPL="+t[3], answer{body: r.files["vcek.der"]})
		}
	}
}

func (r *vector) judge(t *testing.T, plain []attest.Verifier) {
	m := newMaker(t)
	clock := func() time.Time { return r.at }
	hub, err := collateral.Open(collateral.Options{Folder: t.TempDir(), Service: m.service(t), Now: clock}, plain)
	if err != nil {
		t.Fatal(err)
	}
	names, err := hub.Want(r.Evidence)
	if err != nil {
		t.Fatal(err)
	}
	r.serve(m, names)
	_, err = hub.Fetch(t.Context(), names)
	if r.Type != attest.SEVSNP && err != nil { // no list of AMD's was ever published with evidence
		t.Fatal(err)
	}
	stick := filepath.Join(t.TempDir(), "stick")
	if _, err := hub.Export(stick); err != nil {
		t.Fatal(err)
	}
	m.Close()
	site, err := collateral.Open(collateral.Options{Folder: t.TempDir(), Now: clock}, plain)
	if err != nil {
		t.Fatal(err)
	}
	if done, err := site.Import(stick); err != nil || len(done.Refused) > 0 {
		t.Fatalf("imported %+v, %v", done, err)
	}
	judges, err := site.Verifiers(plain)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(judges, func(v attest.Verifier) bool { return v.Type() == r.Type })
	claims, err := judges[i].Verify(t.Context(), r.Evidence, attest.Binding{ReportData: reportData(r.want)}, r.at, nil)
	if err != nil {
		t.Fatal(err)
	}
	if claims.RevocationChecked != r.want.RevocationChecked || !claims.CollateralFrom.Equal(r.want.CollateralFrom) ||
		!slices.Equal(claims.Numbers, r.want.Numbers) || claims.Signed != r.want.Signed {
		t.Errorf("claims %+v, want %+v", claims, r.want)
	}
	if len(claims.Judged) == 0 {
		t.Error("claims do not say what it was judged by")
	}
}

func reportData(c attest.Claims) [64]byte {
	switch {
	case c.SNP != nil:
		return c.SNP.ReportData
	case c.TDX != nil:
		return c.TDX.ReportData
	}
	return c.SGX.ReportData
}

// TestSources: what is asked for, and where. Turin has another order of its id and one part more.
func TestSources(t *testing.T) {
	chip := strings.Repeat("c5", 64)
	for name, want := range map[string]string{
		"sev-snp-Genoa.crl":                                  "1 /vcek/v1/Genoa/crl",
		"sev-snp-Milan-" + chip + "-3.0.8.115.der":           "1 /vcek/v1/Milan/" + chip + "?blSPL=3&teeSPL=0&snpSPL=8&ucodeSPL=115",
		"sev-snp-Turin-c5c5c5c5c5c5c5c5-9.0.23.72.3.der":     "1 /vcek/v1/Turin/c5c5c5c5c5c5c5c5?blSPL=9&teeSPL=0&snpSPL=23&ucodeSPL=72&fmcSPL=3",
		"sev-snp-Turin-" + chip + "-9.0.23.72.3.der":         "",
		"sev-snp-Turin-c5c5c5c5c5c5c5c5-9.0.23.72.der":       "",
		"sev-snp-Genoa-c5c5c5c5c5c5c5c5-9.0.23.72.der":       "",
		"simulated-01234567-sev-snp-Genoa.crl":               "",
		"intel-root.crl":                                     "3 ",
		"intel-processor.crl":                                "2 /sgx/certification/v4/pckcrl?ca=processor&encoding=der",
		"tdx-00806f050000-tcb_info.json":                     "2 /tdx/certification/v4/tcb?fmspc=00806f050000",
		"sgx-00806f050000-qe_identity.json":                  "2 /sgx/certification/v4/qe/identity",
		"tdx-00806f050000-tcb_info.json/../../../etc/shadow": "",
		"numbers.json":                                       "",
	} {
		got := ""
		for _, v := range makers(t) {
			if s, path, known := v.(attest.Reader).Source(name); known {
				got = string('0'+rune(s)) + " " + path
			}
		}
		if got != want {
			t.Errorf("Source(%q) = %q, want %q", name, got, want)
		}
	}
}

// TestService: addresses in the clear are for this machine alone, and a service that answers anything else is no harm.
func TestService(t *testing.T) {
	for _, address := range []string{"http://kds.example.org", "https://user:secret@kds.example.org", "ftp://x", "https://x/?a=b"} {
		if _, err := collateral.NewService(address, "", "", nil); err == nil {
			t.Errorf("NewService(%q) takes it", address)
		}
	}
	m := newMaker(t)
	scene := numbered(18)
	s := newSite(t, t.TempDir(), m.service(t))
	all, err := s.Want(attest.Evidence{Type: attest.TDX, Body: scene.Quote()})
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{
		"nothing": nil, "a page": []byte("<html>sign in</html>"), "too much": make([]byte, 1<<20), "another list": numbered(18).InfoItem().Bytes,
	} {
		for path := range m.questions() {
			m.put(path, answer{body: body})
		}
		fresh, err := s.Fetch(t.Context(), all)
		if err == nil || len(fresh) > 0 || len(s.Show().Missing) != 4 {
			t.Errorf("%s: fetched %v, %v; missing %d", name, fresh, err, len(s.Show().Missing))
		}
	}
	m.serve(scene)
	s.at = s.at.AddDate(1, 0, 0) // what the service gives has run out
	if fresh, err := s.Fetch(t.Context(), all); err == nil || len(fresh) > 0 || !strings.Contains(err.Error(), "the service gives what holds from") {
		t.Errorf("fetched %v, which has run out: %v", fresh, err)
	}
	if n := m.questions()["/tdx/certification/v4/qe/identity"]; n == 0 {
		t.Error("nothing was asked")
	}
}
