package tdx_test

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap/dcaptest"
	"consilium.dev/internal/attest/tdx"
)

// refusals are as in dcaptest.Judge.
var refusals = map[string]attest.Class{
	"reject-cmc-invalid":   attest.ClassParse, // a length was altered
	"v4-spr-e4-gotdxguest": attest.ClassParse, // text stands behind the quote; without it, see TestBelowEveryLevel
	"v5-td15-trustee":      attest.ClassTCB,
}

func TestVectors(t *testing.T) {
	folder := os.Getenv("CONSILIUM_VECTORS")
	if folder == "" {
		t.Skip("CONSILIUM_VECTORS names no folder of attestation evidence; TestRealEvidence judges what is committed")
	}
	judgeFolder(t, folder)
}

func TestRealEvidence(t *testing.T) { judgeFolder(t, "testdata/vectors") }

// judgeFolder judges the TDX quotes in a folder of vectors, also those beside Azure's reports, which are not judged themselves yet.
func judgeFolder(t *testing.T, folder string) {
	if all, err := filepath.Glob(filepath.Join(folder, "*", "*", "vector.json")); err != nil || len(all) == 0 {
		t.Fatalf("the folder %s has %d vectors, %v", folder, len(all), err)
	}
	paths, err := filepath.Glob(filepath.Join(folder, "tdx", "*", "vector.json"))
	if err != nil {
		t.Fatal(err)
	}
	azure, err := filepath.Glob(filepath.Join(folder, "azure-vtpm", "*", "td_quote.bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(paths, azure...) {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(filepath.Dir(dir))+"/"+filepath.Base(dir), func(t *testing.T) { judgeVector(t, dir) })
	}
}

func judgeVector(t *testing.T, dir string) {
	dcaptest.Judge{
		Type: attest.TDX, Verifier: newVerifier(t), Open: tdx.OpenUnverified, Said: said, Refusals: refusals,
		DCAP: func(c *attest.Claims) *attest.DCAP { return &c.TDX.Platform },
	}.Vector(t, dir)
}

// said puts claims the way vectors are written.
func said(c attest.Claims) dcaptest.Fields {
	d := c.TDX
	f := dcaptest.Fields{
		Debug: d.Debug, Measurement: hex.EncodeToString(d.MRTD[:]), MRConfigID: hex.EncodeToString(d.MRConfigID[:]),
		MRSEAM: hex.EncodeToString(d.MRSEAM[:]), Version: d.Version, ReportData: hex.EncodeToString(d.ReportData[:]),
		RTMR0: hex.EncodeToString(d.RTMR[0][:]), RTMR1: hex.EncodeToString(d.RTMR[1][:]),
		RTMR2: hex.EncodeToString(d.RTMR[2][:]), RTMR3: hex.EncodeToString(d.RTMR[3][:]),
		TDAttributes: hex.EncodeToString(d.TDAttributes[:]), TEETCBSVN: hex.EncodeToString(d.TEETCBSVN[:]),
		XFAM: hex.EncodeToString(d.XFAM[:]),
	}
	if d.TD15 {
		f.MRServiceTD, f.TEETCBSVN2 = hex.EncodeToString(d.MRServiceTD[:]), hex.EncodeToString(d.TEETCBSVN2[:])
	}
	f.Platform(c, d.Platform)
	return f
}

// TestBelowEveryLevel: a real quote of a platform that was never good enough is refused for that, once the text that its source
// put behind it is gone.
func TestBelowEveryLevel(t *testing.T) {
	v := dcaptest.Load(t, "testdata/vectors/tdx/v4-spr-e4-gotdxguest", attest.TDX)
	behind := bytes.Index(v.Evidence.Body, []byte("\nextra bytes"))
	if behind < 0 {
		t.Fatal("the sample has no text behind it")
	}
	v.Evidence.Body = v.Evidence.Body[:behind]
	_, err := newVerifier(t).Verify(t.Context(), v.Evidence, v.Binding, v.AtTime, nil)
	dcaptest.WantClass(t, err, attest.ClassTCB)
}

// TestRealEventLog: the log of a real domain replays to its quote's registers, also with the unused rest of the table that it lay
// in; and no longer once one bit of a digest is another.
func TestRealEventLog(t *testing.T) {
	dir := "testdata/vectors/tdx/v4-gcp-cos113-gotdxguest"
	log, err := os.ReadFile(filepath.Join(dir, "ccel.bin"))
	if err != nil {
		t.Fatal(err)
	}
	judge := func(log []byte) (attest.Claims, error) {
		v := dcaptest.Load(t, dir, attest.TDX)
		v.Evidence.Collateral = append(v.Evidence.Collateral, attest.Item{Kind: attest.KindEventLog, Bytes: log})
		return newVerifier(t).Verify(t.Context(), v.Evidence, v.Binding, v.AtTime, nil)
	}
	for name, log := range map[string][]byte{"as is": log, "in its table": append(bytes.Clone(log), bytes.Repeat([]byte{0xff}, 4096)...)} {
		if claims, err := judge(log); err != nil || !claims.TDX.EventLog {
			t.Errorf("%s: Verify = %+v, %v", name, claims.TDX, err)
		}
	}
	altered := bytes.Clone(log)
	altered[0x41+4+4+4+2] ^= 1 // the first digest
	_, err = judge(altered)
	dcaptest.WantClass(t, err, attest.ClassMeas)
	_, err = judge(log[:len(log)-1])
	dcaptest.WantClass(t, err, attest.ClassMeas)
}

// newVerifier returns a verifier that trusts Intel's root, and the one of these tests as "test".
func newVerifier(t testing.TB) *tdx.Verifier {
	t.Helper()
	v, err := tdx.NewVerifier(tdx.Options{SimulatedRoots: map[string]*x509.Certificate{"test": dcaptest.Trusted().Root.Certificate}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestEventLog takes the log out of the table that a real guest's firmware filled, and says of one that its quote does not lead to why not.
func TestEventLog(t *testing.T) {
	dir := filepath.Join("testdata", "vectors", "tdx", "v4-gcp-cos113-gotdxguest")
	v := dcaptest.Load(t, dir, attest.TDX)
	full, err := os.ReadFile(filepath.Join(dir, "ccel.bin"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := tdx.EventLog(full, v.Evidence.Body)
	if err != nil || len(log) == 0 || !bytes.HasPrefix(full, log) || len(bytes.Trim(full[len(log):], "\xff")) != 0 {
		t.Fatalf("EventLog = %d bytes of %d, %v", len(log), len(full), err)
	}
	for _, longer := range [][]byte{log, append(bytes.Clone(log), 0xff), append(bytes.Clone(log), bytes.Repeat([]byte{0xff}, 256<<10)...)} {
		if again, err := tdx.EventLog(longer, v.Evidence.Body); err != nil || !bytes.Equal(again, log) {
			t.Errorf("EventLog of a table of %d bytes = %d bytes, %v, want %d", len(longer), len(again), err, len(log))
		}
	}
	u32 := binary.LittleEndian.AppendUint32
	long := append(u32(u32(u32(u32(bytes.Clone(log), 0), 3), 0), 128<<10), make([]byte, 128<<10)...) // an event that extends nothing
	for name, bad := range map[string][2][]byte{
		"a cut log":     {log[:len(log)-1], v.Evidence.Body},
		"another guest": {log, dcaptest.NewTDX().Evidence().Body},
		"no quote":      {log, nil},
		"a long log":    {long, v.Evidence.Body},
	} {
		var refusal *attest.Error
		if log, err := tdx.EventLog(bad[0], bad[1]); !errors.As(err, &refusal) || log != nil {
			t.Errorf("%s: EventLog = %d bytes, %v", name, len(log), err)
		}
	}
}
