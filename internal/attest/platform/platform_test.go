package platform_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hf/nitrite"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap/dcaptest"
	"consilium.dev/internal/attest/hardware/hardwaretest"
	"consilium.dev/internal/attest/platform"
	"consilium.dev/internal/attest/simulated"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// root returns one of the roots whose files package simulated keeps for tests.
func root(t *testing.T, name string) *simulated.Root {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "simulated", "testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := simulated.ParseRoot(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// written returns the path of a machine's file.
func written(t *testing.T, m *simulated.Machine, mode os.FileMode) string {
	t.Helper()
	text, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "machine.json")
	if err := os.WriteFile(path, text, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestOpen: machines of all platforms, opened from their files, make evidence that the verifiers of their root's
// certificates take, and no others.
func TestOpen(t *testing.T) {
	demo := root(t, "demo")
	snp, err := demo.SNP(simulated.SNPSpec{})
	if err != nil {
		t.Fatal(err)
	}
	nitro, err := demo.Nitro(simulated.NitroSpec{})
	if err != nil {
		t.Fatal(err)
	}
	domain, err := demo.TDX(simulated.TDXSpec{})
	if err != nil {
		t.Fatal(err)
	}
	enclave, err := demo.SGX(simulated.SGXSpec{})
	if err != nil {
		t.Fatal(err)
	}
	b := attest.Binding{ReportData: [64]byte{1}, Nonce: [32]byte{2}, SPKI: []byte("key")}
	for typ, m := range map[attest.Type]*simulated.Machine{
		attest.SEVSNP: snp, attest.TDX: domain, attest.SGX: enclave, attest.Nitro: nitro,
	} {
		t.Run(typ.String(), func(t *testing.T) {
			a, err := platform.Open(t.Context(), "simulated:"+written(t, m, 0o600), host(&hardwaretest.Machine{}))
			if err != nil {
				t.Fatal(err)
			}
			e, err := a.Attest(t.Context(), b)
			if err != nil || e.Type != typ || a.Simulated() != "demo" {
				t.Fatalf("Attest = evidence of the type %s, %v, simulated %q", e.Type, err, a.Simulated())
			}
			for name, o := range map[string]platform.Options{
				"demo": {SimulatedRoots: map[string][][]byte{"demo": demo.Certificates()}},
				"both": {SimulatedRoots: map[string][][]byte{"demo": demo.Certificates(), "other": root(t, "other").Certificates()}},
				"":     {},
			} {
				claims, err := verifier(t, o, typ).Verify(t.Context(), e, b, now, nil)
				if name == "" && err == nil || name != "" && (err != nil || claims.Simulated != "demo") {
					t.Errorf("under the roots %q: simulated %q, %v", name, claims.Simulated, err)
				}
			}
		})
	}
}

func verifier(t *testing.T, o platform.Options, typ attest.Type) attest.Verifier {
	t.Helper()
	all, err := platform.Verifiers(o)
	if err != nil {
		t.Fatal(err)
	}
	var types []attest.Type
	for _, v := range all {
		types = append(types, v.Type())
	}
	if want := []attest.Type{attest.SEVSNP, attest.TDX, attest.SGX, attest.Nitro}; !slices.Equal(types, want) {
		t.Fatalf("Verifiers of %v, want %v", types, want)
	}
	return all[slices.Index(types, typ)]
}

// TestIntelRoot: a private root on P-256 is Intel's part of a simulated platform, for SGX and TDX alike.
func TestIntelRoot(t *testing.T) {
	roots := map[string][][]byte{"a": {dcaptest.Trusted().Root.Raw}}
	for _, s := range []*dcaptest.Scene{dcaptest.NewTDX(), dcaptest.NewSGX()} {
		e := s.Evidence()
		claims, err := verifier(t, platform.Options{SimulatedRoots: roots}, s.Type).Verify(t.Context(), e, s.Binding, s.Now, nil)
		if err != nil || claims.Simulated != "a" {
			t.Errorf("%s: Verify = simulated %q, %v", s.Type, claims.Simulated, err)
		}
		if _, err := verifier(t, platform.Options{}, s.Type).Verify(t.Context(), e, s.Binding, s.Now, nil); err == nil {
			t.Errorf("%s: evidence of a root that nobody named was taken", s.Type)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	m, err := root(t, "demo").Nitro(simulated.NitroSpec{})
	if err != nil {
		t.Fatal(err)
	}
	good := written(t, m, 0o600)
	damaged := filepath.Join(t.TempDir(), "damaged")
	if err := os.WriteFile(damaged, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, uri, want string }{
		{"nothing", "", "or simulated:PATH"},
		{"a path alone", good, "or simulated:PATH"},
		{"scheme in another case", "Simulated:" + good, "or simulated:PATH"},
		{"no path", "simulated:", "or simulated:PATH"},
		{"no path and no colon", "simulated", "or simulated:PATH"},
		{"no device", "nitro:", "want auto, sev-snp, tdx, sgx or nitro"},
		{"auto with a device", "auto:/dev/nsm", "want auto, "},
		{"a type of evidence that no machine makes", "signature", "want auto, "},
		{"a platform of another version", "cca", "want auto, "},
		{"no such file", "simulated:" + good + ".not", "does not exist"},
		{"a folder", "simulated:" + filepath.Dir(good), "platform simulated:"},
		{"a file that others may read", "simulated:" + written(t, m, 0o644), "chmod 600"},
		{"a damaged file", "simulated:" + damaged, "a simulated machine: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, err := platform.Open(t.Context(), test.uri, host(&hardwaretest.Machine{}))
			if err == nil || a != nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Open(%q) = %v, %v, want an error with %q", test.uri, a, err, test.want)
			}
		})
	}
}

func TestVerifiersRefuses(t *testing.T) {
	demo, other := root(t, "demo").Certificates(), root(t, "other").Certificates()
	for _, test := range []struct {
		name  string
		roots map[string][][]byte
		want  string
	}{
		{"no certificate", map[string][][]byte{"a": {[]byte("MII")}}, `simulated root "a": certificate 0`},
		{"bytes behind a certificate", map[string][][]byte{"a": {demo[0], append(demo[1][:len(demo[1]):len(demo[1])], 0)}}, "certificate 1"},
		{"a key of another kind", map[string][][]byte{"a": {onEd25519(t)}}, "a key of the kind Ed25519"},
		{"a root without its intermediate", map[string][][]byte{"a": {demo[0], demo[2]}}, "roots of sev-snp: "},
		{"another root's intermediate", map[string][][]byte{"a": {demo[0], other[1], demo[2]}}, "roots of sev-snp: "},
		{"two of AWS's part", map[string][][]byte{"a": append(demo[:3:3], other[2])}, "roots of nitro: "},
		{"one root under two names", map[string][][]byte{"a": demo, "b": demo}, "is that of another root"},
		{"no name", map[string][][]byte{"": demo}, "want a name"},
		{"AMD's own", map[string][][]byte{"a": amd(t)}, "is that of another root"},
		{"AWS's own", map[string][][]byte{"a": {aws(t)}}, "is that of another root"},
		{"two of Intel's part", map[string][][]byte{"a": {dcaptest.Trusted().Root.Raw, dcaptest.Stranger().Root.Raw}}, "the second of Intel's part"},
		{"no authority in Intel's part", map[string][][]byte{"a": {dcaptest.Trusted().TCBSigning.Raw}}, "roots of tdx: "},
		{"Intel's own", map[string][][]byte{"a": {intel(t)}}, "is that of another root"},
	} {
		t.Run(test.name, func(t *testing.T) {
			all, err := platform.Verifiers(platform.Options{SimulatedRoots: test.roots})
			if err == nil || all != nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Verifiers = %v, %v, want an error with %q", all, err, test.want)
			}
		})
	}
	// A root may stand in for one platform only.
	for _, part := range [][][]byte{demo[:2], demo[2:]} {
		if _, err := platform.Verifiers(platform.Options{SimulatedRoots: map[string][][]byte{"a": part}}); err != nil {
			t.Errorf("Verifiers of one platform's part = %v", err)
		}
	}
}

func onEd25519(t *testing.T) []byte {
	t.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a"}, NotBefore: now, NotAfter: now.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(nil, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// intel returns Intel's root.
func intel(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("../dcap/intel-sgx-root.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	return block.Bytes
}

// aws returns AWS's root.
func aws(t *testing.T) []byte {
	t.Helper()
	block, _ := pem.Decode([]byte(nitrite.DefaultCARoots))
	return block.Bytes
}

// amd returns AMD's root and intermediate for Genoa, out of the certificate table of real evidence.
func amd(t *testing.T) [][]byte {
	t.Helper()
	table, err := os.ReadFile("../sevsnp/testdata/vectors/sevsnp/genoa-v3-certtable-veraison/certtable.bin")
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string][]byte{}
	for i := 0; binary.LittleEndian.Uint32(table[i+20:]) != 0; i += 24 {
		from, size := binary.LittleEndian.Uint32(table[i+16:]), binary.LittleEndian.Uint32(table[i+20:])
		block, _ := pem.Decode(table[from : from+size])
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		byName[cert.Subject.CommonName] = bytes.Clone(cert.Raw)
	}
	return [][]byte{byName["ARK-Genoa"], byName["SEV-Genoa"]}
}
