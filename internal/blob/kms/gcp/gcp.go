// Package gcp uses a symmetric key of Google Cloud KMS as a key-encryption key. The key never leaves the service.
//
// The URI is gcp:projects/P/locations/L/keyRings/R/cryptoKeys/K. Credentials are those of the service account's JSON key in the
// file that GOOGLE_APPLICATION_CREDENTIALS names (mode 0600), else of the account that the machine's metadata service gives. The
// account needs roles/cloudkms.cryptoKeyEncrypterDecrypter on the key.
//
// Who can unwrap: whoever has such credentials. An account that a machine is given belongs to the machine, so to the host's owner
// too.
//
// Checksums go with every request and answer, as the service recommends. It is tested against a server of the tests that speaks the
// public HTTP API, not against a real one.
package gcp

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/tink-crypto/tink-go/v2/tink"

	"consilium.dev/internal/blob/kms/call"
	"consilium.dev/internal/keyfile"
)

// Unwraps says who can open what the key has sealed, for the log.
const Unwraps = "whoever has credentials with cryptoKeyDecrypter; with a key file or a machine's account, the host's owner"

const (
	endpoint = "https://cloudkms.googleapis.com"
	metadata = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
	scope    = "https://www.googleapis.com/auth/cloudkms"
	service  = "google cloud kms"
	early    = time.Minute // before it ends a token is renewed
)

// Key is a key of the service. It is safe for concurrent use.
type Key struct {
	Caller             call.Caller
	Endpoint, Metadata string // addresses of the service and of the machine's metadata; "": Google's own

	name string

	mu    sync.Mutex // guards what follows
	token string
	ends  time.Time
}

var _ tink.AEADWithContext = (*Key)(nil)

var names = regexp.MustCompile(`^projects/[A-Za-z0-9.:_-]+/locations/[A-Za-z0-9-]+/keyRings/[A-Za-z0-9_-]+/cryptoKeys/[A-Za-z0-9_-]+$`)

// Open returns the key that a URI names, without its scheme "gcp:". It asks nothing yet.
func Open(name string) (*Key, error) {
	if !names.MatchString(name) {
		return nil, fmt.Errorf("gcp:%s: want gcp:projects/P/locations/L/keyRings/R/cryptoKeys/K", name)
	}
	return &Key{name: name}, nil
}

// sum is a CRC32C as the API has it: a whole number in text.
func sum(b []byte) string {
	return strconv.FormatUint(uint64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))), 10)
}

// EncryptWithContext is that of [tink.AEADWithContext].
func (k *Key) EncryptWithContext(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	var out struct {
		Ciphertext []byte `json:"ciphertext"`
		Sum        string `json:"ciphertextCrc32c"`
		Plain      bool   `json:"verifiedPlaintextCrc32c"`
		AD         bool   `json:"verifiedAdditionalAuthenticatedDataCrc32c"`
	}
	in := map[string]any{"plaintext": plaintext, "plaintextCrc32c": sum(plaintext), "additionalAuthenticatedData": ad, "additionalAuthenticatedDataCrc32c": sum(ad)}
	if err := k.ask(ctx, "encrypt", in, &out); err != nil {
		return nil, err
	}
	if len(out.Ciphertext) == 0 || out.Sum != sum(out.Ciphertext) || !out.Plain || !out.AD {
		return nil, errors.New(service + ": what came back does not have its checksum, or what was sent did not arrive whole")
	}
	return out.Ciphertext, nil
}

// DecryptWithContext is that of [tink.AEADWithContext].
func (k *Key) DecryptWithContext(ctx context.Context, ciphertext, ad []byte) ([]byte, error) {
	var out struct {
		Plaintext []byte `json:"plaintext"`
		Sum       string `json:"plaintextCrc32c"`
	}
	in := map[string]any{"ciphertext": ciphertext, "ciphertextCrc32c": sum(ciphertext), "additionalAuthenticatedData": ad, "additionalAuthenticatedDataCrc32c": sum(ad)}
	if err := k.ask(ctx, "decrypt", in, &out); err != nil {
		return nil, err
	}
	if out.Sum != sum(out.Plaintext) {
		return nil, errors.New(service + ": what came back does not have its checksum")
	}
	return out.Plaintext, nil
}

func (k *Key) ask(ctx context.Context, verb string, in, out any) error {
	token, err := k.authorize(ctx)
	if err != nil {
		return err
	}
	a, err := k.Caller.Do(ctx, service, call.JSON(or(k.Endpoint, endpoint)+"/v1/"+k.name+":"+verb, in, "Authorization", "Bearer "+token), code)
	if err != nil {
		var refused *call.StatusError
		if errors.As(err, &refused) && refused.Status == http.StatusUnauthorized {
			k.mu.Lock()
			k.token = ""
			k.mu.Unlock()
		}
		return err
	}
	return call.Decode(service, a, out)
}

// code finds the word in an error's body: {"error": {"status": "PERMISSION_DENIED"}}.
func code(body []byte) string {
	var e struct {
		Error struct {
			Status string `json:"status"`
		} `json:"error"`
	}
	_ = json.Unmarshal(body, &e) // else it has none
	return e.Error.Status
}

// authorize returns a token for the service.
func (k *Key) authorize(ctx context.Context) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.token != "" && time.Now().Before(k.ends.Add(-early)) {
		return k.token, nil
	}
	request := k.machine
	if path := os.Getenv("GOOGLE_APPLICATION_CREDENTIALS"); path != "" {
		account, err := openAccount(path)
		if err != nil {
			return "", err
		}
		request = account.request
	}
	a, err := k.Caller.Do(ctx, "google's token service", request, func([]byte) string { return "" })
	if err != nil {
		return "", err
	}
	var out struct {
		Token   string `json:"access_token"`
		Expires int64  `json:"expires_in"` // seconds
	}
	if err := call.Decode("google's token service", a, &out); err != nil {
		return "", err
	}
	if out.Token == "" {
		return "", errors.New("google's token service gives an answer that is not its own")
	}
	k.token, k.ends = out.Token, time.Now().Add(time.Duration(min(out.Expires, 86400))*time.Second)
	return k.token, nil
}

// machine asks the machine's metadata service for a token.
func (k *Key) machine(ctx context.Context) (*http.Request, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, or(k.Metadata, metadata), nil)
	if err != nil {
		return nil, errors.New("no URL")
	}
	q.Header.Set("Metadata-Flavor", "Google")
	return q, nil
}

// account is a service account's key.
type account struct {
	email, address string
	id             string
	key            *rsa.PrivateKey
}

func openAccount(path string) (*account, error) {
	text, err := keyfile.Read(path)
	if err != nil {
		return nil, fmt.Errorf("GOOGLE_APPLICATION_CREDENTIALS: %w", err)
	}
	var in struct {
		Type    string `json:"type"`
		Email   string `json:"client_email"`
		ID      string `json:"private_key_id"`
		Key     string `json:"private_key"`
		Address string `json:"token_uri"`
	}
	if err := json.Unmarshal(text, &in); err != nil || in.Type != "service_account" {
		return nil, fmt.Errorf("GOOGLE_APPLICATION_CREDENTIALS: %s is no service account's JSON key", path)
	}
	block, _ := pem.Decode([]byte(in.Key))
	if block == nil {
		return nil, fmt.Errorf("GOOGLE_APPLICATION_CREDENTIALS: %s has no private key", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*rsa.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("GOOGLE_APPLICATION_CREDENTIALS: %s has no RSA key", path)
	}
	if err := call.CheckURL(in.Address); err != nil {
		return nil, fmt.Errorf("GOOGLE_APPLICATION_CREDENTIALS: %s: token_uri: %w", path, err)
	}
	return &account{in.Email, in.Address, in.ID, key}, nil
}

// request asks for a token with a signed claim, after RFC 7523: a JWT (RFC 7519) with RS256, valid for an hour at most.
func (a *account) request(ctx context.Context) (*http.Request, error) {
	now := time.Now()
	head, err := json.Marshal(map[string]string{"alg": "RS256", "typ": "JWT", "kid": a.id})
	if err != nil {
		return nil, errors.New("writing the claim")
	}
	claim, err := json.Marshal(map[string]any{"iss": a.email, "scope": scope, "aud": a.address, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()})
	if err != nil {
		return nil, errors.New("writing the claim")
	}
	text := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(claim)
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, a.key, crypto.SHA256, digest[:])
	if err != nil {
		return nil, errors.New("signing the claim")
	}
	form := url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {text + "." + base64.RawURLEncoding.EncodeToString(signature)},
	}
	return call.Post(ctx, a.address, "application/x-www-form-urlencoded", []byte(form.Encode()))
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
