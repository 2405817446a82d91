package simulated_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/nitro"
	"consilium.dev/internal/attest/sevsnp"
	"consilium.dev/internal/attest/sgx"
	"consilium.dev/internal/attest/simulated"
	"consilium.dev/internal/attest/tdx"
)

var update = flag.Bool("update", false, "make the roots in testdata anew, which takes a while")

var (
	now     = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	binding = attest.Binding{
		ReportData: sha512.Sum512([]byte("report data")), Nonce: [32]byte{1, 31: 32}, SPKI: bytes.Repeat([]byte("key"), 30),
	}
)

// roots are those in testdata: demo, a Genoa, and other, a Milan. They are kept since RSA keys of 4096 bits take their time.
var roots = sync.OnceValue(func() map[string]*simulated.Root {
	all := map[string]*simulated.Root{}
	for name, line := range map[string]string{"demo": "Genoa", "other": "Milan"} {
		path := filepath.Join("testdata", name+".json")
		if *update {
			root := must(simulated.NewRoot(name, line, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)))
			if err := os.WriteFile(path, must(root.Marshal()), 0o600); err != nil {
				panic(err)
			}
		}
		all[name] = must(simulated.ParseRoot(must(os.ReadFile(path))))
	}
	return all
})

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// verifiers trust the manufacturers and the simulated roots named.
func verifiers(t *testing.T, names ...string) map[attest.Type]attest.Verifier {
	t.Helper()
	amd, aws, intel := map[string][]*x509.Certificate{}, map[string][]*x509.Certificate{}, map[string]*x509.Certificate{}
	for _, name := range names {
		var certs []*x509.Certificate
		for _, der := range roots()[name].Certificates() {
			certs = append(certs, must(x509.ParseCertificate(der)))
		}
		amd[name], aws[name], intel[name] = certs[:2], certs[2:3], certs[3]
	}
	snp, err := sevsnp.NewVerifier(sevsnp.Options{SimulatedRoots: amd})
	if err != nil {
		t.Fatal(err)
	}
	nsm, err := nitro.NewVerifier(nitro.Options{SimulatedRoots: aws})
	if err != nil {
		t.Fatal(err)
	}
	domains, err := tdx.NewVerifier(tdx.Options{SimulatedRoots: intel})
	if err != nil {
		t.Fatal(err)
	}
	enclaves, err := sgx.NewVerifier(sgx.Options{SimulatedRoots: intel})
	if err != nil {
		t.Fatal(err)
	}
	return map[attest.Type]attest.Verifier{attest.SEVSNP: snp, attest.TDX: domains, attest.SGX: enclaves, attest.Nitro: nsm}
}

func clock() time.Time { return now }

func attested(t *testing.T, m *simulated.Machine) attest.Evidence {
	t.Helper()
	e, err := m.Attester(clock).Attest(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// judge verifies a machine's evidence at now.
func judge(t *testing.T, m *simulated.Machine, names ...string) (attest.Claims, error) {
	t.Helper()
	e := attested(t, m)
	return verifiers(t, names...)[e.Type].Verify(t.Context(), e, binding, now, nil)
}

func wantClass(t *testing.T, what string, err error, class attest.Class) {
	t.Helper()
	var refusal *attest.Error
	if !errors.As(err, &refusal) || refusal.Class != class {
		t.Errorf("%s: %v, want the class %s", what, err, class)
	}
}

// machines returns one machine of each platform under each root.
func machines(t *testing.T) map[string]*simulated.Machine {
	t.Helper()
	all := map[string]*simulated.Machine{}
	for name, root := range roots() {
		all[name+" sev-snp"] = must(root.SNP(simulated.SNPSpec{}))
		all[name+" tdx"] = must(root.TDX(simulated.TDXSpec{}))
		all[name+" sgx"] = must(root.SGX(simulated.SGXSpec{}))
		all[name+" nitro"] = must(root.Nitro(simulated.NitroSpec{}))
	}
	return all
}

// TestRootsApart: evidence passes under its own root's name only, never under another's, and never as a manufacturer's.
func TestRootsApart(t *testing.T) {
	for name, m := range machines(t) {
		t.Run(name, func(t *testing.T) {
			own, _, _ := strings.Cut(name, " ")
			other := map[string]string{"demo": "other", "other": "demo"}[own]
			for _, trusted := range [][]string{{own}, {own, other}} {
				claims, err := judge(t, m, trusted...)
				if err != nil || claims.Simulated != own {
					t.Errorf("under %v: simulated %q, %v", trusted, claims.Simulated, err)
				}
			}
			for _, trusted := range [][]string{nil, {other}} {
				_, err := judge(t, m, trusted...)
				wantClass(t, "under "+strings.Join(trusted, ","), err, attest.ClassChain)
			}
			if got := m.Attester(clock).Simulated(); got != own {
				t.Errorf("Simulated = %q, want %q", got, own)
			}
		})
	}
}

// TestCertificatesSayWhatTheyAre: nobody who looks at one takes it for a manufacturer's.
func TestCertificatesSayWhatTheyAre(t *testing.T) {
	for name, root := range roots() {
		for i, der := range root.Certificates() {
			if got := must(x509.ParseCertificate(der)).Subject.SerialNumber; got != "SIMULATED "+name {
				t.Errorf("certificate %d of %s has the serial number %q in its subject", i, name, got)
			}
		}
	}
	e := attested(t, must(roots()["demo"].SNP(simulated.SNPSpec{})))
	if got := must(x509.ParseCertificate(e.Collateral[0].Bytes)).Subject.SerialNumber; got != "SIMULATED demo" {
		t.Errorf("a VCEK has the serial number %q in its subject", got)
	}
}

// TestAttester: the rest of what an attester is.
func TestAttester(t *testing.T) {
	for name, m := range machines(t) {
		a := m.Attester(clock)
		e := attested(t, m)
		if got := a.Types(); len(got) != 1 || got[0] != e.Type || !strings.HasSuffix(name, e.Type.String()) {
			t.Errorf("%s: Types = %v, the evidence is of the type %s", name, got, e.Type)
		}
		if got, err := a.Devices(t.Context(), nil); got != nil || err != nil {
			t.Errorf("%s: Devices = %v, %v", name, got, err)
		}
		canceled, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("no longer wanted"))
		if _, err := a.Attest(canceled, binding); err == nil || !strings.Contains(err.Error(), "no longer wanted") {
			t.Errorf("%s: Attest after its context's end = %v", name, err)
		}
		for part, spoil := range map[string]func(*attest.Binding){
			"report data": func(b *attest.Binding) { b.ReportData[63] ^= 1 },
			"nonce":       func(b *attest.Binding) { b.Nonce[0] ^= 1 },
			"key":         func(b *attest.Binding) { b.SPKI = append([]byte("x"), b.SPKI[1:]...) },
		} {
			b := binding
			spoil(&b)
			_, err := verifiers(t, "demo", "other")[e.Type].Verify(t.Context(), e, b, now, nil)
			if e.Type != attest.Nitro && part != "report data" {
				if err != nil {
					t.Errorf("%s: another %s, which a report does not carry: %v", name, part, err)
				}
				continue
			}
			wantClass(t, name+": another "+part, err, attest.ClassBind)
		}
	}
	m := must(roots()["demo"].Nitro(simulated.NitroSpec{}))
	for _, size := range []int{0, 1025} {
		if _, err := m.Attester(clock).Attest(t.Context(), attest.Binding{SPKI: make([]byte, size)}); err == nil {
			t.Errorf("Attest took a public key of %d bytes", size)
		}
	}
}

// TestConcurrent: one attester may be asked by several at once; -race watches.
func TestConcurrent(t *testing.T) {
	v := verifiers(t, "demo")
	for _, m := range []*simulated.Machine{must(roots()["demo"].SNP(simulated.SNPSpec{})), must(roots()["demo"].TDX(simulated.TDXSpec{})), must(roots()["demo"].Nitro(simulated.NitroSpec{}))} {
		a := m.Attester(clock)
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				b := binding
				b.ReportData[0] = byte(i)
				e, err := a.Attest(t.Context(), b)
				if err == nil {
					_, err = v[e.Type].Verify(t.Context(), e, b, now, nil)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
}

// TestExpired: evidence of a root, and a document, past their time.
func TestExpired(t *testing.T) {
	v := verifiers(t, "demo")
	for name, m := range machines(t) {
		if !strings.HasPrefix(name, "demo") {
			continue
		}
		e := attested(t, m)
		for at, when := range map[time.Time]string{
			now.AddDate(11, 0, 0): "after its root", now.AddDate(-1, 0, 0): "before its root",
		} {
			_, err := v[e.Type].Verify(t.Context(), e, binding, at, nil)
			wantClass(t, name+" "+when, err, attest.ClassTime)
		}
	}
	e := attested(t, must(roots()["demo"].Nitro(simulated.NitroSpec{})))
	for _, at := range []time.Time{now.Add(3*time.Hour + time.Second), now.Add(-4 * time.Second)} {
		_, err := v[e.Type].Verify(t.Context(), e, binding, at, nil)
		wantClass(t, "a document at "+at.String(), err, attest.ClassTime)
	}
}

// TestNewRoot makes one root, with keys of full length.
func TestNewRoot(t *testing.T) {
	if testing.Short() {
		t.Skip("two RSA keys of 4096 bits take seconds")
	}
	t.Parallel()
	root, err := simulated.NewRoot("a-1", "Turin", now)
	if err != nil {
		t.Fatal(err)
	}
	again, err := simulated.ParseRoot(must(root.Marshal()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(root.Certificates(), again.Certificates()); diff != "" {
		t.Error(diff)
	}
	for i, der := range root.Certificates() {
		cert := must(x509.ParseCertificate(der))
		if from, to := now.Add(-time.Hour), now.Add(-time.Hour).Add(10*365*24*time.Hour); !cert.NotBefore.Equal(from) || !cert.NotAfter.Equal(to) {
			t.Errorf("certificate %d is valid from %s to %s, want %s to %s", i, cert.NotBefore, cert.NotAfter, from, to)
		}
	}
	testTurin(t, again)
}

// testTurin: a Turin's TCBs have an FMC and another order, its chip's id 8 bytes, and its evidence the real form.
func testTurin(t *testing.T, root *simulated.Root) {
	t.Helper()
	low, high := attest.TCB{FMC: 3, Bootloader: 9, TEE: 1, SNP: 23, Microcode: 200}, attest.TCB{FMC: 4, Bootloader: 9, TEE: 1, SNP: 24, Microcode: 201}
	spec := simulated.SNPSpec{Reported: &low, Current: &high, ChipID: [64]byte(bytes.Repeat([]byte{0xc5}, 64))}
	var certs []*x509.Certificate
	for _, der := range root.Certificates()[:2] {
		certs = append(certs, must(x509.ParseCertificate(der)))
	}
	v := must(sevsnp.NewVerifier(sevsnp.Options{SimulatedRoots: map[string][]*x509.Certificate{"a-1": certs}}))
	claims, err := v.Verify(t.Context(), attested(t, must(root.SNP(spec))), binding, now, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := [64]byte{0xc5, 0xc5, 0xc5, 0xc5, 0xc5, 0xc5, 0xc5, 0xc5}
	if s := claims.SNP; s.ProductLine != "Turin" || s.Reported != low || s.Launch != low || s.Current != high || s.ChipID != want || s.ChipMasked {
		t.Errorf("claims %+v", s)
	}
	if _, err := root.SNP(simulated.SNPSpec{Reported: &attest.TCB{FMC: 128}}); err == nil {
		t.Error("an FMC of 128: SNP took it")
	}
}

func TestNewRootRefuses(t *testing.T) {
	for _, test := range []struct{ name, line, want string }{
		{"", "Genoa", "0 bytes, want 1 to 63"},
		{strings.Repeat("a", 64), "Genoa", "64 bytes"},
		{"Demo", "Genoa", "want a-z"},
		{"a b", "Genoa", "want a-z"},
		{"amd", "Genoa", "is a manufacturer's"},
		{"aws", "Genoa", "is a manufacturer's"},
		{"demo", "Rome", "want Milan, Genoa or Turin"},
		{"demo", "", "want Milan, Genoa or Turin"},
	} {
		if _, err := simulated.NewRoot(test.name, test.line, now); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("NewRoot(%q, %q) = %v, want an error with %q", test.name, test.line, err, test.want)
		}
	}
}
