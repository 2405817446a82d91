package mask

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

const (
	nonceSize  = 12
	sharesSize = 1 + 2*32
	// SealedSize is the length of what [Keys.Seal] returns: nonce, shares, tag.
	SealedSize = nonceSize + sharesSize + 16
)

// Shares are what one holder keeps of one member's secrets. It shows one of the two, or none, and never both.
type Shares struct {
	X    byte // the holder's place
	Self Secret
	Mask Secret
}

// SelfShare returns the share of the self seed.
func (s Shares) SelfShare() Share { return Share{s.X, s.Self[:]} }

// MaskShare returns the share of the mask key.
func (s Shares) MaskShare() Share { return Share{s.X, s.Mask[:]} }

// Bytes returns the shares as they are sealed and kept: place, share of the self seed, share of the mask key.
func (s Shares) Bytes() []byte {
	return append(append([]byte{s.X}, s.Self[:]...), s.Mask[:]...)
}

// ParseShares reads what [Shares.Bytes] has written.
func ParseShares(b []byte) (Shares, error) {
	if len(b) != sharesSize {
		return Shares{}, fmt.Errorf("shares of %d bytes, want %d", len(b), sharesSize)
	}
	if b[0] == 0 {
		return Shares{}, errors.New("shares at 0, where the secret is")
	}
	return Shares{X: b[0], Self: Secret(b[1:33]), Mask: Secret(b[33:])}, nil
}

// Split divides self seed and mask key among so many holders; the holder at place x, from 1, gets the shares number x-1.
func (k *Keys) Split(threshold, holders int, chance io.Reader) ([]Shares, error) {
	if holders < 1 || holders > MaxHolders {
		return nil, fmt.Errorf("%d holders of a secret, want 1 to %d", holders, MaxHolders)
	}
	xs := make([]byte, holders)
	for i := range xs {
		xs[i] = byte(i + 1)
	}
	self, err := Split(k.secret[2][:], threshold, xs, chance)
	if err != nil {
		return nil, fmt.Errorf("splitting the self seed: %w", err)
	}
	key, err := Split(k.secret[1][:], threshold, xs, chance)
	if err != nil {
		return nil, fmt.Errorf("splitting the mask key: %w", err)
	}
	all := make([]Shares, holders)
	for i, x := range xs {
		all[i] = Shares{x, Secret(self[i].Y), Secret(key[i].Y)}
	}
	return all, nil
}

// combineSecret is [Combine] for a self seed or a mask key.
func combineSecret(threshold int, shares []Share) (Secret, error) {
	b, err := Combine(threshold, shares)
	if err != nil {
		return Secret{}, err
	}
	defer clear(b)
	if len(b) != len(Secret{}) {
		return Secret{}, fmt.Errorf("%w: they are of %d bytes, want %d", ErrShares, len(b), len(Secret{}))
	}
	return Secret(b), nil
}

// Seal seals shares from the member own, whose keys these are, to another, who announced theirs: a nonce of 12 random bytes and AES-256-GCM
// (NIST SP 800-38D), [SealedSize] bytes in all. The key is HKDF-SHA256 without salt over the secret of the two sealing keys, with
//
//	info = lp("consilium mask seal v1") ‖ lp(manifest digest) ‖ lp(run) ‖ round u64 ‖ try u64 ‖ lp(from) ‖ lp(sealing key) ‖ lp(to) ‖ lp(sealing key)
//
// which is the additional data too: each direction has its own key.
func (k *Keys) Seal(t Try, own, other string, theirs Public, s Shares, chance io.Reader) ([]byte, error) {
	info := sealInfo(t, own, k.public, other, theirs)
	gcm, err := k.sealer(info, theirs)
	if err != nil {
		return nil, fmt.Errorf("sealing shares for %s: %w", other, err)
	}
	sealed := make([]byte, nonceSize, SealedSize)
	if err := draw(chance, sealed); err != nil {
		return nil, fmt.Errorf("sealing shares for %s: %w", other, err)
	}
	plain := s.Bytes()
	defer clear(plain)
	return gcm.Seal(sealed, sealed, plain, info), nil
}

// Open opens what the other sealed for own, whose keys these are. That X is own's place among the other's holders ([Graph.X]) is for the
// caller to see to: shares at another place are worth nothing.
func (k *Keys) Open(t Try, own, other string, theirs Public, sealed []byte) (Shares, error) {
	if len(sealed) != SealedSize {
		return Shares{}, fmt.Errorf("sealed shares of %s have %d bytes, want %d", other, len(sealed), SealedSize)
	}
	info := sealInfo(t, other, theirs, own, k.public)
	gcm, err := k.sealer(info, theirs)
	if err != nil {
		return Shares{}, fmt.Errorf("opening shares of %s: %w", other, err)
	}
	plain, err := gcm.Open(nil, sealed[:nonceSize], sealed[nonceSize:], info)
	if err != nil {
		return Shares{}, fmt.Errorf("shares of %s are not sealed by it for %s in this try", other, own)
	}
	defer clear(plain)
	s, err := ParseShares(plain)
	if err != nil {
		return Shares{}, fmt.Errorf("shares of %s: %w", other, err)
	}
	return s, nil
}

func sealInfo(t Try, from string, fromKeys Public, to string, toKeys Public) []byte {
	info := t.bind(labelSeal)
	info = lp(lp(info, from), fromKeys.Seal[:])
	return lp(lp(info, to), toKeys.Seal[:])
}

func (k *Keys) sealer(info []byte, theirs Public) (cipher.AEAD, error) {
	secret, err := agree(k.seal, theirs.Seal)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	key, err := hkdf.Key(sha256.New, secret, nil, string(info), 32)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
