package vault_test

import (
	"bytes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium.dev/internal/blob/kms/kmstest"
	"consilium.dev/internal/blob/kms/vault"
)

const token = "hvs.a-token-of-the-tests"

// transit is a server of the tests that speaks the API of Vault's transit engine: encrypt and decrypt of one AEAD key.
type transit struct{ key cipher.AEAD }

func newTransit(t *testing.T) *transit {
	t.Helper()
	return &transit{kmstest.AEAD(t)}
}

func (s *transit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Plaintext  string `json:"plaintext"`
		Ciphertext string `json:"ciphertext"`
		AD         []byte `json:"associated_data"`
	}
	fail := func(status int, text string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{text}})
	}
	if r.Header.Get("X-Vault-Token") != token || r.Header.Get("X-Vault-Namespace") != "hospital" {
		fail(http.StatusForbidden, "permission denied")
		return
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Method != http.MethodPost {
		fail(http.StatusBadRequest, "bad request")
		return
	}
	switch r.URL.Path {
	case "/v1/team/transit/encrypt/consilium":
		text, err := base64.StdEncoding.DecodeString(in.Plaintext)
		if err != nil {
			fail(http.StatusBadRequest, "no base64")
			return
		}
		sealed := base64.StdEncoding.EncodeToString(s.key.Seal(nil, nil, text, in.AD))
		_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"ciphertext": "vault:v1:" + sealed, "key_version": 1}})
	case "/v1/team/transit/decrypt/consilium":
		text, ok := strings.CutPrefix(in.Ciphertext, "vault:v1:")
		sealed, err := base64.StdEncoding.Strict().DecodeString(text)
		if !ok || err != nil {
			fail(http.StatusBadRequest, "invalid ciphertext")
			return
		}
		plain, err := s.key.Open(nil, nil, sealed, in.AD)
		if err != nil {
			fail(http.StatusBadRequest, "cipher: message authentication failed")
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"plaintext": base64.StdEncoding.EncodeToString(plain)}})
	default:
		fail(http.StatusNotFound, "encryption key not found")
	}
}

func TestKey(t *testing.T) {
	t.Setenv("VAULT_TOKEN", token)
	t.Setenv("VAULT_NAMESPACE", "hospital")
	g, address := kmstest.Serve(t, newTransit(t))
	key, err := vault.Open(address + "/team/transit/consilium")
	if err != nil {
		t.Fatal(err)
	}
	kmstest.Faults(t, g, key, &key.Caller, "that is not its own", token)
	sealed, err := key.EncryptWithContext(t.Context(), []byte("x"), []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.DecryptWithContext(t.Context(), sealed, []byte("two")); err == nil {
		t.Error("opens with other associated data")
	}
	_, other := kmstest.Serve(t, newTransit(t))
	wrong, err := vault.Open(other + "/team/transit/consilium")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.DecryptWithContext(t.Context(), sealed, []byte("one")); err == nil || !strings.Contains(err.Error(), "400 Bad Request") {
		t.Errorf("another key: %v, want its refusal", err)
	}
	none, err := vault.Open(address + "/team/transit/none")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none.EncryptWithContext(t.Context(), nil, nil); err == nil || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("no such key: %v", err)
	}
}

// TestToken: the token comes from the environment or from a file that nobody else may read, anew for each request.
func TestToken(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "")
	t.Setenv("VAULT_NAMESPACE", "hospital")
	_, address := kmstest.Serve(t, newTransit(t))
	key, err := vault.Open(address + "/team/transit/consilium")
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error { _, err := key.EncryptWithContext(t.Context(), []byte("x"), nil); return err }
	if err := ask(); err == nil || !strings.Contains(err.Error(), "set VAULT_TOKEN or VAULT_TOKEN_FILE") {
		t.Errorf("no token: %v", err)
	}
	path := filepath.Join(t.TempDir(), "token")
	t.Setenv("VAULT_TOKEN_FILE", path)
	for text, want := range map[string]string{token + "\n": "", "hvs.expired": "403 Forbidden"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := ask(); (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hvs.")) {
			t.Errorf("token %q: %v, want %q", bytes.TrimSpace([]byte(text)), err, want)
		}
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := ask(); err == nil || !strings.Contains(err.Error(), "VAULT_TOKEN_FILE") {
		t.Errorf("a token that others may read: %v", err)
	}
}

func TestURI(t *testing.T) {
	for uri, want := range map[string]string{
		"https://vault.example/transit/k":           "",
		"https://vault.example:8200/a/b/k":          "",
		"http://127.0.0.1:8200/transit/k":           "",
		"http://vault.example/transit/k":            "want https",
		"https://vault.example/k":                   "want vault:https://HOST[:PORT]/MOUNT/KEY",
		"https://vault.example/":                    "want vault:",
		"vault.example/transit/k":                   "want https",
		"https://me:secret@vault.example/transit/k": "without user",
		"https://vault.example/transit/k?token=x":   "without user, query",
		"https://a b/transit/k":                     "no URL",
	} {
		if _, err := vault.Open(uri); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%q) = %v, want %q", uri, err, want)
		}
	}
}
