package azure_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium.dev/internal/blob/kms/azure"
	"consilium.dev/internal/blob/kms/kmstest"
)

const (
	token  = "eyJ0.a-token-of-the-tests"
	secret = "a secret of the tests"
)

// vault is a server of the tests that speaks the API of Key Vault, of the login service and of a machine's metadata.
type vault struct {
	keys    map[string]*rsa.PrivateKey // by version
	newest  string
	address string // its own
	kid     string // of answers; "": as it should be
}

func newVault(t *testing.T) *vault {
	t.Helper()
	v := &vault{keys: map[string]*rsa.PrivateKey{}}
	v.turn(t, strings.Repeat("a1", 16))
	return v
}

// turn makes a new version of the key.
func (v *vault) turn(t *testing.T, version string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	v.keys[version], v.newest = key, version
}

func (v *vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fail := func(status int, code string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": code, "message": "as the service words it"}})
	}
	granted := map[string]any{"access_token": token, "token_type": "Bearer"}
	switch r.URL.Path {
	case "/metadata":
		if r.Header.Get("Metadata") != "true" || r.URL.Query().Get("resource") != "https://vault.azure.net" || r.URL.Query().Get("api-version") != "2018-02-01" {
			fail(http.StatusBadRequest, "bad_request")
			return
		}
		granted["expires_in"] = "86399" // text, as the service has it
		_ = json.NewEncoder(w).Encode(granted)
		return
	case "/login/tenant/oauth2/v2.0/token":
		if r.FormValue("grant_type") != "client_credentials" || r.FormValue("client_id") != "client" || r.FormValue("client_secret") != secret ||
			r.FormValue("scope") != "https://vault.azure.net/.default" {
			w.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(w).Encode(map[string]any{"error": "invalid_client"})
			return
		}
		granted["expires_in"] = 3599
		_ = json.NewEncoder(w).Encode(granted)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+token {
		fail(http.StatusUnauthorized, "Unauthorized")
		return
	}
	var in struct{ Alg, Value string }
	value := []byte(nil)
	err := json.NewDecoder(r.Body).Decode(&in)
	if err == nil {
		value, err = base64.RawURLEncoding.DecodeString(in.Value)
	}
	if err != nil || in.Alg != "RSA-OAEP-256" || r.URL.RawQuery != "api-version=7.4" || r.Method != http.MethodPost {
		fail(http.StatusBadRequest, "BadParameter")
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/keys/consilium/")
	if !ok {
		fail(http.StatusNotFound, "KeyNotFound")
		return
	}
	version, verb, named := strings.Cut(path, "/")
	if !named {
		version, verb = v.newest, path
	}
	key := v.keys[version]
	if key == nil {
		fail(http.StatusNotFound, "KeyNotFound")
		return
	}
	var out []byte
	switch verb {
	case "wrapkey":
		out, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, &key.PublicKey, value, nil)
	case "unwrapkey":
		out, err = rsa.DecryptOAEP(sha256.New(), nil, key, value, nil)
	}
	if err != nil {
		fail(http.StatusBadRequest, "BadParameter")
		return
	}
	kid := v.kid
	if kid == "" {
		kid = v.address + "/keys/consilium/" + version
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"kid": kid, "value": base64.RawURLEncoding.EncodeToString(out)})
}

func open(t *testing.T, v *vault) (*kmstest.Gate, *azure.Key) {
	t.Helper()
	for _, name := range []string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_CLIENT_SECRET_FILE"} {
		t.Setenv(name, "")
	}
	g, address := kmstest.Serve(t, v)
	v.address = address
	key, err := azure.Open(address + "/keys/consilium")
	if err != nil {
		t.Fatal(err)
	}
	key.Login, key.Metadata = address+"/login/", address+"/metadata"
	return g, key
}

func TestKey(t *testing.T) {
	v := newVault(t)
	g, key := open(t, v)
	kmstest.Faults(t, g, key, &key.Caller, "that is not its own", token)
	sealed, err := key.EncryptWithContext(t.Context(), []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	v.turn(t, strings.Repeat("b2", 16)) // the vault turns its key over
	if text, err := key.DecryptWithContext(t.Context(), sealed, nil); err != nil || string(text) != "x" {
		t.Errorf("after a new version: %q, %v", text, err)
	}
	again, err := key.EncryptWithContext(t.Context(), []byte("x"), nil)
	if err != nil || strings.HasPrefix(string(again), "a1a1") || !strings.HasPrefix(string(again), "b2b2") {
		t.Errorf("wrapped under %.32q, %v, want the new version", again, err)
	}
	_, wrong := open(t, newVault(t))
	if _, err := wrong.DecryptWithContext(t.Context(), sealed, nil); err == nil || !strings.Contains(err.Error(), "(BadParameter)") {
		t.Errorf("another key: %v, want its refusal", err)
	}
	if _, err := key.EncryptWithContext(t.Context(), []byte("x"), []byte("ad")); err == nil {
		t.Error("associated data that cannot be kept are taken")
	}
	// What is stored decides nothing about where a token goes.
	for _, bad := range []string{"", "x", "../../secrets/a\nx", strings.Repeat("g", 32) + "\nx", "https://elsewhere/keys/consilium/" + strings.Repeat("a1", 16) + "\nx"} {
		g.Reset()
		if _, err := key.DecryptWithContext(t.Context(), []byte(bad), nil); err == nil || g.Calls() > 0 {
			t.Errorf("%q: %v after %d requests, want none", bad, err, g.Calls())
		}
	}
	v.kid = "https://elsewhere/keys/consilium/../x"
	if _, err := key.EncryptWithContext(t.Context(), []byte("x"), nil); err == nil || !strings.Contains(err.Error(), "not its own") {
		t.Errorf("an answer with a foreign version: %v", err)
	}
}

// TestSecret: a client's secret comes from the environment or from a file that nobody else may read, and is told to nobody.
func TestSecret(t *testing.T) {
	v := newVault(t)
	_, key := open(t, v)
	key.Metadata = "http://127.0.0.1:1/"
	t.Setenv("AZURE_TENANT_ID", "tenant")
	t.Setenv("AZURE_CLIENT_ID", "client")
	path := filepath.Join(t.TempDir(), "secret")
	t.Setenv("AZURE_CLIENT_SECRET_FILE", path)
	for _, c := range []struct {
		text string
		mode os.FileMode
		want string
	}{{secret, 0o640, "AZURE_CLIENT_SECRET_FILE"}, {"wrong", 0o600, "401 Unauthorized"}, {secret + "\n", 0o600, ""}} {
		if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		_, err := key.EncryptWithContext(t.Context(), []byte("x"), nil)
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret)) {
			t.Errorf("%q, mode %o: %v, want %q", c.text, c.mode, err, c.want)
		}
	}
}

func TestURI(t *testing.T) {
	for uri, good := range map[string]bool{
		"https://x.vault.azure.net/keys/consilium": true, "https://x.vault.azure.net/keys/consilium/" + strings.Repeat("a", 32): false,
		"https://x.vault.azure.net/secrets/x": false, "http://x.vault.azure.net/keys/x": false, "https://x.vault.azure.net/keys/x?y": false, "": false,
	} {
		if _, err := azure.Open(uri); (err == nil) != good {
			t.Errorf("Open(%q) = %v", uri, err)
		}
	}
}
