package gcp_test

import (
	"bytes"
	"crypto"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"consilium.dev/internal/blob/kms/gcp"
	"consilium.dev/internal/blob/kms/kmstest"
)

const (
	token = "ya29.a-token-of-the-tests"
	name  = "projects/p/locations/europe-west3/keyRings/r/cryptoKeys/consilium"
)

// cloud is a server of the tests that speaks the API of Cloud KMS, of the token service and of a machine's metadata.
type cloud struct {
	key     cipher.AEAD
	account *rsa.PublicKey
	address string // its own
	flip    bool   // breaks what comes back, but not its checksum
}

func newCloud(t *testing.T, account *rsa.PublicKey) *cloud {
	t.Helper()
	return &cloud{key: kmstest.AEAD(t), account: account}
}

func sum(b []byte) string {
	return strconv.FormatUint(uint64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))), 10)
}

func (s *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fail := func(code int, status string) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": code, "status": status, "message": "as the service words it"}})
	}
	switch r.URL.Path {
	case "/metadata":
		if r.Header.Get("Metadata-Flavor") != "Google" || r.Method != http.MethodGet {
			fail(http.StatusForbidden, "")
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "expires_in": 3599, "token_type": "Bearer"})
		return
	case "/token":
		if err := s.claim(r); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]any{"error": "invalid_grant", "error_description": err.Error()})
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "expires_in": 3599, "token_type": "Bearer"})
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+token {
		fail(http.StatusUnauthorized, "UNAUTHENTICATED")
		return
	}
	var in struct {
		Plaintext    []byte `json:"plaintext"`
		Ciphertext   []byte `json:"ciphertext"`
		AD           []byte `json:"additionalAuthenticatedData"`
		PlainSum     string `json:"plaintextCrc32c"`
		CipherSum    string `json:"ciphertextCrc32c"`
		AssociateSum string `json:"additionalAuthenticatedDataCrc32c"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.AssociateSum != sum(in.AD) {
		fail(http.StatusBadRequest, "INVALID_ARGUMENT")
		return
	}
	switch r.URL.Path {
	case "/v1/" + name + ":encrypt":
		if in.PlainSum != sum(in.Plaintext) {
			fail(http.StatusBadRequest, "INVALID_ARGUMENT")
			return
		}
		sealed := s.key.Seal(nil, nil, in.Plaintext, in.AD)
		out := map[string]any{"name": name + "/cryptoKeyVersions/1", "ciphertextCrc32c": sum(sealed), "verifiedPlaintextCrc32c": true, "verifiedAdditionalAuthenticatedDataCrc32c": true}
		if s.flip {
			sealed[0] ^= 1
		}
		out["ciphertext"] = sealed
		_ = json.NewEncoder(w).Encode(out)
	case "/v1/" + name + ":decrypt":
		plain, err := s.key.Open(nil, nil, in.Ciphertext, in.AD)
		if err != nil || in.CipherSum != sum(in.Ciphertext) {
			fail(http.StatusBadRequest, "INVALID_ARGUMENT")
			return
		}
		checksum := sum(plain)
		if s.flip {
			plain[0] ^= 1
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"plaintext": plain, "plaintextCrc32c": checksum})
	default:
		fail(http.StatusNotFound, "NOT_FOUND")
	}
}

// claim checks a signed claim as the token service does.
func (s *cloud) claim(r *http.Request) error {
	if err := r.ParseForm(); err != nil || r.Form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
		return fmt.Errorf("no grant: %w", err)
	}
	parts := strings.Split(r.Form.Get("assertion"), ".")
	if len(parts) != 3 {
		return fmt.Errorf("no JWT")
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(s.account, crypto.SHA256, digest[:], signature); err != nil {
		return err
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return err
	}
	var c struct {
		Iss, Scope, Aud string
		Iat, Exp        int64
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	now := time.Now().Unix()
	if c.Iss != "consilium@p.iam.gserviceaccount.com" || c.Aud != s.address+"/token" || c.Scope != "https://www.googleapis.com/auth/cloudkms" ||
		c.Iat > now+5 || c.Exp < now || c.Exp > c.Iat+3600 {
		return fmt.Errorf("claim %+v", c)
	}
	return nil
}

// open returns the key behind a cloud, with a machine's account.
func open(t *testing.T, s *cloud) (*kmstest.Gate, *gcp.Key) {
	t.Helper()
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	g, address := kmstest.Serve(t, s)
	s.address = address
	key, err := gcp.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	key.Endpoint, key.Metadata = address, address+"/metadata"
	return g, key
}

func TestKey(t *testing.T) {
	s := newCloud(t, nil)
	g, key := open(t, s)
	kmstest.Faults(t, g, key, &key.Caller, "its checksum", token)
	sealed, err := key.EncryptWithContext(t.Context(), []byte("x"), []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.DecryptWithContext(t.Context(), sealed, []byte("two")); err == nil || !strings.Contains(err.Error(), "(INVALID_ARGUMENT)") {
		t.Errorf("other associated data: %v, want the service's refusal", err)
	}
	_, wrong := open(t, newCloud(t, nil))
	if _, err := wrong.DecryptWithContext(t.Context(), sealed, []byte("one")); err == nil {
		t.Error("opens under another key")
	}
	s.flip = true
	if out, err := key.EncryptWithContext(t.Context(), []byte("x"), nil); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a broken ciphertext: %x, %v", out, err)
	}
	if out, err := key.DecryptWithContext(t.Context(), sealed, []byte("one")); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a broken plaintext: %q, %v", out, err)
	}
}

// TestAccount: a service account's key signs for a token; a file that others may read, or that is none, does not.
func TestAccount(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := newCloud(t, &private.PublicKey)
	_, key := open(t, s)
	key.Metadata = "http://127.0.0.1:1/"
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	account := func(change ...string) []byte {
		text, err := json.Marshal(map[string]string{
			"type": "service_account", "client_email": "consilium@p.iam.gserviceaccount.com", "private_key_id": "1",
			"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "token_uri": s.address + "/token",
		})
		if err != nil {
			t.Fatal(err)
		}
		return []byte(strings.NewReplacer(change...).Replace(string(text)))
	}
	path := filepath.Join(t.TempDir(), "account.json")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
	for _, c := range []struct {
		name string
		text []byte
		mode os.FileMode
		want string
	}{
		{"others may read it", account(), 0o644, "account.json"},
		{"another kind", account("service_account", "authorized_user"), 0o600, "is no service account's JSON key"},
		{"no key", account("BEGIN", "BEGUN"), 0o600, "has no private key"},
		{"tokens over plain HTTP", account(s.address, "http://oauth.example"), 0o600, "token_uri: http://oauth.example: want https"},
		{"another account", account("consilium@", "mallory@"), 0o600, "400 Bad Request"},
		{"no JSON", []byte("x"), 0o600, "is no service account's JSON key"},
		{"good", account(), 0o600, ""},
	} {
		if err := os.WriteFile(path, c.text, c.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		_, err := key.EncryptWithContext(t.Context(), []byte("x"), nil)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if err != nil && bytes.Contains([]byte(err.Error()), []byte("PRIVATE")) {
			t.Errorf("%s: %q holds the key", c.name, err)
		}
	}
}

func TestURI(t *testing.T) {
	for uri, good := range map[string]bool{
		name: true, "projects/p": false, name + "/cryptoKeyVersions/1": false, "projects/../x/locations/l/keyRings/r/cryptoKeys/k": false, "": false,
		"projects/p/locations/l/keyRings/r/cryptoKeys/k?x=y": false,
	} {
		if _, err := gcp.Open(uri); (err == nil) != good {
			t.Errorf("Open(%q) = %v", uri, err)
		}
	}
}
