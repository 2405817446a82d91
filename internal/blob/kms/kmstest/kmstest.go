// Package kmstest is what the tests of all key services share: a server that fails in every way, and what a key has to make of
// that. It is imported by tests only.
package kmstest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tink-crypto/tink-go/v2/tink"

	"consilium.dev/internal/blob/kms/call"
	"consilium.dev/internal/store"
)

// AEAD returns the key that a fake service keeps: AES-256-GCM with nonces of its own, under a new key.
func AEAD(t *testing.T) cipher.AEAD {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key) //nolint:errcheck // crypto/rand.Read never fails: it ends the program
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	a, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Gate stands before a service and makes it fail. It is safe for concurrent use.
type Gate struct {
	inner http.Handler

	mu    sync.Mutex // guards what follows
	mode  string
	calls int
}

// Calls returns how many requests have come since Reset.
func (g *Gate) Calls() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls
}

// Reset has the service answer again, and counts requests from none.
func (g *Gate) Reset() { g.set("") }

func (g *Gate) set(mode string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mode, g.calls = mode, 0
}

// ServeHTTP answers as the service does, or fails.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.calls++
	mode, n := g.mode, g.calls
	g.mu.Unlock()
	switch {
	case mode == "throttled" && n <= 2:
		w.WriteHeader(http.StatusTooManyRequests)
	case mode == "broken once" && n == 1, mode == "away":
		w.WriteHeader(http.StatusServiceUnavailable)
	case mode == "garbage":
		w.Write([]byte("<html>a proxy's page</html>")) //nolint:errcheck // the caller may be gone
	case mode == "nothing":
		w.Write([]byte("{}")) //nolint:errcheck // likewise
	case mode == "huge":
		w.Write(bytes.Repeat([]byte(" "), 70<<10)) //nolint:errcheck // likewise
	case mode == "denied":
		w.WriteHeader(http.StatusForbidden)
	case mode == "redirected":
		http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
	case mode == "silent":
		io.Copy(io.Discard, r.Body) //nolint:errcheck // only then is it noticed that the caller has hung up
		<-r.Context().Done()
	case mode == "cut":
		panic(http.ErrAbortHandler)
	default:
		g.inner.ServeHTTP(w, r)
	}
}

// Serve starts a service behind a gate, which ends with the test, and returns its address.
func Serve(t *testing.T, inner http.Handler) (*Gate, string) {
	t.Helper()
	g := &Gate{inner: inner}
	s := httptest.NewUnstartedServer(g)
	s.Start()
	t.Cleanup(s.Close)
	return g, s.URL
}

// Faults asks a key through a service that fails in every way, with caller, the key's own, patient or hasty as each way needs.
// nothing is what the error says of an answer without content. Neither a secret nor plaintext may get into an error.
func Faults(t *testing.T, g *Gate, key tink.AEADWithContext, caller *call.Caller, nothing string, secrets ...string) {
	t.Helper()
	patient, hasty := *caller, *caller
	patient.Try, patient.All = 30*time.Second, time.Minute
	hasty.Try, hasty.All = 50*time.Millisecond, 100*time.Millisecond
	plain := []byte("a data key of thirty-two bytes!!")
	*caller = patient
	sealed, err := key.EncryptWithContext(t.Context(), plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode string
		is   error  // nil: none is wanted of that kind
		want string // in the error; "": it succeeds
	}{
		{"throttled", nil, ""},
		{"broken once", nil, ""},
		{"away", store.ErrUnavailable, "does not answer"},
		{"silent", store.ErrUnavailable, "does not answer"},
		{"cut", store.ErrUnavailable, "does not answer"},
		{"garbage", nil, "that is not its own"},
		{"nothing", nil, nothing},
		{"huge", nil, "more than 65536 bytes"},
		{"denied", nil, "403 Forbidden"},
		{"redirected", nil, "302 Found"},
	} {
		for verb, do := range map[string]func() ([]byte, error){
			"Encrypt": func() ([]byte, error) { return key.EncryptWithContext(t.Context(), plain, nil) },
			"Decrypt": func() ([]byte, error) { return key.DecryptWithContext(t.Context(), sealed, nil) },
		} {
			g.set(c.mode)
			if *caller = patient; c.is != nil {
				*caller = hasty
			}
			out, err := do()
			switch {
			case c.want == "" && err != nil:
				t.Errorf("%s, %s: %v, want it to be asked again until it answers", c.mode, verb, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%s, %s: %q, %v, want an error with %q", c.mode, verb, out, err, c.want)
			case c.want != "" && (c.is != nil) != errors.Is(err, store.ErrUnavailable):
				t.Errorf("%s, %s: %v: whether waiting helps is told wrongly", c.mode, verb, err)
			}
			for _, s := range append(secrets, string(plain)) {
				if err != nil && strings.Contains(err.Error(), s) {
					t.Errorf("%s, %s: %q holds a secret", c.mode, verb, err)
				}
			}
		}
	}
	g.Reset()
	*caller = patient
	if text, err := key.DecryptWithContext(t.Context(), sealed, nil); err != nil || !bytes.Equal(text, plain) {
		t.Errorf("afterwards: %q, %v", text, err)
	}
	for i := 0; i < len(sealed); i += 5 {
		altered := bytes.Clone(sealed)
		altered[i] ^= 1
		if text, err := key.DecryptWithContext(t.Context(), altered, nil); err == nil {
			t.Fatalf("byte %d altered: opens as %q", i, text)
		}
	}
}
