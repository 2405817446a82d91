// Package witness says when a witness cosigns a log, and what a coordinator may do with how many cosignatures.
//
// Storage is not trusted: whoever holds it can put all of it back to an earlier state, or run two coordinators on two copies.
// So some of a federation's members, its witnesses, remember. Each keeps the newest head of the log that it was shown and
// cosigns only what extends that (C2SP tlog-witness). A coordinator has a [Tally]: it appends nothing before a quorum of the
// witnesses has shown what they keep and its own log extends that, and it lets nobody see the closing of a round before a
// quorum has cosigned a head with that line in it. A quorum is more than half, so any two have a witness in common, and that
// one has cosigned one history only: of two copies of a log one at most moves on.
//
//	kept, err := witness.Judge(kept, offer)   // a witness: the caller makes kept durable, and only then cosigns
//
//	t, err := witness.New(names, quorum)      // a coordinator, at its start
//	err = t.Show(name, seen, root)            // once for each witness that has connected
//	if t.Open() { ... }                       // from now on the log may grow
//	t.Propose(head)                           // asks for cosignatures on the log as it is
//	released := t.Cosign(name, head)          // each as it comes; at the last that is needed all lines below head.Size are released
//
// What it takes to deceive: with a quorum of q out of n, the memory of 2q-n witnesses has to be put back too.
//
// The package is pure: no clock, no chance, nothing outside. Proofs are those of RFC 6962, section 2.1.2.
package witness

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Head is a log at one moment: how many lines it has and their Merkle tree hash (RFC 6962). Size 0 means no log at all,
// whatever the root.
type Head struct {
	Size int64
	Root [32]byte
}

// The refusals of a witness.
var (
	ErrFork  = errors.New("two histories of the same length")
	ErrProof = errors.New("it is not shown that the offered log begins with the one that was seen")
	ErrOffer = errors.New("no head that could be cosigned")
)

// StaleError says that an offer goes on from another size than the witness has seen: a newer coordinator, or a newer answer,
// was faster, or the log was put back. A coordinator that has a log of more lines than Kept.Size offers again from there.
type StaleError struct {
	Old  int64 // that the offer goes on from
	Kept Head  // that the witness has seen
}

func (e *StaleError) Error() string {
	return fmt.Sprintf("the offer goes on from %d lines, and this witness has seen %d", e.Old, e.Kept.Size)
}

// Offer asks a witness to cosign a head.
type Offer struct {
	Old   int64 // size of the newest head that the witness is believed to have seen, 0 for none
	Next  Head
	Proof [][32]byte // that the log of Next begins with that of Old lines; none where Old is 0 or Next.Size
}

// Judge returns what a witness that has kept a head keeps from now on, and nil if it may cosign o.Next: the caller makes the
// head durable first. A witness never goes back: with an error, it keeps what it has. Old has to be what it has seen, as C2SP
// tlog-witness asks, or the error is a [*StaleError]. The same head again is cosigned again.
func Judge(kept Head, o Offer) (Head, error) {
	switch {
	case o.Next.Size < 1 || o.Old < 0 || o.Old > o.Next.Size:
		return kept, fmt.Errorf("%w: %d lines after %d", ErrOffer, o.Next.Size, o.Old)
	case o.Old != kept.Size:
		return kept, &StaleError{o.Old, kept}
	}
	if err := o.Next.Extends(kept, o.Proof); err != nil {
		return kept, err
	}
	return o.Next, nil
}

// Extends returns an error unless proof shows that the log at h begins with the log at old. There is no proof, and none may
// come, where old is no log or the sizes are equal.
func (h Head) Extends(old Head, proof [][32]byte) error {
	switch {
	case h.Size < old.Size:
		return fmt.Errorf("%w: %d lines cannot begin with %d", ErrProof, h.Size, old.Size)
	case h.Size == old.Size && h.Size > 0 && h.Root != old.Root:
		return fmt.Errorf("%w: %d lines", ErrFork, h.Size)
	case old.Size == 0 || h.Size == old.Size:
		if len(proof) > 0 {
			return fmt.Errorf("%w: a proof of %d hashes where none is needed", ErrProof, len(proof))
		}
		return nil
	}
	hashes := make(tlog.TreeProof, len(proof))
	for i, p := range proof {
		hashes[i] = p
	}
	if err := tlog.CheckTree(hashes, h.Size, h.Root, old.Size, old.Root); err != nil {
		return fmt.Errorf("%w: %d lines after %d", ErrProof, h.Size, old.Size)
	}
	return nil
}
