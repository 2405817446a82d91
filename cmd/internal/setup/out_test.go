package setup_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"consilium.dev/cmd/internal/setup"
	"consilium.dev/internal/daemon"
	"consilium.dev/internal/porter"
	"consilium.dev/internal/socket"
)

// vault is a key service that says back what it is asked to encrypt.
func vault(t *testing.T, asked *int) *httptest.Server {
	t.Helper()
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked++
		var q struct {
			Plaintext  string `json:"plaintext"`
			Ciphertext string `json:"ciphertext"`
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Errorf("the question cannot be read: %v", err)
		}
		answer := map[string]string{"ciphertext": "vault:v1:" + q.Plaintext}
		if q.Ciphertext != "" {
			answer = map[string]string{"plaintext": strings.TrimPrefix(q.Ciphertext, "vault:v1:")}
			if _, err := base64.StdEncoding.DecodeString(answer["plaintext"]); err != nil {
				t.Errorf("the ciphertext is not what was given: %v", err)
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"data": answer})
	}))
}

// host runs a porter that leads to what is listed, and returns its address.
func host(t *testing.T, allow string, hooks ...func(zapcore.Entry) error) string {
	t.Helper()
	lis, err := socket.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(io.Discard), zap.InfoLevel), zap.Hooks(hooks...))
	p, err := porter.New(porter.Options{Connect: lis, Allow: []string{allow}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Errorf("the host's proxy: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); all.Wait() })
	return lis.Addr().String()
}

// TestWayOut: a key service is asked through the enclave's way out and by no other, whatever the environment says.
func TestWayOut(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "a-token")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	asked := 0
	service := vault(t, &asked)
	defer service.Close()
	at := strings.TrimPrefix(service.URL, "http://")
	const name = "vault.invalid:8200" // which nobody looks up: it is not listed
	c := setup.Enclave{Store: "dir:" + t.TempDir(), KEK: "vault:" + service.URL + "/transit/consilium", Out: "http://" + host(t, at)}
	if _, _, err := c.TryKEK(t.Context(), daemon.Env{Log: zap.NewNop()}, nil); err != nil || asked != 2 {
		t.Errorf("through the way out: %v, and the service was asked %d times, want twice", err, asked)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	refusals := 0
	c.Out = "http://" + host(t, name, func(e zapcore.Entry) error {
		if e.Message == "not carried" {
			refusals++
			cancel() // or it would be asked again for half a minute
		}
		return nil
	})
	asked = 0
	if _, _, err := c.TryKEK(ctx, daemon.Env{Log: zap.NewNop()}, nil); err == nil || asked != 0 || refusals != 1 {
		t.Errorf("by a way that does not lead there: %v, after %d refusals, and the service was asked %d times", err, refusals, asked)
	}
	c.Out = "vsock:3"
	if _, _, err := c.TryKEK(t.Context(), daemon.Env{Log: zap.NewNop()}, nil); err == nil || !strings.Contains(err.Error(), "out: url: ") {
		t.Errorf("with a way that cannot be read: %v", err)
	}
}
