package identity_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"consilium.dev/internal/identity"
)

func TestCreateAndOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "north.key")
	public, err := identity.Create(path)
	if err != nil {
		t.Fatalf("Create = %v, want no error", err)
	}
	key, err := identity.Open("file:" + path)
	if err != nil {
		t.Fatalf("Open = %v, want no error", err)
	}
	if got, ok := key.Public().(ed25519.PublicKey); !ok || !got.Equal(public) {
		t.Errorf("Public = %v, want %v", key.Public(), public)
	}
	message := []byte("a manifest")
	signature, err := key.Sign(rand.Reader, message, crypto.Hash(0))
	if err != nil || !ed25519.Verify(public, message, signature) {
		t.Errorf("Sign = %x, %v, which the public key does not verify", signature, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode = %v, %v, want a regular file of 0600", info.Mode(), err)
	}
	other, err := identity.Create(filepath.Join(t.TempDir(), "south.key"))
	if err != nil || other.Equal(public) {
		t.Errorf("Create = %v, %v, want another key each time", other, err)
	}
}

// TestCreateNeverReplaces: a key that is there is kept, also where many begin at once.
func TestCreateNeverReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "north.key")
	var made [8]ed25519.PublicKey
	var errs [8]error
	var wg sync.WaitGroup
	for i := range made {
		wg.Go(func() { made[i], errs[i] = identity.Create(path) })
	}
	wg.Wait()
	key, err := identity.Open("file:" + path)
	if err != nil {
		t.Fatal(err)
	}
	winners := 0
	for i, err := range errs {
		switch {
		case err == nil:
			winners++
			if !made[i].Equal(key.Public()) {
				t.Error("Create returned another key than the file holds")
			}
		case !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), path):
			t.Errorf("Create = %v, want %v with the path", err, fs.ErrExist)
		}
	}
	if winners != 1 {
		t.Errorf("%d calls made the key, want one", winners)
	}
}

// fixed is the key of RFC 8410, section 10.3, in PEM, and its public half as section 10.1 has it.
const (
	fixed = `-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
`
	fixedPublic = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "k.pem")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestOpenForeign reads a key that another program wrote, and spells its public half as manifests do.
func TestOpenForeign(t *testing.T) {
	for name, text := range map[string]string{"as published": fixed, "CRLF": strings.ReplaceAll(fixed, "\n", "\r\n"), "space around": "\n" + fixed + "\n \n"} {
		key, err := identity.Open("file:" + write(t, text))
		if err != nil {
			t.Errorf("%s: Open = %v, want no error", name, err)
			continue
		}
		if got := identity.Text(key.Public().(ed25519.PublicKey)); got != fixedPublic {
			t.Errorf("%s: Text = %s, want %s", name, got, fixedPublic)
		}
	}
}

// block is a PEM block around a key.
func block(t *testing.T, kind string, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestOpenRefuses(t *testing.T) {
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Split(fixed, "\n")[1]
	const one = `want one PEM block "PRIVATE KEY", without headers, and nothing else`
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", one},
		{"no PEM", body, one},
		{"DER", string(mustDecode(t, body)), one},
		{"cut off", fixed[:len(fixed)-10], one},
		{"another type of block", strings.ReplaceAll(fixed, "PRIVATE KEY", "SECRET KEY"), one},
		{"public key", "-----BEGIN PUBLIC KEY-----\n" + fixedPublic + "\n-----END PUBLIC KEY-----\n", one},
		{"SEC 1", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})), one},
		{"encrypted", strings.ReplaceAll(fixed, "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), one},
		{"headers", strings.Replace(fixed, "\n", "\nProc-Type: 4,ENCRYPTED\n\n", 1), one},
		{"two keys", fixed + fixed, one},
		{"text behind", fixed + "north's key", one},
		{"text before", "north's key: " + body + "\n" + fixed, one},
		{"no DER", "-----BEGIN PRIVATE KEY-----\n" + base64.StdEncoding.EncodeToString([]byte(body)) + "\n-----END PRIVATE KEY-----\n", "the PEM block holds no PKCS #8 key"},
		{"half a key", "-----BEGIN PRIVATE KEY-----\n" + body[:48] + "\n-----END PRIVATE KEY-----\n", "the PEM block holds no PKCS #8 key"},
		{"P-256", block(t, "PRIVATE KEY", curve), "a key of the kind *ecdsa.PrivateKey, want Ed25519"},
		{"RSA", block(t, "PRIVATE KEY", large), "a key of the kind *rsa.PrivateKey, want Ed25519"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := write(t, c.text)
			key, err := identity.Open("file:" + path)
			if err == nil || err.Error() != "key file "+path+": "+c.want {
				t.Errorf("Open = %v, want %q", err, "key file "+path+": "+c.want)
			}
			if key != nil {
				t.Error("Open gives a key beside an error")
			}
			if err != nil && (strings.Contains(err.Error(), body[:10]) || strings.Contains(err.Error(), "north")) {
				t.Errorf("Open = %v, which repeats what the file holds", err)
			}
		})
	}
}

func mustDecode(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOpenURI: only file: is known; a URI is never repeated, as it may be the key itself.
func TestOpenURI(t *testing.T) {
	path := write(t, fixed)
	for _, uri := range []string{"", "file:", path, "FILE:" + path, "pkcs11:token=secret", "awskms://secret", fixed, "hunter2secret"} {
		_, err := identity.Open(uri)
		if err == nil || err.Error() != "key: want file:PATH" {
			t.Errorf("Open(%q) = %v, want an error that says what is wanted and no more", uri, err)
		}
	}
	if _, err := identity.Open("file:" + path + ".none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of a file that is not there = %v, want %v", err, fs.ErrNotExist)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Open("file:" + path); err == nil || !strings.Contains(err.Error(), "mode 0644") {
		t.Errorf("Open of a file that others may read = %v, want an error with its mode", err)
	}
}
