package platform_test

import (
	"os"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/platform"
)

// TestRecognize: real evidence is known by its form, and read; other bytes are not.
func TestRecognize(t *testing.T) {
	for path, want := range map[string]attest.Type{
		"../sevsnp/testdata/vectors/sevsnp/genoa-v5-oak/report.bin": attest.SEVSNP,
		"../nitro/testdata/vectors/nitro/dstack-nsm/document.cbor":  attest.Nitro,
		"../nitro/testdata/README.md":                               0,
	} {
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := platform.Recognize(body); got != want || ok != (want != 0) {
			t.Errorf("Recognize(%s) = %s, %t, want %s", path, got, ok, want)
		}
		for _, typ := range []attest.Type{attest.SEVSNP, attest.Nitro} {
			if c, err := platform.OpenUnverified(typ, body); (err == nil) != (typ == want) || err == nil && c.Type != typ {
				t.Errorf("OpenUnverified(%s, %s) = %s, %v", typ, path, c.Type, err)
			}
		}
	}
	if c, err := platform.OpenUnverified(attest.CCA, nil); err == nil {
		t.Errorf("OpenUnverified(cca) = %+v", c)
	}
}
