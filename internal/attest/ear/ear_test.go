package ear_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/ear"
)

var key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))

// opened returns the payload of a token whose header and signature it has checked.
func opened(t *testing.T, token []byte) map[string]any {
	t.Helper()
	parts := strings.Split(string(token), ".")
	if len(parts) != 3 {
		t.Fatalf("a token of %d parts", len(parts))
	}
	decode := func(s string) []byte {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if got := string(decode(parts[0])); got != `{"alg":"EdDSA","typ":"JWT"}` {
		t.Errorf("header %s", got)
	}
	if !ed25519.Verify(key.Public().(ed25519.PublicKey), []byte(parts[0]+"."+parts[1]), decode(parts[2])) {
		t.Error("the signature is not the key's")
	}
	var payload map[string]any
	if err := json.Unmarshal(decode(parts[1]), &payload); err != nil {
		t.Fatal(err)
	}
	return payload
}

func good() ear.Result {
	return ear.Result{
		Type: attest.SEVSNP, Evidence: []byte{0xfb, 0xff, 1}, Claims: &attest.Claims{Type: attest.SEVSNP, SNP: &attest.SNP{}},
		Appraisal: &attest.Appraisal{Sets: []string{"snp-new"}}, Policy: [32]byte{0xab}, Issued: time.Unix(1_790_000_000, 5),
		Build: "1.2.3", Verifier: "north",
	}
}

// TestSign: the whole of one token.
func TestSign(t *testing.T) {
	token, err := ear.Sign(good(), key)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"eat_profile": "tag:github.com,2023:veraison/ear", "iat": 1_790_000_000.0, "ear.raw-evidence": "-_8B",
		"ear.verifier-id": map[string]any{"build": "1.2.3", "developer": "north"},
		"submods": map[string]any{"sev-snp": map[string]any{
			"ear.status":                 2.0,
			"ear.trustworthiness-vector": map[string]any{"instance-identity": 2.0, "configuration": 2.0, "executables": 3.0, "hardware": 2.0, "runtime-opaque": 2.0},
			"ear.appraisal-policy-id":    "consilium:manifest:sha256:ab" + strings.Repeat("00", 31) + "#snp-new",
		}},
	}
	if diff := cmp.Diff(want, opened(t, token)); diff != "" {
		t.Errorf("payload (-want +got):\n%s", diff)
	}
}

// TestVector: what becomes of each outcome.
func TestVector(t *testing.T) {
	vector := func(pairs ...any) map[string]any {
		m := map[string]any{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i].(string)] = float64(pairs[i+1].(int))
		}
		return m
	}
	all := func(n int) map[string]any {
		return vector("instance-identity", n, "configuration", n, "executables", n, "hardware", n, "runtime-opaque", n)
	}
	snp, nitro := &attest.Claims{SNP: &attest.SNP{}}, &attest.Claims{Nitro: &attest.NitroDocument{}}
	refusal := func(c attest.Class) *attest.Error { return attest.Refuse(c, "wrong") }
	for _, test := range []struct {
		name    string
		claims  *attest.Claims
		any     []string // of an appraisal
		refusal *attest.Error
		status  int
		want    map[string]any
	}{
		{"chips not judged", snp, []string{"set.chip_ids: any chip", "set.id_keys: none"}, nil, 2, vector("configuration", 2, "executables", 3, "hardware", 2, "runtime-opaque", 2)},
		{
			"another field not judged, for a reason that names chips", snp,
			[]string{"set.id_keys: none, see set.chip_ids"},
			nil, 2,
			vector("instance-identity", 2, "configuration", 2, "executables", 3, "hardware", 2, "runtime-opaque", 2),
		},
		{"Nitro isolates", nitro, []string{"set.modules: any"}, nil, 32, vector("configuration", 2, "executables", 3, "hardware", 2, "runtime-opaque", 32)},
		{"TDX", &attest.Claims{TDX: &attest.TrustDomain{}}, []string{"set.piids: any"}, nil, 2, vector("configuration", 2, "executables", 3, "hardware", 2, "runtime-opaque", 2)},
		{"SGX", &attest.Claims{SGX: &attest.Enclave{}}, []string{"set.ppids: any"}, nil, 2, vector("configuration", 2, "executables", 3, "hardware", 2, "runtime-opaque", 2)},

		{"does not parse", nil, nil, refusal(attest.ClassParse), 0, all(1)},
		{"signature", nil, nil, refusal(attest.ClassSig), 96, all(99)},
		{"chain", nil, nil, refusal(attest.ClassChain), 96, all(99)},
		{"time", nil, nil, refusal(attest.ClassTime), 96, all(99)},
		{"another session's", nil, nil, refusal(attest.ClassBind), 96, all(99)},
		{"revoked", nil, nil, refusal(attest.ClassRevoked), 96, vector("hardware", 96)},
		{"no TCB level", nil, nil, refusal(attest.ClassTCB), 96, vector("hardware", 96)},
		{"unknown product line", nil, nil, refusal(attest.ClassPlat), 96, vector("hardware", 97)},

		{"measurement", snp, nil, refusal(attest.ClassMeas), 96, vector("executables", 33, "hardware", 2, "runtime-opaque", 2)},
		{"instance", snp, nil, refusal(attest.ClassInst), 96, vector("instance-identity", 97, "hardware", 2, "runtime-opaque", 2)},
		{"TCB", snp, nil, refusal(attest.ClassTCB), 96, vector("hardware", 96, "runtime-opaque", 2)},
		{"no revocation list", snp, nil, refusal(attest.ClassRevoked), 96, vector("hardware", 96, "runtime-opaque", 2)},
		{"another root's", snp, nil, refusal(attest.ClassChain), 96, vector("hardware", 97, "runtime-opaque", 2)},
		{"platform bits", snp, nil, refusal(attest.ClassPlat), 96, vector("configuration", 96, "hardware", 2, "runtime-opaque", 2)},
		{"guest policy", snp, nil, refusal(attest.ClassDebug), 96, vector("configuration", 96, "hardware", 2, "runtime-opaque", 2)},
		{"too old", nitro, nil, refusal(attest.ClassTime), 96, vector("hardware", 2, "runtime-opaque", 32)},
		{"debug SNP", &attest.Claims{SNP: &attest.SNP{Debug: true}}, nil, refusal(attest.ClassDebug), 96, vector("hardware", 2, "runtime-opaque", 96)},
		{"debug TDX", &attest.Claims{TDX: &attest.TrustDomain{Debug: true}}, nil, refusal(attest.ClassDebug), 96, vector("hardware", 2, "runtime-opaque", 96)},
		{"debug SGX", &attest.Claims{SGX: &attest.Enclave{Debug: true}}, nil, refusal(attest.ClassDebug), 96, vector("hardware", 2, "runtime-opaque", 96)},
		{"debug Nitro", &attest.Claims{Nitro: &attest.NitroDocument{Debug: true}}, nil, refusal(attest.ClassDebug), 96, vector("hardware", 2, "runtime-opaque", 96)},
		{"policy that does not parse it", snp, nil, refusal(attest.ClassParse), 96, vector("hardware", 2, "runtime-opaque", 2)},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := good()
			r.Claims, r.Refusal, r.Appraisal = test.claims, test.refusal, nil
			if test.refusal == nil {
				r.Appraisal = &attest.Appraisal{Sets: []string{"set"}, Any: test.any}
			}
			token, err := ear.Sign(r, key)
			if err != nil {
				t.Fatal(err)
			}
			sub := opened(t, token)["submods"].(map[string]any)["sev-snp"].(map[string]any)
			if diff := cmp.Diff(test.want, sub["ear.trustworthiness-vector"]); diff != "" || sub["ear.status"] != float64(test.status) {
				t.Errorf("status %v, want %d; vector (-want +got):\n%s", sub["ear.status"], test.status, diff)
			}
			if named := strings.HasSuffix(sub["ear.appraisal-policy-id"].(string), "#set"); named != (test.refusal == nil) {
				t.Errorf("policy %v", sub["ear.appraisal-policy-id"])
			}
		})
	}
}

func TestSignRefuses(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ear.Sign(good(), p256); err == nil || !strings.Contains(err.Error(), "want Ed25519") {
		t.Errorf("Sign by another kind of key = %v", err)
	}
	for name, spoil := range map[string]func(*ear.Result){
		"neither":                 func(r *ear.Result) { r.Appraisal = nil },
		"both":                    func(r *ear.Result) { r.Refusal = attest.Refuse(attest.ClassMeas, "x") },
		"an appraisal of nothing": func(r *ear.Result) { r.Claims = nil },
	} {
		r := good()
		spoil(&r)
		if token, err := ear.Sign(r, key); err == nil || token != nil {
			t.Errorf("%s: Sign = %s, %v", name, token, err)
		}
	}
}
