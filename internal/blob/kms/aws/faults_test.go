package aws_test

import (
	"bytes"
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

// gate stands before a service and makes it fail.
type gate struct {
	inner http.Handler

	mu    sync.Mutex // guards what follows
	mode  string
	calls int
}

func (g *gate) set(mode string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mode, g.calls = mode, 0
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
		_, _ = w.Write([]byte("<html>a proxy's page</html>"))
	case mode == "nothing":
		_, _ = w.Write([]byte("{}"))
	case mode == "huge":
		_, _ = w.Write(bytes.Repeat([]byte(" "), 70<<10))
	case mode == "denied":
		w.WriteHeader(http.StatusForbidden)
	case mode == "redirected":
		http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
	case mode == "silent":
		_, _ = io.Copy(io.Discard, r.Body) // only then is it noticed that the caller has hung up
		<-r.Context().Done()
	case mode == "cut":
		panic(http.ErrAbortHandler)
	default:
		g.inner.ServeHTTP(w, r)
	}
}

// serve starts a service behind a gate.
func serve(t *testing.T, inner http.Handler) (*gate, string) {
	t.Helper()
	g := &gate{inner: inner}
	s := httptest.NewUnstartedServer(g)
	s.Start()
	t.Cleanup(s.Close)
	return g, s.URL
}

// testFaults asks a key through a service that fails in every way. Nothing secret may get into an error.
func testFaults(t *testing.T, g *gate, key tink.AEADWithContext, caller *call.Caller, secrets ...string) {
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
		{"nothing", nil, "that is not its own"},
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
	g.set("")
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
