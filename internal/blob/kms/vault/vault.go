// Package vault uses a key of the transit engine of HashiCorp Vault or OpenBao as a key-encryption key. The key never leaves the
// server; it has to be one for AEAD (aes256-gcm96, chacha20-poly1305).
//
// The URI is vault:https://HOST[:PORT]/MOUNT/KEY, for example vault:https://vault.example.org:8200/transit/consilium. The token is
// that of the environment's VAULT_TOKEN, or of the file that VAULT_TOKEN_FILE names (mode 0600, read again at each request, so that
// an agent can renew it); VAULT_NAMESPACE is sent if it is set. The token's policy needs "update" on MOUNT/encrypt/KEY and
// MOUNT/decrypt/KEY, and nothing else.
//
// Who can unwrap: whoever has such a token. If it lies on a disk or in an environment that the host reads, that is the host's
// owner too.
//
// It is tested against a server of the tests that speaks the public HTTP API, not against a real one.
package vault

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/tink-crypto/tink-go/v2/tink"

	"consilium.dev/internal/blob/kms/call"
)

// Unwraps says who can open what the key has sealed, for the log.
const Unwraps = "whoever has a token for the transit key; with a token that lies on the host, the host's owner"

// Key is a transit key. It is safe for concurrent use.
type Key struct {
	Caller call.Caller

	base, mount, name string
}

var _ tink.AEADWithContext = (*Key)(nil)

// Open returns the key that a URI names, without its scheme "vault:". It asks nothing yet.
func Open(address string) (*Key, error) {
	if err := call.CheckURL(address); err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("vault: no URL")
	}
	mount, name := "", strings.Trim(u.Path, "/")
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		mount, name = name[:i], name[i+1:]
	}
	if mount == "" || name == "" {
		return nil, fmt.Errorf("vault:%s: want vault:https://HOST[:PORT]/MOUNT/KEY", address)
	}
	return &Key{base: u.Scheme + "://" + u.Host, mount: mount, name: name}, nil
}

// EncryptWithContext is that of [tink.AEADWithContext].
func (k *Key) EncryptWithContext(ctx context.Context, plaintext, ad []byte) ([]byte, error) {
	var out struct {
		Data struct {
			Ciphertext string `json:"ciphertext"`
		} `json:"data"`
	}
	if err := k.ask(ctx, "encrypt", body(ad, "plaintext", base64.StdEncoding.EncodeToString(plaintext)), &out); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(out.Data.Ciphertext, "vault:v") {
		return nil, errors.New("vault gives an answer that is not its own")
	}
	return []byte(out.Data.Ciphertext), nil
}

// DecryptWithContext is that of [tink.AEADWithContext].
func (k *Key) DecryptWithContext(ctx context.Context, ciphertext, ad []byte) ([]byte, error) {
	var out struct {
		Data struct {
			Plaintext *string `json:"plaintext"`
		} `json:"data"`
	}
	if err := k.ask(ctx, "decrypt", body(ad, "ciphertext", string(ciphertext)), &out); err != nil {
		return nil, err
	}
	if out.Data.Plaintext == nil {
		return nil, errors.New("vault gives an answer that is not its own")
	}
	text, err := base64.StdEncoding.DecodeString(*out.Data.Plaintext)
	if err != nil {
		return nil, errors.New("vault gives an answer that is not its own")
	}
	return text, nil
}

func body(ad []byte, name, value string) map[string]string {
	b := map[string]string{name: value}
	if len(ad) > 0 {
		b["associated_data"] = base64.StdEncoding.EncodeToString(ad)
	}
	return b
}

func (k *Key) ask(ctx context.Context, verb string, body map[string]string, out any) error {
	token, err := call.Secret("VAULT_TOKEN")
	if err != nil {
		return err
	}
	if token == "" {
		return errors.New("vault: no token: set VAULT_TOKEN or VAULT_TOKEN_FILE")
	}
	headers := []string{"X-Vault-Token", token, "X-Vault-Request", "true"}
	if ns := os.Getenv("VAULT_NAMESPACE"); ns != "" {
		headers = append(headers, "X-Vault-Namespace", ns)
	}
	a, err := k.Caller.Do(ctx, "vault", call.JSON(k.base+"/v1/"+k.mount+"/"+verb+"/"+k.name, body, headers...), func([]byte) string { return "" })
	if err != nil {
		return err
	}
	return call.Decode("vault", a, out)
}
