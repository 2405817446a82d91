package dcap_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"slices"
	"testing"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap"
	"consilium.dev/internal/attest/dcap/dcaptest"
)

// intel returns Intel's root, from the file that the package compiles in.
func intel(t *testing.T) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile("intel-sgx-root.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestAccepted: what must not be refused, and what the verdict then says.
func TestAccepted(t *testing.T) {
	p := dcaptest.Trusted()
	day := 24 * time.Hour
	for _, a := range []struct {
		name  string
		make  func(*scene)
		holds func(v dcap.Verdict) bool
	}{
		{"plain", func(*scene) {}, func(v dcap.Verdict) bool {
			d := v.Platform
			return v.Simulated == "test" && v.RevocationChecked && v.CollateralFrom.Equal(now.Add(-2*day)) &&
				d.FMSPC == [6]byte(dcaptest.FMSPC) && d.PPID == [16]byte(dcaptest.PPID) && d.Instance == [16]byte(dcaptest.Instance) &&
				d.CA == "platform" && d.QESVN == 4 && d.TCB.Checked && d.TCB.Status == "UpToDate" && d.TCB.Platform == "UpToDate" &&
				d.TCB.QE == "UpToDate" && len(d.TCB.Advisories) == 0 && d.TCB.Evaluation == 18 &&
				d.TCB.Date.Equal(time.Date(2024, 11, 13, 0, 0, 0, 0, time.UTC))
		}},
		{"certified by the processor's authority", func(s *scene) { s.Processor() }, func(v dcap.Verdict) bool {
			return v.Platform.CA == "processor" && v.Platform.Instance == [16]byte{} && v.RevocationChecked
		}},
		{"padded with zeros", func(s *scene) { s.Written = func(q []byte) []byte { return append(q, make([]byte, 3065)...) } }, func(v dcap.Verdict) bool {
			return v.Simulated == "test"
		}},
		{"no zero behind the certificates", chain(func(p []byte) []byte { return p }), func(v dcap.Verdict) bool { return v.Simulated == "test" }},
		{"no newline behind the certificates", chain(func(p []byte) []byte { return p[:len(p)-1] }), func(v dcap.Verdict) bool { return v.Simulated == "test" }},
		{"no collateral", func(s *scene) { s.Info, s.Identity, s.Signer, s.Lists = nil, nil, nil, nil }, func(v dcap.Verdict) bool {
			return !v.RevocationChecked && v.CollateralFrom.IsZero() && !v.Platform.TCB.Checked && v.Platform.TCB.Status == ""
		}},
		{"TCB info alone", func(s *scene) { s.Identity = nil }, func(v dcap.Verdict) bool { return !v.Platform.TCB.Checked && v.Platform.TCB.Status == "" }},
		{"QE identity alone", func(s *scene) { s.Info = nil }, func(v dcap.Verdict) bool { return !v.Platform.TCB.Checked && v.Platform.TCB.QE == "" }},
		{"B66 no list of the root", func(s *scene) { s.Lists = s.Lists[1:] }, func(v dcap.Verdict) bool { return !v.RevocationChecked }},
		{"no list of the intermediate", func(s *scene) { s.Lists = s.Lists[:1] }, func(v dcap.Verdict) bool { return !v.RevocationChecked }},
		{"all held here", func(s *scene) {
			s.Held = s.Collateral()
			s.Info, s.Identity, s.Signer, s.Lists = nil, nil, nil, nil
		}, func(v dcap.Verdict) bool { return v.RevocationChecked && v.Platform.TCB.Status == "UpToDate" }},
		{"held, for this platform and for others", func(s *scene) {
			fresh, levels := s.Info["issueDate"], s.Info["tcbLevels"]
			s.Held = append(s.Collateral(), dcaptest.List(dcaptest.Stranger().Root), dcaptest.List(p.Processor))
			for name, value := range map[string]any{"fmspc": "000000000000", "id": "OTHER", "version": 2} {
				was := s.Info[name]
				s.Info[name], s.Info["issueDate"], s.Info["tcbLevels"] = value, at(0), []any{dcaptest.Level("OutOfDate", 1, 1, 1)}
				s.Held = append(s.Held, s.InfoItem())
				s.Info[name], s.Info["issueDate"], s.Info["tcbLevels"] = was, fresh, levels
			}
			s.InfoBy, s.Info["tcbEvaluationDataNumber"] = dcaptest.Stranger().TCBSigning, 99
			s.Held = append(s.Held, s.InfoItem())
			s.Info, s.Identity, s.Signer, s.Lists = nil, nil, nil, nil
		}, func(v dcap.Verdict) bool {
			return v.RevocationChecked && v.Platform.TCB.Evaluation == 18 && v.Platform.TCB.Status == "UpToDate"
		}},
		{"of two held, the newer", func(s *scene) {
			s.Held = attest.Collateral{s.InfoItem()}
			s.Info["issueDate"], s.Info["tcbLevels"] = at(-time.Hour), []any{dcaptest.Level("OutOfDate", 1, 1, 1)}
			s.Held = append(s.Held, s.InfoItem())
			s.Info["issueDate"], s.Info["tcbLevels"] = at(-3*day), []any{dcaptest.Level("ConfigurationNeeded", 1, 1, 1)}
			s.Held = append(s.Held, s.InfoItem())
			s.Info = nil
		}, func(v dcap.Verdict) bool { return v.Platform.TCB.Status == "OutOfDate" }},
		{"of two held, the one of the later recovery, though issued before", func(s *scene) {
			s.Info["issueDate"] = at(-time.Hour)
			s.Held = attest.Collateral{s.InfoItem()}
			s.Info["issueDate"], s.Info["tcbEvaluationDataNumber"], s.Identity["tcbEvaluationDataNumber"] = at(-2*day), 19, 19
			s.Held = append(s.Held, s.InfoItem())
			s.Info = nil
		}, func(v dcap.Verdict) bool { return v.Platform.TCB.Evaluation == 19 }},
		{"expired and held, where a current one was sent", func(s *scene) {
			until := s.Info["nextUpdate"]
			s.Info["nextUpdate"] = at(-time.Second)
			s.Held = attest.Collateral{s.InfoItem(), dcaptest.List(p.Root, func(l *x509.RevocationList) { l.NextUpdate = now.Add(-time.Hour) })}
			s.Info["nextUpdate"] = until
		}, func(v dcap.Verdict) bool { return v.RevocationChecked && v.Platform.TCB.Checked }},
		{"expired list held, and none sent", func(s *scene) {
			s.Held = attest.Collateral{dcaptest.List(p.Root, func(l *x509.RevocationList) { l.NextUpdate = now.Add(-time.Hour) })}
			s.Lists = s.Lists[1:]
		}, func(v dcap.Verdict) bool { return !v.RevocationChecked }},
		{"lists held of another root, one of which names this intermediate", func(s *scene) {
			stranger := dcaptest.Stranger()
			s.Held = attest.Collateral{dcaptest.List(stranger.Root, dcaptest.Revoking(2)), dcaptest.List(stranger.Platform, dcaptest.Revoking(dcaptest.LeafSerial))}
			s.Lists = nil
		}, func(v dcap.Verdict) bool { return !v.RevocationChecked }},
		{"lists held by these keys under another name", func(s *scene) {
			s.Held = attest.Collateral{dcaptest.List(as(p.Root, p.TCBSigning)), dcaptest.List(as(p.Platform, p.TCBSigning), dcaptest.Revoking(dcaptest.LeafSerial))}
			s.Lists = nil
		}, func(v dcap.Verdict) bool { return !v.RevocationChecked }},
		{"lists without numbers", func(s *scene) {
			s.Lists[0] = dcaptest.WithoutNumber(s.Lists[0], p.Root)
			s.Held = attest.Collateral{s.Lists[0]}
		}, func(v dcap.Verdict) bool { return v.RevocationChecked }},
		{"the oldest of all collateral counts", func(s *scene) {
			s.Lists[0] = dcaptest.List(p.Root, func(l *x509.RevocationList) { l.ThisUpdate = now.Add(-9 * day) })
		}, func(v dcap.Verdict) bool { return v.CollateralFrom.Equal(now.Add(-9 * day)) }},
		{"a list with a higher number than that which is held", func(s *scene) {
			s.Held = attest.Collateral{dcaptest.List(p.Root, func(l *x509.RevocationList) { l.Number = big.NewInt(4) })}
		}, func(v dcap.Verdict) bool { return v.RevocationChecked }},
		{"the signer as a bare certificate", func(s *scene) {
			s.More, s.Signer = attest.Collateral{{Kind: attest.KindCertificate, Bytes: s.Signer.Raw}}, nil
		}, func(v dcap.Verdict) bool { return v.Platform.TCB.Checked }},
		{"two signers, the older of which is not the one", func(s *scene) {
			signer(func(*x509.Certificate) {})(s)
			s.More = attest.Collateral{{Kind: attest.KindCertificate, Bytes: p.TCBSigning.Raw}}
			s.InfoBy = p.TCBSigning
		}, func(v dcap.Verdict) bool { return v.Platform.TCB.Checked }},
		{
			"foreign kinds of collateral", func(s *scene) {
				s.More = attest.Collateral{{Kind: attest.KindEventLog, Bytes: []byte("x")}, {Kind: 200}}
			},
			func(v dcap.Verdict) bool { return v.Platform.TCB.Checked },
		},
	} {
		for name, scene := range map[string]func() *scene{"TDX": dcaptest.NewTDX, "SGX": dcaptest.NewSGX} {
			t.Run(name+"/"+a.name, func(t *testing.T) {
				s := scene()
				a.make(s)
				v, err := verify(t, s)
				if err != nil {
					t.Fatal(err)
				}
				if !a.holds(v) {
					t.Errorf("verdict %+v", v)
				}
			})
		}
	}
}

// TestConverge: what a platform's standing is by its own level, its module's and its quoting enclave's, and the advisories of the
// levels that were matched.
func TestConverge(t *testing.T) {
	for _, test := range []struct {
		platform, module, qe string
		want                 string
	}{
		{"UpToDate", "UpToDate", "UpToDate", "UpToDate"},
		{"SWHardeningNeeded", "UpToDate", "UpToDate", "SWHardeningNeeded"},
		{"ConfigurationNeeded", "UpToDate", "UpToDate", "ConfigurationNeeded"},
		{"ConfigurationAndSWHardeningNeeded", "UpToDate", "UpToDate", "ConfigurationAndSWHardeningNeeded"},
		{"OutOfDate", "UpToDate", "UpToDate", "OutOfDate"},
		{"OutOfDateConfigurationNeeded", "UpToDate", "UpToDate", "OutOfDateConfigurationNeeded"},
		{"Revoked", "UpToDate", "UpToDate", "Revoked"},
		{"UpToDate", "OutOfDate", "UpToDate", "OutOfDate"},
		{"UpToDate", "UpToDate", "OutOfDate", "OutOfDate"},
		{"SWHardeningNeeded", "OutOfDate", "UpToDate", "OutOfDate"},
		{"SWHardeningNeeded", "UpToDate", "OutOfDate", "OutOfDate"},
		{"ConfigurationNeeded", "OutOfDate", "UpToDate", "OutOfDateConfigurationNeeded"},
		{"ConfigurationNeeded", "UpToDate", "OutOfDate", "OutOfDateConfigurationNeeded"},
		{"ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDate", "OutOfDateConfigurationNeeded"},
		{"OutOfDateConfigurationNeeded", "OutOfDate", "OutOfDate", "OutOfDateConfigurationNeeded"},
		{"UpToDate", "Revoked", "UpToDate", "Revoked"},
		{"OutOfDate", "Revoked", "OutOfDate", "Revoked"},
		{"Revoked", "OutOfDate", "OutOfDate", "Revoked"},
	} {
		t.Run(test.platform+"+"+test.module+"+"+test.qe, func(t *testing.T) {
			s := dcaptest.NewTDX()
			s.Info["tcbLevels"] = []any{dcaptest.Level(test.platform, 5, 11, 3, "INTEL-SA-2", "INTEL-SA-1")}
			module("tcbLevels", []any{dcaptest.SVNLevel(test.module, 4, "INTEL-SA-3")})(s)
			s.Identity["tcbLevels"] = []any{dcaptest.SVNLevel(test.qe, 4, "INTEL-SA-1", "INTEL-SA-4")}
			v, err := verify(t, s)
			if err != nil {
				t.Fatal(err)
			}
			got := v.Platform.TCB
			if got.Status != test.want || got.Platform != test.platform || got.Module != test.module || got.QE != test.qe {
				t.Errorf("TCB = %+v, want %s", got, test.want)
			}
			if want := []string{"INTEL-SA-1", "INTEL-SA-2", "INTEL-SA-3", "INTEL-SA-4"}; !slices.Equal(got.Advisories, want) {
				t.Errorf("advisories %q, want %q", got.Advisories, want)
			}
		})
	}
}

// TestLevels: which level a platform reaches.
func TestLevels(t *testing.T) {
	for _, test := range []struct {
		name       string
		scene      func() *scene
		spoil      func(*scene)
		status     string
		advisories []string
	}{
		{"TDX, all high", dcaptest.NewTDX, body(2, 255), "UpToDate", nil},
		{"TDX, component 2 of the lower level", dcaptest.NewTDX, body(2, 2), "OutOfDate", []string{"INTEL-SA-00001", "INTEL-SA-00002"}},
		{"TDX, last component of the processor's of the lower level", dcaptest.NewTDX, with(dcaptest.TCBElement(16, 4)), "OutOfDate", []string{"INTEL-SA-00001", "INTEL-SA-00002"}},
		{"TDX, a module of the lower level", dcaptest.NewTDX, body(0, 3), "OutOfDate", []string{"INTEL-SA-00004"}},
		{"TDX, a newer module, which a level of version 1 asks nothing of", dcaptest.NewTDX, body(0, 3, 3), "UpToDate", nil},
		{"TDX 1.0, its module with the platform", dcaptest.NewTDX, (*scene).TDX10, "UpToDate", nil},
		{"SGX, TDX's components do not count", dcaptest.NewSGX, levels(func(l dcaptest.Object) { delete(l["tcb"].(dcaptest.Object), "tdxtcbcomponents") }), "UpToDate", nil},
		{"SGX, a component of the lower level", dcaptest.NewSGX, with(dcaptest.TCBElement(7, 4)), "OutOfDate", []string{"INTEL-SA-00001", "INTEL-SA-00002"}},
		{"SGX, an older quoting enclave", dcaptest.NewSGX, enclave(258, 3), "OutOfDate", []string{"INTEL-SA-00003"}},
		{"SGX, a newer quoting enclave", dcaptest.NewSGX, enclave(258, 0, 1), "UpToDate", nil},
		{"SGX, attributes that the identity does not look at", dcaptest.NewSGX, enclave(56, 0xff), "UpToDate", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := test.scene()
			test.spoil(s)
			v, err := verify(t, s)
			if err != nil || v.Platform.TCB.Status != test.status || !slices.Equal(v.Platform.TCB.Advisories, test.advisories) {
				t.Errorf("Verify = %+v, %v, want %s and %q", v.Platform.TCB, err, test.status, test.advisories)
			}
		})
	}
}

// TestTwin: ECDSA gives each signature a twin; both are the same evidence. Signed is the digest of what was signed.
func TestTwin(t *testing.T) {
	s := dcaptest.NewSGX()
	one, err := verify(t, s)
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256(append(s.Header[:48:48], s.Body...)); one.Signed != want {
		t.Errorf("Signed = %x, want the digest of header and body, %x", one.Signed, want)
	}
	s.Layout = func(d []byte) []byte { dcaptest.Twin(d); return d }
	two, err := verify(t, s)
	if err != nil || two.Signed != one.Signed {
		t.Errorf("the twin: %x, %v, want %x", two.Signed, err, one.Signed)
	}
}
