package participant_test

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"go.uber.org/zap"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/store"
)

// TestAddress: an address without a port is refused. It would be dialled at some port of somebody else's choice.
func TestAddress(t *testing.T) {
	o := participant.Options{
		Name: "longbeach", Manifest: &manifest.Manifest{}, Coordinator: "council", Identity: ed25519.PrivateKey{},
		Attester: struct{ attest.Attester }{}, Objects: struct{ store.Objects }{}, KEK: struct{ store.Sealer }{}, Log: zap.NewNop(),
		Verifiers: func(*manifest.Manifest) ([]attest.Verifier, error) { return nil, nil },
	}
	for _, address := range []string{"", "council.example.org", "council.example.org:", "::1", "[::1]", "7443"} {
		o.Address = address
		if _, err := participant.New(o); err == nil || !strings.Contains(err.Error(), "want host:port") {
			t.Errorf("New at %q = %v, want that it wants host:port", address, err)
		}
	}
	for _, address := range []string{"council.example.org:7443", "[::1]:7443"} {
		o.Address = address
		if _, err := participant.New(o); err == nil || !strings.Contains(err.Error(), `no member "longbeach"`) {
			t.Errorf("New at %q = %v, want only that the manifest, which is empty, has no such member", address, err)
		}
	}
}
