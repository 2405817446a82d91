// Package mask computes what it takes to sum vectors of whole numbers so that whoever sums them sees the sum and no summand: pairwise
// masks that cancel. It is arithmetic and formats only. Who sends what to whom, who is believed, and when, is said elsewhere.
//
// The scheme is that of Bonawitz et al. 2017 (SecAgg, ePrint 2017/281, section 4 and figure 4); beyond [MaxHolders] members it goes over
// the sparse graph of Bell et al. 2020 (SecAgg+, ePrint 2020/704, section 3). In this house's words, for one try of a round:
//
//  1. Each member makes [Keys]: a pair of keys for sealing, a pair of keys for masks, and a self seed; it signs its [Announcement].
//  2. A [Graph] says who shares with whom. Each member splits its mask key and its self seed ([Keys.Split]) among its holders: its
//     neighbours and itself. It seals each neighbour's shares ([Keys.Seal]), which the coordinator carries and cannot read.
//  3. A member adds to its vector, modulo 2^64, the expansion of its self seed and, for each neighbour, that of the [Seed] of the two:
//     plus where its name comes first, minus where the neighbour's does ([Keys.PairMask], [Apply]).
//  4. The coordinator adds up what came. Masks between two members who answered have cancelled. Left are the self masks of those who
//     answered, and the pairwise masks of those who answered with those who did not.
//  5. So each holder shows, of a member that answered, its share of the self seed, and of one that did not, its share of the mask key:
//     never both. A threshold of shares gives the secret and with it the masks that are left ([Graph.Unmask]); [Apply] takes them away.
//
// What it hides. From the coordinator and fewer colluding members than the threshold each vector is hidden but for the sum, as long as no
// holder shows both kinds of shares of one member. A self seed is what keeps a vector hidden whose member was called absent and was only
// late. A coordinator that lies about who answered can get both kinds from disjoint holders, unless the threshold t is more than half of
// the holders ([Check]); where c holders collude with it, unless 2t > holders + c. Beyond the complete graph the bounds of [Degree] are
// against a coordinator that asks all alike.
//
// A member masks one vector with the keys of a try, and the very same bytes if it sends it again: whoever had two under the same masks would
// have their difference. A vector that comes once its member was called missing is not taken.
//
// What it does not do. It does not hide who takes part, nor what the sum itself tells, and no mask shows whether a vector is an honest
// one. Of signatures that of an announcement is checked here alone ([OpenAnnouncement]). A wrong share is found, since self seeds and mask keys are held against what was
// announced, and too many of them end the try; a vector that was masked wrongly gives a wrong sum, which the grid's bound makes fail (aggregate.Grid.Mean), but not with
// certainty.
//
// It is an innocent room: chance is a reader that the caller gives, which has to be cryptographic. What is secret decides no branch and no
// place in memory. Wiping is the best that Go allows: what the standard library has copied meanwhile is the collector's.
package mask

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Try names the try of a round that keys are made for. Everything that is derived or sealed binds it, so nothing fits another try.
type Try struct {
	Manifest [32]byte // digest of the federation's manifest
	Run      string
	Round    int
	Try      int // from 1
}

// Secret is a mask key or a self seed: what is split into shares.
type Secret [32]byte

// Seed is what a mask is expanded from: a self seed, or what two members have in common.
type Seed [32]byte

// The labels keep what is hashed, derived and signed here apart from each other and from all else.
const (
	labelAnnounce = "consilium mask announcement v1"
	labelPair     = "consilium mask pair v1"
	labelSeal     = "consilium mask seal v1"
	labelSelf     = "consilium mask self v1"
	labelGraph    = "consilium mask graph v1"
)

// ErrShares is wrapped by the errors of shares that give no secret, or another one than was announced.
var ErrShares = errors.New("shares do not give the secret")

// lp appends x with its length before it, as docs/protocol.md spells it.
func lp[T string | []byte](b []byte, x T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(x)))
	return append(b, x...)
}

// bind begins what is derived, signed or sealed: the label and the try.
func (t Try) bind(label string) []byte {
	b := lp(lp(lp(nil, label), t.Manifest[:]), t.Run)
	b = binary.BigEndian.AppendUint64(b, uint64(t.Round))
	return binary.BigEndian.AppendUint64(b, uint64(t.Try))
}

// GraphSeed returns the seed of the try's graph. Everybody can compute it. Who may choose the try's number or the run's name at will, and
// knows who colludes, can look for a seed that suits him: each time he tries doubles what the bounds of [Degree] leave him.
func (t Try) GraphSeed() [32]byte { return sha256.Sum256(t.bind(labelGraph)) }

// Announcement returns the bytes that a member signs to say which keys it has in this try:
//
//	lp("consilium mask announcement v1") ‖ lp(manifest digest) ‖ lp(run) ‖ round u64 ‖ try u64 ‖ lp(member) ‖ lp(public keys)
//
// with lp as in docs/protocol.md, section 1, and public keys as [Public.Bytes] has them.
func Announcement(t Try, member string, p Public) []byte {
	return lp(lp(t.bind(labelAnnounce), member), p.Bytes())
}

// ErrUnsigned says that keys are not their member's.
var ErrUnsigned = errors.New("the keys are not signed by the member's identity key for this try")

// OpenAnnouncement returns the public keys that a member announces in a try, where they are such and the member's identity key has signed them
// (Ed25519): else its error is [ErrUnsigned], also where there is no such key.
func OpenAnnouncement(t Try, member string, identity ed25519.PublicKey, keys, signature []byte) (Public, error) {
	p, err := ParsePublic(keys)
	if err != nil {
		return Public{}, err
	}
	if len(identity) != ed25519.PublicKeySize || !ed25519.Verify(identity, Announcement(t, member, p), signature) {
		return Public{}, ErrUnsigned
	}
	return p, nil
}

// draw fills dst with chance.
func draw(chance io.Reader, dst []byte) error {
	if _, err := io.ReadFull(chance, dst); err != nil {
		return fmt.Errorf("reading chance: %w", err)
	}
	return nil
}
