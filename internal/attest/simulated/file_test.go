package simulated_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest/simulated"
)

// TestFiles: what was written is read as the same root or machine, whose evidence passes.
func TestFiles(t *testing.T) {
	for name, root := range roots() {
		text := must(root.Marshal())
		again, err := simulated.ParseRoot(text)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(must(again.Marshal()), text) {
			t.Errorf("root %s: written, read and written again it differs", name)
		}
		claims, err := judge(t, must(again.SNP(simulated.SNPSpec{})), name)
		if err != nil || claims.Simulated != name {
			t.Errorf("a machine of the root read back: %v", err)
		}
	}
	for name, m := range machines(t) {
		t.Run(name, func(t *testing.T) {
			text := must(m.Marshal())
			again, err := simulated.ParseMachine(text)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(must(again.Marshal()), text) {
				t.Errorf("written, read and written again it differs:\n%s", text)
			}
			one, err := judge(t, m, "demo", "other")
			if err != nil {
				t.Fatal(err)
			}
			two, err := judge(t, again, "demo", "other")
			if err != nil {
				t.Fatal(err)
			}
			one.Signed, two.Signed = [32]byte{}, [32]byte{} // a Nitro document has a new certificate each time
			if diff := cmp.Diff(one, two); diff != "" {
				t.Errorf("claims (-written +read):\n%s", diff)
			}
		})
	}
}

// damage is one way in which a file goes bad.
type damage struct {
	name, old, new, want string
}

var anyFile = []damage{
	{"nothing", "*", "", "EOF"},
	{"cut off", "\n}\n", "", "unexpected EOF"},
	{"something after it", "\n}\n", "\n}\n{}", "not as it was written"},
	{"no newline at its end", "\n}\n", "\n}", "not as it was written"},
	{"unknown field", "{\n", "{\n  \"more\": 1,\n", "unknown field"},
	{"doubled field", "{\n", "{\n  \"format\": \"x\",\n", "not as it was written"},
	{"field in another case", `"format"`, `"Format"`, "not as it was written"},
	{"another version", `/1"`, `/2"`, "format is"},
	{"a list", "*", "[]", "cannot unmarshal"},
	{"null", "*", "null\n", ""},
	{"too long", "{\n", "{" + strings.Repeat("\n", 64<<10), "bytes, want at most"},
}

func (d damage) apply(t *testing.T, text string) []byte {
	t.Helper()
	if d.old == "*" {
		return []byte(d.new)
	}
	if !strings.Contains(text, d.old) {
		t.Fatalf("the file has no %q", d.old)
	}
	return []byte(strings.Replace(text, d.old, d.new, 1))
}

func TestParseMachineRefuses(t *testing.T) {
	root := roots()["demo"]
	files := map[string]string{
		"sev-snp": string(must(must(root.SNP(simulated.SNPSpec{})).Marshal())),
		"tdx":     string(must(must(root.TDX(simulated.TDXSpec{})).Marshal())),
		"sgx":     string(must(must(root.SGX(simulated.SGXSpec{})).Marshal())),
		"nitro":   string(must(must(root.Nitro(simulated.NitroSpec{})).Marshal())),
	}
	own := map[string][]damage{
		"sev-snp": {
			{"name of a root", `"root": "demo"`, `"root": "Demo"`, "want a-z"},
			{"format of a Nitro machine", "simulated-sev-snp", "simulated-nitro", "fields of another machine"},
			{"report of another length", `"report": "`, `"report": "AAAA`, "report has 1187 bytes"},
			{"certificate", `"vcek": "MII`, `"vcek": "AAA`, "vcek: certificate 0"},
			{"key", `"key": "MI`, `"key": "AA`, "key: "},
			{"fields of a Nitro machine", `"vcek"`, `"module_id": "x",` + "\n  " + `"vcek"`, "not as it was written"},
			{"base64 in another spelling", `"report": "BQ`, `"report": "B\u0051`, "not as it was written"},
		},
		"tdx": {
			{"format of an SGX machine", "simulated-tdx", "simulated-sgx", "quote: PARSE: a quote of the version 5"},
			{"format of a Nitro machine", "simulated-tdx", "simulated-nitro", "fields of another machine"},
			{"quote", `"quote": "BQ`, `"quote": "BA`, "quote: PARSE: "},
			{"key", `"key": "MI`, `"key": "AA`, "key: "},
			{"collateral of a kind that is none", `"kind": 4`, `"kind": 400`, "cannot unmarshal"},
		},
		"sgx": {
			{"format of a TDX machine", "simulated-sgx", "simulated-tdx", "quote: PARSE: a quote of the version 3"},
			{"format of a SEV-SNP machine", "simulated-sgx", "simulated-sev-snp", "fields of another machine"},
			{"key", `"key": "MI`, `"key": "AA`, "key: "},
		},
		"nitro": {
			{"format of a SEV-SNP machine", "simulated-nitro", "simulated-sev-snp", "fields of another machine"},
			{"no module id", `"module_id": "i-`, `"module_id": "",` + "\n" + `"x": "`, "unknown field"},
			{"register that is a word", `"0": "`, `"zero": "`, "cannot unmarshal"},
			{"certificate of the bundle", `"MII`, `"AAA`, "bundle: certificate 0"},
			{"key", `"key": "MI`, `"key": "AA`, "key: "},
		},
	}
	for kind, text := range files {
		for _, d := range append(own[kind], anyFile...) {
			t.Run(kind+"/"+d.name, func(t *testing.T) {
				_, err := simulated.ParseMachine(d.apply(t, text))
				if err == nil || !strings.Contains(err.Error(), d.want) {
					t.Errorf("ParseMachine = %v, want an error with %q", err, d.want)
				}
			})
		}
		for i := 0; i < len(text); i += 7 {
			if _, err := simulated.ParseMachine([]byte(text[:i])); err == nil {
				t.Errorf("%s: ParseMachine took the first %d of %d bytes", kind, i, len(text))
			}
		}
	}
	if _, err := simulated.ParseMachine(must(root.Marshal())); err == nil {
		t.Error("ParseMachine took a root's file")
	}
	if _, err := simulated.ParseRoot([]byte(files["nitro"])); err == nil {
		t.Error("ParseRoot took a machine's file")
	}
}

// TestParseMachineForeignKeys: a key that is not the certificate's, or of another kind.
func TestParseMachineForeignKeys(t *testing.T) {
	root := roots()["demo"]
	one, two := must(root.SNP(simulated.SNPSpec{})), must(root.SNP(simulated.SNPSpec{}))
	var a, b struct {
		Format string `json:"format"`
		Root   string `json:"root"`
		Key    string `json:"key"`
		Report string `json:"report"`
		VCEK   string `json:"vcek"`
	}
	if json.Unmarshal(must(one.Marshal()), &a) != nil || json.Unmarshal(must(two.Marshal()), &b) != nil {
		t.Fatal("a machine's file is not JSON")
	}
	p256 := must(ecdsa.ParseRawPrivateKey(elliptic.P256(), big.NewInt(5).FillBytes(make([]byte, 32))))
	var rsa struct {
		Key string `json:"ask_key"`
	}
	if err := json.Unmarshal(must(root.Marshal()), &rsa); err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]string{
		"another machine's":    b.Key,
		"of RSA":               rsa.Key,
		"on P-256":             base64.StdEncoding.EncodeToString(must(x509.MarshalPKCS8PrivateKey(p256))),
		"no key, but a number": "AQ==",
	} {
		bad := a
		bad.Key = key
		if _, err := simulated.ParseMachine(append(must(json.MarshalIndent(bad, "", "  ")), '\n')); err == nil || !strings.Contains(err.Error(), "key: ") {
			t.Errorf("a key that is %s: ParseMachine = %v", name, err)
		}
	}
}

func TestParseRootRefuses(t *testing.T) {
	text := string(must(roots()["demo"].Marshal()))
	var demo, other map[string]string
	if json.Unmarshal([]byte(text), &demo) != nil || json.Unmarshal(must(roots()["other"].Marshal()), &other) != nil {
		t.Fatal("a root's file is not JSON")
	}
	swap := func(name, field string, with map[string]string, want string) damage {
		return damage{name, `"` + demo[field] + `"`, `"` + with[field] + `"`, want}
	}
	for _, d := range append([]damage{
		{"name", `"name": "demo"`, `"name": "Demo"`, "want a-z"},
		{"a manufacturer's name", `"name": "demo"`, `"name": "amd"`, "is a manufacturer's"},
		{"product line", `"product_line": "Genoa"`, `"product_line": "Rome"`, "want Milan, Genoa or Turin"},
		swap("another root's ARK", "ark", other, "simulated root"),
		swap("another root's ASK", "ask", other, "ask_key: not the key of the certificate"),
		swap("another root's key of the ASK", "ask_key", other, "ask_key: not the key of the certificate"),
		swap("another root's Nitro certificate", "nitro", other, "nitro_key: not the key of the certificate"),
		swap("another root's Intel root", "intel", other, "Intel SGX PCK Platform CA: "),
		swap("another root's Intel CA", "intel_ca", other, "intel_ca_key: not the key of the certificate"),
		swap("another root's key of Intel's CA", "intel_ca_key", other, "intel_ca_key: not the key of the certificate"),
		swap("another root's signer of TCB info", "intel_tcb", other, "intel_tcb_key: not the key of the certificate"),
		swap("another root's key of that signer", "intel_tcb_key", other, "intel_tcb_key: not the key of the certificate"),
		swap("another root's list", "intel_root_crl", other, "the revocation list of Intel SGX Root CA"),
		swap("another root's list of Intel's CA", "intel_ca_crl", other, "the revocation list of Intel SGX PCK Platform CA"),
		{"a part of Intel's part", `"intel": "` + demo["intel"] + `",` + "\n  ", "", "intel: certificate 0"},
		{"Intel's key on another curve", demo["intel_ca_key"], demo["nitro_key"], "on the curve P-384, want P-256"},
		swap("another root's Nitro key", "nitro_key", other, "nitro_key: not the key of the certificate"),
		{"keys exchanged", `"` + demo["ask_key"] + `"`, `"` + demo["nitro_key"] + `"`, "ask_key: a *ecdsa.PrivateKey"},
		{"certificate that does not parse", `"ark": "MII`, `"ark": "AAA`, "certificate 0"},
	}, anyFile...) {
		t.Run(d.name, func(t *testing.T) {
			_, err := simulated.ParseRoot(d.apply(t, text))
			if err == nil || !strings.Contains(err.Error(), d.want) {
				t.Errorf("ParseRoot = %v, want an error with %q", err, d.want)
			}
		})
	}
}

// TestParseRootOneBit alters one bit of each certificate: no root with a certificate that does not verify is read.
func TestParseRootOneBit(t *testing.T) {
	var demo map[string]string
	text := string(must(roots()["demo"].Marshal()))
	if err := json.Unmarshal([]byte(text), &demo); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"ark", "ask", "nitro", "intel", "intel_ca", "intel_tcb", "intel_root_crl", "intel_ca_crl"} {
		der := must(base64.StdEncoding.DecodeString(demo[field]))
		der[len(der)-1] ^= 1 // in the signature
		bad := strings.Replace(text, demo[field], base64.StdEncoding.EncodeToString(der), 1)
		if _, err := simulated.ParseRoot([]byte(bad)); err == nil {
			t.Errorf("%s: ParseRoot took a certificate with a bit of its signature altered", field)
		}
	}
}

// FuzzParse: nobody's bytes panic, and what is read is written as it was.
func FuzzParse(f *testing.F) {
	root := roots()["demo"]
	f.Add(must(root.Marshal()))
	f.Add(must(must(root.SNP(simulated.SNPSpec{})).Marshal()))
	f.Add(must(must(root.TDX(simulated.TDXSpec{})).Marshal()))
	f.Add(must(must(root.SGX(simulated.SGXSpec{})).Marshal()))
	f.Add(must(must(root.Nitro(simulated.NitroSpec{})).Marshal()))
	f.Fuzz(func(t *testing.T, text []byte) {
		if m, err := simulated.ParseMachine(text); err == nil && !bytes.Equal(must(m.Marshal()), text) {
			t.Errorf("a machine read from %s is written as %s", text, must(m.Marshal()))
		}
		if r, err := simulated.ParseRoot(text); err == nil && !bytes.Equal(must(r.Marshal()), text) {
			t.Errorf("a root read from %s is written as %s", text, must(r.Marshal()))
		}
	})
}
