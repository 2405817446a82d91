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

func TestSuccessorRefuses(t *testing.T) {
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
