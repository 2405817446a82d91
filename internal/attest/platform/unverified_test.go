package platform_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/platform"
)

// TestRecognize: real evidence is known by its form, and read; other bytes are not.
func TestRecognize(t *testing.T) {
	for path, want := range map[string]attest.Type{
		"../sevsnp/testdata/vectors/sevsnp/genoa-v5-oak/report.bin": attest.SEVSNP,
		"../nitro/testdata/vectors/nitro/dstack-nsm/document.cbor":  attest.Nitro,
		"../tdx/testdata/vectors/tdx/v5-td15-gotdxguest/quote.bin":  attest.TDX,
		"../tdx/testdata/vectors/tdx/v4-cmc/quote.bin":              attest.TDX,
		"../sgx/testdata/vectors/sgx/v3-cmc/quote.bin":              attest.SGX,
		"../nitro/testdata/README.md":                               0,
	} {
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := platform.Recognize(body); got != want || ok != (want != 0) {
			t.Errorf("Recognize(%s) = %s, %t, want %s", path, got, ok, want)
		}
		for _, typ := range []attest.Type{attest.SEVSNP, attest.TDX, attest.SGX, attest.Nitro} {
			if c, err := platform.OpenUnverified(typ, body); (err == nil) != (typ == want) || err == nil && c.Type != typ {
				t.Errorf("OpenUnverified(%s, %s) = %s, %v", typ, path, c.Type, err)
			}
		}
	}
	// What real evidence carries, as its descriptions say.
	for path, typ := range map[string]attest.Type{
		"sevsnp/testdata/vectors/sevsnp/genoa-v5-oak/report.bin": attest.SEVSNP, "nitro/testdata/vectors/nitro/dstack-nsm/document.cbor": attest.Nitro,
		"tdx/testdata/vectors/tdx/v5-td15-gotdxguest/quote.bin": attest.TDX, "tdx/testdata/vectors/tdx/v4-cmc/quote.bin": attest.TDX,
		"sgx/testdata/vectors/sgx/v3-cmc/quote.bin": attest.SGX,
	} {
		body, err := os.ReadFile(filepath.Join("..", path))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join("..", filepath.Dir(path), "vector.json"))
		if err != nil {
			t.Fatal(err)
		}
		var v struct {
			Fields struct {
				ReportData string `json:"report_data"`
			} `json:"fields"`
		}
		if err := json.Unmarshal(text, &v); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(platform.ReportData(typ, body)); got != v.Fields.ReportData {
			t.Errorf("%s carries %s, want %s", path, got, v.Fields.ReportData)
		}
		if got, ok := platform.Recognize(body); got != typ || !ok {
			t.Errorf("Recognize(%s) = %s, %t", path, got, ok)
		}
		if got := platform.ReportData(typ, body[:100]); got != nil {
			t.Errorf("100 bytes of %s carry %x", path, got)
		}
	}
	if got := platform.ReportData(attest.CCA, nil); got != nil {
		t.Errorf("ReportData(cca) = %x", got)
	}
	if c, err := platform.OpenUnverified(attest.CCA, nil); err == nil {
		t.Errorf("OpenUnverified(cca) = %+v", c)
	}
}
