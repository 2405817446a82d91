package mask_test

import (
	"bytes"
	"errors"
	"testing"

	"consilium.dev/internal/mask"
)

// FuzzParse: keys, announced keys and shares are read in one spelling only, or refused.
func FuzzParse(f *testing.F) {
	k, err := mask.NewKeys(chance(5))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.Bytes())
	f.Add(k.Public().Bytes())
	f.Add(mask.Shares{X: 3, Self: mask.Secret{1}}.Bytes())
	f.Add(make([]byte, mask.PublicSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if keys, err := mask.ParseKeys(b); err == nil && !bytes.Equal(keys.Bytes(), b) {
			t.Errorf("keys %x are read as %x", b, keys.Bytes())
		}
		if p, err := mask.ParsePublic(b); err == nil {
			if !bytes.Equal(p.Bytes(), b) {
				t.Errorf("public keys %x are read as %x", b, p.Bytes())
			}
			if _, err := k.PairMask(try, "a", "b", p); err != nil {
				t.Errorf("public keys %x pass, and then: %v", b, err)
			}
		}
		if s, err := mask.ParseShares(b); err == nil && (!bytes.Equal(s.Bytes(), b) || s.X == 0) {
			t.Errorf("shares %x are read as %x", b, s.Bytes())
		}
	})
}

// FuzzOpen: nothing opens but what was sealed.
func FuzzOpen(f *testing.F) {
	source := chance(6)
	a, err := mask.NewKeys(source)
	if err != nil {
		f.Fatal(err)
	}
	b, err := mask.NewKeys(source)
	if err != nil {
		f.Fatal(err)
	}
	want := mask.Shares{X: 1, Self: mask.Secret{3}, Mask: mask.Secret{4}}
	sealed, err := a.Seal(try, "a", "b", b.Public(), want, source)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(sealed[1:])
	f.Fuzz(func(t *testing.T, changed []byte) {
		if got, err := b.Open(try, "b", "a", a.Public(), changed); err == nil && (got != want || !bytes.Equal(changed, sealed)) {
			t.Errorf("%x opens", changed)
		}
	})
}

// FuzzCombine: whatever is shown as shares gives an error, or a secret that the others give without any one of them.
func FuzzCombine(f *testing.F) {
	f.Add(uint8(2), []byte("\x01ab\x02cd\x03ef"), uint8(2))
	f.Add(uint8(1), []byte("\x01a\x00b"), uint8(1))
	f.Fuzz(func(t *testing.T, threshold uint8, text []byte, length uint8) {
		var shares []mask.Share
		for len(text) > 0 {
			n := min(int(length)+1, len(text))
			shares, text = append(shares, mask.Share{X: text[0], Y: text[1:n]}), text[n:]
		}
		secret, err := mask.Combine(int(threshold), shares)
		if err != nil {
			if secret != nil || !errors.Is(err, mask.ErrShares) && threshold > 0 {
				t.Errorf("Combine = %x, %v", secret, err)
			}
			return
		}
		for i := range shares {
			rest := append(append([]mask.Share{}, shares[:i]...), shares[i+1:]...)
			if len(rest) < int(threshold) {
				continue
			}
			if again, err := mask.Combine(int(threshold), rest); err != nil || !bytes.Equal(again, secret) {
				t.Errorf("without share %d of %d Combine = %x, %v, want %x", i, len(shares), again, err, secret)
			}
		}
		if len(shares) > mask.MaxHolders {
			t.Errorf("%d shares at different places", len(shares))
		}
	})
}
