package mask

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
)

// Sizes of what is written down, in bytes.
const (
	PublicSize = 3 * 32 // of [Public.Bytes]
	SecretSize = 3 * 32 // of [Keys.Bytes]
)

// Keys are what a member makes for one try, and for no other: the private halves of its two X25519 keys (RFC 7748), and its self seed. Its
// methods do not change it, but for Wipe, and may be called by several goroutines at once.
type Keys struct {
	secret     [3]Secret // sealing key, mask key, self seed
	seal, mask *ecdh.PrivateKey
	public     Public
}

// Public is what a member announces of its keys.
type Public struct {
	Seal [32]byte // X25519, for sealing shares
	Mask [32]byte // X25519, for the seeds of pairwise masks
	Self [32]byte // digest of the self seed, which what shares give is held against
}

// NewKeys draws keys: 96 bytes of chance.
func NewKeys(chance io.Reader) (*Keys, error) {
	var b [SecretSize]byte
	defer clear(b[:])
	if err := draw(chance, b[:]); err != nil {
		return nil, err
	}
	return ParseKeys(b[:])
}

// ParseKeys reads what [Keys.Bytes] has written. It copies b.
func ParseKeys(b []byte) (*Keys, error) {
	if len(b) != SecretSize {
		return nil, fmt.Errorf("keys of %d bytes, want %d", len(b), SecretSize)
	}
	k := &Keys{secret: [3]Secret{Secret(b[:32]), Secret(b[32:64]), Secret(b[64:])}}
	if k.secret[0] == k.secret[1] || k.secret[1] == k.secret[2] || k.secret[0] == k.secret[2] {
		return nil, errors.New("keys that are alike: they were not drawn by chance")
	}
	k.seal, k.mask = k.secret[0].private(), k.secret[1].private()
	k.public = Public{Seal: public(k.seal), Mask: public(k.mask), Self: k.secret[2].digest()}
	return k, nil
}

// Bytes returns the secret halves, for the member's own sealed store: sealing key, mask key, self seed, 32 bytes each.
func (k *Keys) Bytes() []byte {
	return bytes.Join([][]byte{k.secret[0][:], k.secret[1][:], k.secret[2][:]}, nil)
}

// Public returns what is announced.
func (k *Keys) Public() Public { return k.public }

// Wipe overwrites the secrets. To compute with k afterwards is a panic.
func (k *Keys) Wipe() {
	clear(k.secret[:])
	k.seal, k.mask = nil, nil
}

// SelfMask is the term of the member's own mask.
func (k *Keys) SelfMask() Term { return Term{Seed: Seed(k.secret[2])} }

// PairMask is the term of the masks that the member own, whose keys these are, has with another, who announced theirs: minus where the
// other's name comes first. The seed is HKDF-SHA256 (RFC 5869) without salt over the secret of the two mask keys (X25519), with
//
//	info = lp("consilium mask pair v1") ‖ lp(manifest digest) ‖ lp(run) ‖ round u64 ‖ try u64 ‖ lp(name) ‖ lp(mask key) ‖ lp(name) ‖ lp(mask key)
//
// with the names, and their public keys, in ascending order: both sides get the same.
func (k *Keys) PairMask(t Try, own, other string, theirs Public) (Term, error) {
	return between(t, own, k.mask, other, theirs)
}

// Bytes returns the announced keys: sealing key, mask key, digest of the self seed.
func (p Public) Bytes() []byte { return bytes.Join([][]byte{p.Seal[:], p.Mask[:], p.Self[:]}, nil) }

// ParsePublic reads announced keys. Points with which every secret would be zero (RFC 7748, section 6.1) are refused.
func ParsePublic(b []byte) (Public, error) {
	if len(b) != PublicSize {
		return Public{}, fmt.Errorf("public keys of %d bytes, want %d", len(b), PublicSize)
	}
	p := Public{Seal: [32]byte(b[:32]), Mask: [32]byte(b[32:64]), Self: [32]byte(b[64:])}
	probe := Secret{1}.private() // of nobody: every private key finds points of low order alike
	for _, point := range [][32]byte{p.Seal, p.Mask} {
		if _, err := agree(probe, point); err != nil {
			return Public{}, err
		}
	}
	return p, nil
}

// checkSelf reports, by [ErrShares], that a self seed as shares gave it is not that of the member that announced p.
func (p Public) checkSelf(s Secret) error {
	if d := s.digest(); subtle.ConstantTimeCompare(d[:], p.Self[:]) != 1 {
		return fmt.Errorf("%w: not the self seed that was announced", ErrShares)
	}
	return nil
}

// checkMask reports, by [ErrShares], that a mask key as shares gave it is not that of the member that announced p.
func (p Public) checkMask(s Secret) error {
	if q := public(s.private()); subtle.ConstantTimeCompare(q[:], p.Mask[:]) != 1 {
		return fmt.Errorf("%w: not the mask key that was announced", ErrShares)
	}
	return nil
}

// between returns the term of the masks that the member own adds for another: minus where the other's name comes first. It takes own's mask
// key and what the other announced.
func between(t Try, own string, key *ecdh.PrivateKey, other string, theirs Public) (Term, error) {
	if own == other {
		return Term{}, fmt.Errorf("masks of %s with itself", own)
	}
	secret, err := agree(key, theirs.Mask)
	if err != nil {
		return Term{}, fmt.Errorf("masks of %s with %s: %w", own, other, err)
	}
	defer clear(secret)
	low, lowKey, high, highKey := own, public(key), other, theirs.Mask
	if high < low {
		low, lowKey, high, highKey = high, highKey, low, lowKey
	}
	info := t.bind(labelPair)
	info = lp(lp(info, low), lowKey[:])
	info = lp(lp(info, high), highKey[:])
	seed, err := hkdf.Key(sha256.New, secret, nil, string(info), len(Seed{}))
	if err != nil {
		return Term{}, fmt.Errorf("masks of %s with %s: %w", own, other, err)
	}
	defer clear(seed)
	return Term{Seed: Seed(seed), Minus: other < own}, nil
}

// private returns s as a key of X25519, which any 32 bytes are.
func (s Secret) private() *ecdh.PrivateKey {
	k, err := ecdh.X25519().NewPrivateKey(s[:])
	if err != nil {
		panic("mask: 32 bytes are no X25519 key: " + err.Error())
	}
	return k
}

func (s Secret) digest() [32]byte { return sha256.Sum256(lp(lp(nil, labelSelf), s[:])) }

func public(key *ecdh.PrivateKey) [32]byte { return [32]byte(key.PublicKey().Bytes()) }

// agree returns the secret that a key has in common with a public key.
func agree(key *ecdh.PrivateKey, public [32]byte) ([]byte, error) {
	point, err := ecdh.X25519().NewPublicKey(public[:])
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	secret, err := key.ECDH(point)
	if err != nil {
		return nil, errors.New("public key is a point of low order")
	}
	return secret, nil
}
