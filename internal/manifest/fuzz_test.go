package manifest_test

import (
	"bytes"
	"testing"

	"consilium.dev/internal/manifest"
)

// FuzzBuild: whatever people write, Build does not panic; what it builds loads, and building is deterministic.
func FuzzBuild(f *testing.F) {
	f.Add(read(f, "manifest.yaml"))
	f.Add(read(f, "hardware.yaml"))
	f.Add(read(f, "intel.yaml"))
	f.Fuzz(func(t *testing.T, text string) {
		payload, err := manifest.Build([]byte(text))
		if err != nil {
			return
		}
		again, err := manifest.Build([]byte(text))
		if err != nil || !bytes.Equal(again, payload) {
			t.Fatalf("built twice:\n%s\n%s, %v", payload, again, err)
		}
		m, err := manifest.OpenUnverified(payload)
		if err != nil {
			t.Fatalf("what was built does not open: %v\n%s", err, payload)
		}
		if !bytes.Equal(m.Payload(), payload) {
			t.Fatalf("Payload = %s, want %s", m.Payload(), payload)
		}
		// Canonical JSON is YAML, too; built again it is itself.
		same, err := manifest.Build(payload)
		if err != nil || !bytes.Equal(same, payload) {
			t.Fatalf("Build of what was built = %s, %v, want %s", same, err, payload)
		}
	})
}

// FuzzLoad: nobody's bytes panic, and none but the anchor's payload, signed by enough members, loads.
func FuzzLoad(f *testing.F) {
	golden := []byte(read(f, "manifest.dsse.json"))
	payload := []byte(read(f, "manifest.json"))
	f.Add(golden)
	f.Add(envelopeBy(payload, three...))
	f.Add(envelopeBy(payload, three[:2]...))
	anchor := manifest.Anchor{Digest: manifest.Digest(payload)}
	one, err := manifest.Load(golden, anchor)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, signed []byte) {
		m, err := manifest.Load(signed, anchor)
		if err == nil && (!bytes.Equal(m.Payload(), payload) || len(m.Signers()) < 3) {
			t.Fatalf("Load took %s", signed)
		}
		if next, err := one.Successor(signed); err == nil {
			t.Fatalf("Successor took %s", next.Envelope())
		}
	})
}

// FuzzOpenUnverified: whatever opens, opens again from its payload as the same manifest.
func FuzzOpenUnverified(f *testing.F) {
	f.Add([]byte(read(f, "manifest.dsse.json")))
	f.Add([]byte(read(f, "manifest.json")))
	f.Add(build(f, read(f, "hardware.yaml")))
	f.Add(build(f, read(f, "intel.yaml")))
	f.Fuzz(func(t *testing.T, signed []byte) {
		m, err := manifest.OpenUnverified(signed)
		if err != nil {
			return
		}
		again, err := manifest.OpenUnverified(m.Payload())
		if err != nil || again.Digest() != m.Digest() || again.Epoch() != m.Epoch() || again.Federation() != m.Federation() {
			t.Fatalf("opened again: %v, %v", again, err)
		}
	})
}
