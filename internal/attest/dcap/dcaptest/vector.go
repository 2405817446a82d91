package dcaptest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"consilium.dev/internal/attest"
)

// Numbered returns the name of a subtest, NUMBER/WHAT, of a case "B5 what" of the list of what a great verifier must refuse.
func Numbered(name string) string {
	number, what, found := strings.Cut(name, " ")
	if n, err := strconv.Atoi(number[1:]); err == nil && found {
		return fmt.Sprintf("%03d/%s", n, what)
	}
	return "other/" + name
}

// A Vector is one piece of evidence of a collection, as its vector.json describes it.
type Vector struct {
	Expect string    `json:"expect"`
	Why    string    `json:"why"`
	AtTime time.Time `json:"at_time"`
	Fields Fields    `json:"fields"`

	Evidence attest.Evidence `json:"-"`
	Binding  attest.Binding  `json:"-"` // what the quote carries
}

// Fields are what a quote and its collateral say. Those that a platform does not have are empty.
type Fields struct {
	Advisories   []string `json:"advisories"`
	Attributes   string   `json:"attributes"`
	Collateral   bool     `json:"collateral_checked"`
	CPUSVN       string   `json:"cpusvn"`
	Lists        bool     `json:"crl_checked"`
	Debug        bool     `json:"debug"`
	FMSPC        string   `json:"fmspc"`
	ISVProdID    uint16   `json:"isv_prod_id"`
	ISVSVN       uint16   `json:"isv_svn"`
	Measurement  string   `json:"measurement"`
	MRConfigID   string   `json:"mrconfigid"`
	MRSEAM       string   `json:"mrseam"`
	MRServiceTD  string   `json:"mrservicetd"`
	MRSigner     string   `json:"mrsigner"`
	Version      uint16   `json:"quote_version"`
	ReportData   string   `json:"report_data"`
	RTMR0        string   `json:"rtmr0"`
	RTMR1        string   `json:"rtmr1"`
	RTMR2        string   `json:"rtmr2"`
	RTMR3        string   `json:"rtmr3"`
	TCB          string   `json:"tcb"`
	TCBPlatform  string   `json:"tcb_platform"`
	TCBQE        string   `json:"tcb_qe"`
	TCBModule    string   `json:"tcb_tdx_module"`
	TDAttributes string   `json:"td_attributes"`
	TEETCBSVN    string   `json:"tee_tcb_svn"`
	TEETCBSVN2   string   `json:"tee_tcb_svn2"`
	XFAM         string   `json:"xfam"`

	Hardware *Fields `json:"hw"` // of a quote inside of something else; Load takes them out
}

// Platform fills in what SGX and TDX have in common.
func (f *Fields) Platform(c attest.Claims, p attest.DCAP) {
	f.Lists, f.FMSPC = c.RevocationChecked, hex.EncodeToString(p.FMSPC[:])
	f.Collateral, f.TCB, f.TCBPlatform, f.TCBModule, f.TCBQE, f.Advisories =
		p.TCB.Checked, p.TCB.Status, p.TCB.Platform, p.TCB.Module, p.TCB.QE, p.TCB.Advisories
}

// Load reads a vector from its folder.
func Load(t testing.TB, dir string, typ attest.Type) *Vector {
	t.Helper()
	v := &Vector{}
	description, err := os.ReadFile(filepath.Join(dir, "vector.json"))
	if err == nil {
		err = json.Unmarshal(description, v)
	}
	if err != nil {
		t.Fatal(err)
	}
	v.Evidence.Type = typ
	quote := "quote.bin"
	if v.Fields.Hardware != nil { // one that a cloud's own layer asked for
		quote, v.Fields = "td_quote.bin", *v.Fields.Hardware
	}
	if v.Evidence.Body, err = os.ReadFile(filepath.Join(dir, quote)); err != nil {
		t.Fatal(err)
	}
	for _, file := range []struct {
		name string
		kind attest.Kind
	}{
		{"tcb_info.json", attest.KindTCBInfo},
		{"tcb_info_issuer_chain.pem", attest.KindIssuerChain},
		{"qe_identity.json", attest.KindQEIdentity},
		{"qe_identity_issuer_chain.pem", attest.KindIssuerChain},
		{"pck_crl.der", attest.KindCRL},
		{"root_ca_crl.der", attest.KindCRL},
		{"pck_crl_issuer_chain.pem", attest.KindIssuerChain},
	} {
		raw, err := os.ReadFile(filepath.Join(dir, "collateral", file.name))
		if err == nil {
			v.Evidence.Collateral = append(v.Evidence.Collateral, attest.Item{Kind: file.kind, Bytes: raw})
		} else if !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if _, err := hex.Decode(v.Binding.ReportData[:], []byte(v.Fields.ReportData)); err != nil {
		t.Fatal(err)
	}
	return v
}
