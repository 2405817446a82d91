// Package azure uses an RSA key of Azure Key Vault (or Managed HSM) as a key-encryption key, by wrapkey and unwrapkey with
// RSA-OAEP-256. The private half never leaves the vault. It takes up to 190 bytes, which is more than a data key.
//
// The URI is azure:https://NAME.vault.azure.net/keys/KEY. What is sealed says under which version of the key, so a key that the
// vault has turned over since still opens. Credentials are, in this order: the environment's AZURE_TENANT_ID and AZURE_CLIENT_ID
// with AZURE_CLIENT_SECRET, or the file that AZURE_CLIENT_SECRET_FILE names (mode 0600); else the managed identity that the
// machine's metadata service gives. It needs the permissions wrapKey and unwrapKey.
//
// Who can unwrap: whoever has such credentials. A managed identity belongs to the machine, so to the host's owner too.
//
// It is tested against a server of the tests that speaks the public HTTP API, not against a real one.
package azure

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/tink-crypto/tink-go/v2/tink"

	"consilium.dev/internal/blob/kms/call"
)

// Unwraps says who can open what the key has sealed, for the log.
const Unwraps = "whoever has credentials with unwrapKey; with a managed identity or a secret on the host, the host's owner"

const (
	version  = "7.4" // of the API
	algo     = "RSA-OAEP-256"
	metadata = "http://169.254.169.254/metadata/identity/oauth2/token"
	login    = "https://login.microsoftonline.com/"
	early    = time.Minute // before it ends a token is renewed
)

// Key is a key of a vault. It is safe for concurrent use.
type Key struct {
	Caller          call.Caller
	Login, Metadata string // addresses of the services that give tokens; "": Azure's own

	vault, name string

	mu    sync.Mutex // guards what follows
	token string
	ends  time.Time
}

var _ tink.AEADWithContext = (*Key)(nil)

// Open returns the key that a URI names, without its scheme "azure:". It asks nothing yet.
func Open(address string) (*Key, error) {
	if err := call.CheckURL(address); err != nil {
		return nil, fmt.Errorf("azure: %w", err)
	}
	vault, name, ok := strings.Cut(address, "/keys/")
	if !ok || name == "" || strings.Contains(name, "/") {
		return nil, fmt.Errorf("azure:%s: want azure:https://NAME.vault.azure.net/keys/KEY", address)
	}
	return &Key{vault: vault, name: name}, nil
}

// operation is the body of wrapkey and unwrapkey, and their answer.
type operation struct {
	Alg   string `json:"alg,omitempty"`
	Kid   string `json:"kid,omitempty"`
	Value string `json:"value"` // base64url without padding
}

// EncryptWithContext is that of [tink.AEADWithContext]. An RSA key has no associated data: there must be none. What it returns is
// the key's version, 32 hex digits, a newline, and what the vault gave.
func (k *Key) EncryptWithContext(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	if len(ad) > 0 {
		return nil, errors.New("azure: a wrapped key has no associated data")
	}
	out, err := k.ask(ctx, k.vault+"/keys/"+k.name+"/wrapkey", plaintext)
	if err != nil {
		return nil, err
	}
	// The name of the host may be spelt otherwise, so only what follows the key's name is looked at.
	_, v, ok := strings.Cut(out.Kid, "/keys/"+k.name+"/")
	value, err := base64.RawURLEncoding.DecodeString(out.Value)
	if !ok || !isVersion(v) || err != nil {
		return nil, errors.New("azure key vault gives an answer that is not its own")
	}
	return append([]byte(v+"\n"), value...), nil
}

// DecryptWithContext is that of [tink.AEADWithContext].
func (k *Key) DecryptWithContext(ctx context.Context, ciphertext, ad []byte) ([]byte, error) {
	v, value, ok := strings.Cut(string(ciphertext), "\n")
	if !ok || !isVersion(v) || len(ad) > 0 {
		return nil, errors.New("azure: not a key that this key vault has wrapped")
	}
	out, err := k.ask(ctx, k.vault+"/keys/"+k.name+"/"+v+"/unwrapkey", []byte(value))
	if err != nil {
		return nil, err
	}
	text, err := base64.RawURLEncoding.DecodeString(out.Value)
	if err != nil {
		return nil, errors.New("azure key vault gives an answer that is not its own")
	}
	return text, nil
}

// isVersion reports whether a text is the version of a key. It becomes part of an address to which a token is sent.
func isVersion(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}

func (k *Key) ask(ctx context.Context, address string, value []byte) (operation, error) {
	token, err := k.authorize(ctx)
	if err != nil {
		return operation{}, err
	}
	body := operation{Alg: algo, Value: base64.RawURLEncoding.EncodeToString(value)}
	a, err := k.Caller.Do(ctx, "azure key vault", call.JSON(address+"?api-version="+version, body, "Authorization", "Bearer "+token), code)
	if err != nil {
		k.forget(err)
		return operation{}, err
	}
	var out operation
	if err := call.Decode("azure key vault", a, &out); err != nil {
		return operation{}, err
	}
	if out.Value == "" {
		return operation{}, errors.New("azure key vault gives an answer that is not its own")
	}
	return out, nil
}

// code finds the word in an error's body: {"error": {"code": "..."}}.
func code(body []byte) string {
	var e struct {
		Error struct {
			Code string `json:"code"`
		} `json:"error"`
	}
	_ = json.Unmarshal(body, &e) // else it has none
	return e.Error.Code
}

// forget drops a token that is not accepted.
func (k *Key) forget(err error) {
	var refused *call.StatusError
	if errors.As(err, &refused) && refused.Status == http.StatusUnauthorized {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.token = ""
	}
}

// authorize returns a token for the vault.
func (k *Key) authorize(ctx context.Context) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.token != "" && time.Now().Before(k.ends.Add(-early)) {
		return k.token, nil
	}
	secret, err := call.Secret("AZURE_CLIENT_SECRET")
	if err != nil {
		return "", err
	}
	request := k.managed
	if tenant, client := os.Getenv("AZURE_TENANT_ID"), os.Getenv("AZURE_CLIENT_ID"); secret != "" && tenant != "" && client != "" {
		request = func(ctx context.Context) (*http.Request, error) {
			form := url.Values{
				"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {secret}, "scope": {k.resource() + "/.default"},
			}
			return call.Post(ctx, or(k.Login, login)+url.PathEscape(tenant)+"/oauth2/v2.0/token", "application/x-www-form-urlencoded", []byte(form.Encode()))
		}
	}
	a, err := k.Caller.Do(ctx, "azure's token service", request, code)
	if err != nil {
		return "", err
	}
	var out struct {
		Token   string      `json:"access_token"`
		Expires json.Number `json:"expires_in"` // seconds, as a number or as text
	}
	if err := call.Decode("azure's token service", a, &out); err != nil {
		return "", err
	}
	seconds, err := out.Expires.Int64()
	if err != nil || out.Token == "" {
		return "", errors.New("azure's token service gives an answer that is not its own")
	}
	k.token, k.ends = out.Token, time.Now().Add(time.Duration(min(seconds, 86400))*time.Second)
	return k.token, nil
}

// managed asks the machine's metadata service for a token.
func (k *Key) managed(ctx context.Context) (*http.Request, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, or(k.Metadata, metadata)+"?api-version=2018-02-01&resource="+url.QueryEscape(k.resource()), nil)
	if err != nil {
		return nil, errors.New("no URL")
	}
	q.Header.Set("Metadata", "true")
	return q, nil
}

// resource is what a token is asked for: vaults and managed HSMs are two.
func (k *Key) resource() string {
	if strings.HasSuffix(k.vault, ".managedhsm.azure.net") {
		return "https://managedhsm.azure.net"
	}
	return "https://vault.azure.net"
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
