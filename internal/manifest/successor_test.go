package manifest_test

import (
	"encoding/hex"
	"strings"
	"testing"

	"consilium.dev/internal/manifest"
)

// epoch1 returns the manifest of testdata/manifest.yaml.
func epoch1(t *testing.T) *manifest.Manifest {
	t.Helper()
	return loaded(t, "manifest.yaml", "cleveland", "budapest", "longbeach")
}

// following returns the text of a manifest that follows m, with the pairs replaced.
func following(t *testing.T, m *manifest.Manifest, pairs ...string) string {
	t.Helper()
	digest := m.Digest()
	text := edited(t, read(t, "manifest.yaml"), "epoch: 1", "epoch: 2", `prev: ""`, `prev: "`+hex.EncodeToString(digest[:])+`"`)
	return edited(t, text, pairs...)
}

func TestSuccessor(t *testing.T) {
	one := epoch1(t)
	payload := build(t, following(t, one, "rounds_max: 200", "rounds_max: 300"))
	signed := envelopeBy(payload, three...)
	two, err := one.Successor(signed)
	if err != nil {
		t.Fatal(err)
	}
	if two.Epoch() != 2 || two.Previous() != one.Digest() || two.Digest() != manifest.Digest(payload) || two.Limits().RoundsMax != 300 ||
		strings.Join(two.Signers(), " ") != "budapest cleveland longbeach" || string(two.Envelope()) != string(signed) {
		t.Errorf("Successor = epoch %d after %x, signed by %v", two.Epoch(), two.Previous(), two.Signers())
	}
	// What was adopted can be loaded by its digest, as after a restart.
	again, err := manifest.Load(two.Envelope(), manifest.Anchor{Digest: two.Digest(), Member: "budapest"})
	if err != nil || again.Previous() != one.Digest() {
		t.Errorf("Load of it = %v", err)
	}
	third := edited(t, following(t, two), "epoch: 2", "epoch: 3")
	if _, err := two.Successor(envelopeBy(build(t, third), three...)); err != nil {
		t.Errorf("the successor's successor = %v", err)
	}
}

func successorsRefused(t *testing.T) {
	one := epoch1(t)
	digest := one.Digest()
	prev := hex.EncodeToString(digest[:])
	good := following(t, one)
	all := append([]string{"governance switzerland"}, three...)
	// Two members of four are replaced; the threshold stays.
	turned := following(t, one, public(t, "governance longbeach"), public(t, "new longbeach"),
		public(t, "governance switzerland"), public(t, "new switzerland"))
	for _, test := range []struct {
		name string
		text string
		keys []string
		want string
	}{
		{"k-1 signatures", good, three[:2], "a successor of epoch 1 needs the signatures of 3 of its 4 members, it has 2"},
		{"nobody's signature", good, nil, "signatures: is empty"},
		{"one signer twice", good, []string{three[0], three[1], three[1]}, "it has 2"},
		{"identity keys", good, []string{three[0], "identity budapest", "identity longbeach"}, "it has 1: cleveland"},
		{"itself", read(t, "manifest.yaml"), three, "is of epoch 1, want 2"},
		{"epoch gap", edited(t, good, "epoch: 2", "epoch: 3"), three, "is of epoch 3, want 2"},
		{"another one before it", edited(t, good, prev, strings.Repeat("00", 32)), three, "follows 0000"},
		{"one bit of prev", edited(t, good, prev, flipped(prev)), three, "the successor follows"},
		{"other federation", edited(t, good, "federation: four-hospitals", "federation: five-hospitals"), three, "of the federation five-hospitals"},
		{"new members' signatures only", turned, []string{three[0], "new longbeach", "new switzerland"}, "a successor of epoch 1 needs the signatures of 3 of its 4 members, it has 1"},
		{"the old threshold, not the new", turned, three, "epoch 2 needs the signatures of 3 of its 4 members, it has 2: budapest, cleveland"},
		{
			"the old threshold lowered by the new", edited(t, good, "  - {name: switzerland", "#  - {name: switzerland", "threshold: 3", "threshold: 2"), three[:2],
			"a successor of epoch 1 needs the signatures of 3 of its 4 members, it has 2",
		},
		{"a higher threshold not met", edited(t, good, "threshold: 3", "threshold: 4"), three, "epoch 2 needs the signatures of 4"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := one.Successor(envelopeBy(build(t, test.text), test.keys...))
			wantManifest(t, m, err, test.want)
		})
	}
	for name, bytes := range map[string][]byte{
		"nothing": nil, "the payload alone": build(t, good), "a broken payload": envelopeBy([]byte(`{"epoch":2}`), all...),
		"not JSON": []byte("epoch: 2"),
	} {
		t.Run(name, func(t *testing.T) {
			m, err := one.Successor(bytes)
			wantManifest(t, m, err, "")
		})
	}
	if _, err := one.Successor(envelopeBy(build(t, turned), append(all, "new longbeach", "new switzerland")...)); err != nil {
		t.Errorf("both thresholds met: %v", err)
	}
	// Going back is no way forward.
	two, err := one.Successor(envelopeBy(build(t, good), three...))
	if err != nil {
		t.Fatal(err)
	}
	m, err := two.Successor(one.Envelope())
	wantManifest(t, m, err, "is of epoch 1, want 3")
}

// flipped returns hex digits with the last one changed.
func flipped(digits string) string {
	last := "0"
	if strings.HasSuffix(digits, "0") {
		last = "1"
	}
	return digits[:len(digits)-1] + last
}

// Where all must agree, whoever gets a new key signs with both, and whoever leaves with the one that it had.
func TestSignSuccessor(t *testing.T) {
	all := append([]string{"governance switzerland"}, three...)
	payload := build(t, edited(t, read(t, "manifest.yaml"), "threshold: 3", "threshold: 4"))
	one, err := manifest.Load(envelopeBy(payload, all...), manifest.Anchor{Digest: manifest.Digest(payload)})
	if err != nil {
		t.Fatal(err)
	}
	text := following(t, one, public(t, "governance longbeach"), public(t, "new longbeach"),
		"  - {name: switzerland", "#  - {name: switzerland")
	next := build(t, text)
	var envelope []byte
	with := func(keys ...string) {
		t.Helper()
		for _, name := range keys {
			if envelope, err = one.SignSuccessor(envelope, next, key(name)); err != nil {
				t.Fatalf("signing with %s: %v", name, err)
			}
		}
	}
	with("governance longbeach", "governance cleveland", "new longbeach", "governance budapest")
	if got, err := one.Signed(envelope); err != nil || strings.Join(got, " ") != "budapest cleveland longbeach" {
		t.Errorf("Signed = %v, %v", got, err)
	}
	m, err := one.Successor(envelope)
	wantManifest(t, m, err, "needs the signatures of 4 of its 4 members, it has 3")
	for name, test := range map[string]struct {
		key  string
		want string
	}{
		"twice, with the new key": {"new longbeach", "longbeach has signed already with this key"},
		"twice, with the old key": {"governance longbeach", "longbeach has signed already with this key"},
		"a person's key":          {"person lead", "no member's governance key in epoch 2"},
		"an identity key":         {"identity budapest", "this is budapest's identity key"},
	} {
		if _, err := one.SignSuccessor(envelope, nil, key(test.key)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	if _, err := manifest.Sign(envelope, nil, key("governance cleveland")); err == nil || !strings.Contains(err.Error(), "name the manifest of epoch 1") {
		t.Errorf("signing without the manifest before: %v", err)
	}
	if _, err := one.SignSuccessor(nil, one.Payload(), key("governance cleveland")); err == nil || !strings.Contains(err.Error(), "is of epoch 1, want 2") {
		t.Errorf("signing what replaces nothing: %v", err)
	}
	with("governance switzerland")
	two, err := one.Successor(envelope)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(two.Signers(), " ") + " | " + strings.Join(two.FormerSigners(), " "); got != "budapest cleveland longbeach | longbeach switzerland" {
		t.Errorf("signers and former signers are %s", got)
	}
	if !strings.Contains(string(envelope), `"`+manifest.FormerKey("switzerland", 1)+`"`) {
		t.Errorf("the envelope names no signature of the epoch before:\n%s", envelope)
	}
	// In whichever order they sign, the envelope is the same.
	first := envelope
	envelope = nil
	with("governance switzerland", "governance budapest", "new longbeach", "governance cleveland", "governance longbeach")
	if string(envelope) != string(first) {
		t.Errorf("the envelope tells who signed first:\n%s\n%s", first, envelope)
	}
}
