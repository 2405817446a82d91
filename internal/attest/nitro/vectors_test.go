package nitro_test

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hf/nitrite"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/nitro"
)

// A vector is one document of a collection, as its vector.json describes it.
type vector struct {
	Expect string    `json:"expect"`
	Why    string    `json:"why"`
	AtTime time.Time `json:"at_time"`
	Fields fields    `json:"fields"`
}

type fields struct {
	ModuleID     string         `json:"module_id"`
	Debug        bool           `json:"debug"`
	Timestamp    time.Time      `json:"timestamp"`
	PCRs         map[int]string `json:"pcrs"` // 0 to 2, and those that are not zero
	Nonce        string         `json:"nonce"`
	UserData     string         `json:"report_data"`
	PublicKeyLen int            `json:"public_key_len"`
}

func TestVectors(t *testing.T) {
	folder := os.Getenv("CONSILIUM_VECTORS")
	if folder == "" {
		t.Skip("CONSILIUM_VECTORS names no folder of attestation evidence; TestRealEvidence judges what is committed")
	}
	judgeFolder(t, folder)
}

func TestRealEvidence(t *testing.T) { judgeFolder(t, "testdata/vectors") }

func judgeFolder(t *testing.T, folder string) {
	if all, err := filepath.Glob(filepath.Join(folder, "*", "*", "vector.json")); err != nil || len(all) == 0 {
		t.Fatalf("%s holds no vectors: %v", folder, err)
	}
	paths, err := filepath.Glob(filepath.Join(folder, "nitro", "*", "vector.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		dir := filepath.Dir(path)
		t.Run("nitro/"+filepath.Base(dir), func(t *testing.T) { judgeVector(t, dir) })
	}
}

func judgeVector(t *testing.T, dir string) {
	var v vector
	if err := json.Unmarshal(load(t, filepath.Join(dir, "vector.json")), &v); err != nil {
		t.Fatal(err)
	}
	raw := load(t, filepath.Join(dir, "document.cbor"))
	verifier := newVerifier(t, nil)
	want := nitro.Fields{Nonce: unhex(t, v.Fields.Nonce), UserData: unhex(t, v.Fields.UserData), PublicKey: nitro.PublicKey(raw)}
	claims, err := verifier.VerifyFields(raw, want, v.AtTime)
	if v.Expect == "reject" {
		var refusal *attest.Error
		if !errors.As(err, &refusal) || refusal.Class == attest.ClassTime || refusal.Class == attest.ClassBind {
			t.Errorf("VerifyFields: %v, want a refusal for the document's own fault: %s", err, v.Why)
		}
		return
	}
	if err != nil {
		t.Fatalf("VerifyFields: %v, want claims: %s", err, v.Why)
	}
	if diff := cmp.Diff(v.Fields, said(claims, want, v.Fields.PCRs)); diff != "" {
		t.Errorf("claims (-vector +said):\n%s", diff)
	}
	for name, field := range map[string]*[]byte{"nonce": &want.Nonce, "user_data": &want.UserData, "public_key": &want.PublicKey} {
		if *field == nil {
			continue
		}
		right := *field
		*field = slices.Clone(right)
		(*field)[len(right)-1] ^= 1
		_, err := verifier.VerifyFields(raw, want, v.AtTime)
		wantClass(t, name, err, attest.ClassBind)
		*field = right
	}
	// It was made for another protocol than ours, so the last check of all refuses it, as the public surface shows.
	b := attest.Binding{SPKI: want.PublicKey}
	copy(b.Nonce[:], want.Nonce)
	copy(b.ReportData[:], want.UserData)
	_, err = verifier.Verify(t.Context(), attest.Evidence{Type: attest.Nitro, Body: raw}, b, v.AtTime, nil)
	wantClass(t, "Verify", err, attest.ClassBind)
}

// said puts claims the way vectors are written.
func said(c attest.Claims, f nitro.Fields, named map[int]string) fields {
	got := fields{
		ModuleID: c.Nitro.ModuleID, Debug: c.Nitro.Debug, Timestamp: c.Nitro.Timestamp, Nonce: hex.EncodeToString(f.Nonce),
		UserData: hex.EncodeToString(f.UserData), PublicKeyLen: len(f.PublicKey),
	}
	for index, value := range c.Nitro.PCRs {
		if _, ok := named[index]; ok || slices.Max(value) != 0 {
			if got.PCRs == nil {
				got.PCRs = map[int]string{}
			}
			got.PCRs[index] = hex.EncodeToString(value)
		}
	}
	return got
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	if s == "" {
		return nil
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func load(t testing.TB, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func wantClass(t *testing.T, what string, err error, want attest.Class) {
	t.Helper()
	var refusal *attest.Error
	if !errors.As(err, &refusal) || refusal.Class != want {
		t.Errorf("%s: %v, want the class %s", what, err, want)
	}
}

func newVerifier(t testing.TB, o *nitro.Options) *nitro.Verifier {
	t.Helper()
	if o == nil {
		o = &nitro.Options{}
	}
	v, err := nitro.NewVerifier(*o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestAgainstLibrary: nitrite judges each real document as we do, and reads the same out of it.
func TestAgainstLibrary(t *testing.T) {
	folder := os.Getenv("CONSILIUM_VECTORS")
	if folder == "" {
		folder = "testdata/vectors"
	}
	paths, err := filepath.Glob(filepath.Join(folder, "nitro", "*", "document.cbor"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(nitrite.DefaultCARoots))
	for _, path := range paths {
		t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) {
			var v vector
			if err := json.Unmarshal(load(t, filepath.Join(filepath.Dir(path), "vector.json")), &v); err != nil {
				t.Fatal(err)
			}
			raw := load(t, path)
			claims, ours := newVerifier(t, nil).VerifyUnbound(attest.Evidence{Type: attest.Nitro, Body: raw}, v.AtTime, nil)
			result, theirs := nitrite.Verify(raw, nitrite.VerifyOptions{Roots: roots, CurrentTime: v.AtTime})
			if (ours == nil) != (theirs == nil) {
				t.Fatalf("we say %v, nitrite %v", ours, theirs)
			}
			if ours != nil {
				return
			}
			d := result.Document
			pcrs := map[int][]byte{}
			for index, value := range d.PCRs {
				pcrs[int(index)] = value
			}
			want := attest.NitroDocument{
				ModuleID: d.ModuleID, Timestamp: time.UnixMilli(int64(d.Timestamp)).UTC(), PCRs: pcrs, Debug: claims.Nitro.Debug, // it has no word for it
				Nonce: d.Nonce, UserData: d.UserData, PublicKey: d.PublicKey,
			}
			if diff := cmp.Diff(want, *claims.Nitro); diff != "" {
				t.Errorf("claims (-nitrite +ours):\n%s", diff)
			}
		})
	}
}
