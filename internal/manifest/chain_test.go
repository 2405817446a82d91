package manifest_test

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"consilium.dev/internal/manifest"
)

// successors returns the signed manifests of the epochs 2 to n after m, which is of epoch 1.
func successors(t *testing.T, m *manifest.Manifest, n int) [][]byte {
	t.Helper()
	var all [][]byte
	for epoch := 2; epoch <= n; epoch++ {
		digest := m.Digest()
		text := edited(t, read(t, "manifest.yaml"), "epoch: 1", fmt.Sprint("epoch: ", epoch), `prev: ""`, `prev: "`+hex.EncodeToString(digest[:])+`"`)
		signed := envelopeBy(build(t, text), three...)
		next, err := m.Successor(signed)
		if err != nil {
			t.Fatal(err)
		}
		all, m = append(all, signed), next
	}
	return all
}

func TestChain(t *testing.T) {
	one := epoch1(t)
	all := successors(t, one, 5)
	first := manifest.NewChain(one)
	c, err := first.Extend(all[:3]...)
	if err != nil {
		t.Fatal(err)
	}
	if c.Newest().Epoch() != 4 || first.Newest().Epoch() != 1 {
		t.Errorf("extended to epoch %d, from a chain that is now at %d, want 4 and 1", c.Newest().Epoch(), first.Newest().Epoch())
	}
	for epoch := range uint64(7) {
		if m, want := c.At(epoch), epoch >= 1 && epoch <= 4; (m != nil) != want || m != nil && m.Epoch() != epoch {
			t.Errorf("At(%d) = %v", epoch, m)
		}
		after := c.After(epoch)
		if want := max(4-int(epoch), 0); len(after) != want {
			t.Errorf("After(%d) has %d manifests, want %d", epoch, len(after), want)
		}
		for i, m := range after {
			if m.Epoch() != epoch+1+uint64(i) || m.Epoch() > 1 && string(m.Envelope()) != string(all[m.Epoch()-2]) {
				t.Errorf("After(%d)[%d] is of epoch %d, or not as it was signed", epoch, i, m.Epoch())
			}
		}
	}
	// A chain that begins later has nothing for whoever could not check its first link.
	later := manifest.NewChain(c.At(3))
	if got := later.After(1); got != nil {
		t.Errorf("a chain from epoch 3 has %d manifests for epoch 1", len(got))
	}
	if got := later.After(2); len(got) != 1 || got[0].Epoch() != 3 {
		t.Errorf("a chain from epoch 3 has %v for epoch 2, want its first", got)
	}
	// What it has may come again, in any number; two that extend one chain do not meet.
	again, err := c.Extend(all[1], one.Envelope(), all[2], all[3])
	if err != nil || again.Newest().Epoch() != 5 {
		t.Errorf("extending by what is there and one more: %v", err)
	}
	other, err := c.Extend(all[3])
	if err != nil || other.Newest() == again.Newest() || c.Newest().Epoch() != 4 {
		t.Errorf("extending the same chain again: %v", err)
	}
}

func chainsRefused(t *testing.T) {
	one := epoch1(t)
	all := successors(t, one, 4)
	sibling := envelopeBy(build(t, following(t, one, "rounds_max: 200", "rounds_max: 300")), three...)
	few := envelopeBy(build(t, following(t, one)), three[:2]...)
	stranger := envelopeBy(build(t, strings.ReplaceAll(following(t, one), "four-hospitals", "five-hospitals")), three...)
	c, err := manifest.NewChain(one).Extend(all[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		from *manifest.Chain
		more [][]byte
		want string
	}{
		{"an epoch left out", manifest.NewChain(one), [][]byte{all[1]}, "is of epoch 3, want 2"},
		{"one left out further on", manifest.NewChain(one), [][]byte{all[0], all[2]}, "is of epoch 4, want 3"},
		{"another one of the same epoch", c, [][]byte{sibling}, "is of epoch 2, want 3"},
		{"too few signatures", manifest.NewChain(one), [][]byte{few}, "needs the signatures of 3 of its 4 members, it has 2"},
		{"another federation", manifest.NewChain(one), [][]byte{stranger}, "of the federation five-hospitals"},
		{"no envelope", c, [][]byte{one.Payload()}, "the envelope"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := test.from.Newest()
			got, err := test.from.Extend(test.more...)
			if got != nil || test.from.Newest() != before {
				t.Errorf("Extend = a chain to epoch %d", got.Newest().Epoch())
			}
			wantManifest(t, nil, err, test.want)
		})
	}
}

// TestOldLog: the epoch with which a new log begins is found in a chain for as long as the chain holds it.
func TestOldLog(t *testing.T) {
	one := epoch1(t)
	chain := manifest.NewChain(one)
	if _, begins := one.OldLog(); begins || len(chain.Begun()) != 0 {
		t.Error("a manifest that says nothing of a log begins one")
	}
	root := strings.Repeat("ab", 32)
	chain, err := chain.Extend(envelopeBy(build(t, following(t, one, "roots:", "old_log: {lines: 5, root: \""+root+"\"}\nroots:")), three...))
	if err != nil {
		t.Fatal(err)
	}
	two := chain.Newest()
	if old, begins := two.OldLog(); !begins || old.Lines != 5 || hex.EncodeToString(old.Root[:]) != root {
		t.Errorf("OldLog = %v, %v", old, begins)
	}
	if chain, err = chain.Extend(envelopeBy(build(t, edited(t, following(t, two), "epoch: 2", "epoch: 3")), three...)); err != nil {
		t.Fatal(err)
	}
	if _, begins := chain.Newest().OldLog(); begins || !slices.Equal(chain.Begun(), []*manifest.Manifest{two}) {
		t.Errorf("the epoch after it begins a log: %v; begun with %v", begins, chain.Begun())
	}
}
