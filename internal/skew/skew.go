// Package skew judges clocks by each other. Nobody's clock is trusted alone: a member whose clock is far from the coordinator's
// is not followed, and a coordinator that most of its members contradict does not trust its own, so that a clock that has jumped
// stamps no facts with a time that others cannot take back.
//
// It reads no clock: how far another one is ahead is an argument.
//
//	if skew.Far(theirs.Sub(ours), limit) { ... }          // one peer
//	if err := skew.Judge(readings, limit); err != nil { ... } // our own clock
package skew

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Default is the limit where none is set. Machines that keep time by NTP are within milliseconds, and a message that took a
// slow link is late by seconds.
const Default = 2 * time.Minute

// Reading is what one member's clock says.
type Reading struct {
	Member string
	Ahead  time.Duration // of ours; negative: behind
}

// Error says that our own clock cannot be trusted.
type Error struct {
	Ahead   time.Duration // how far the members' median is ahead of ours
	Limit   time.Duration
	Members []string // those whose clocks are as far or farther, ascending
	Of      int      // of how many there is a reading
}

func (e *Error) Error() string {
	return fmt.Sprintf("own clock: %s the median of %d members' clocks (%s), at most %s is allowed; nothing is written until they agree",
		Text(-e.Ahead), e.Of, strings.Join(e.Members, ", "), e.Limit)
}

// Text says how a clock that is ahead by so much stands to another, whose name is to follow: "5s behind", "5s ahead of", "as". What is less
// than a second is said to the millisecond.
func Text(ahead time.Duration) string {
	unit := time.Second
	if ahead.Abs() < time.Second {
		unit = time.Millisecond
	}
	switch off := ahead.Abs().Round(unit); {
	case off == 0:
		return "as"
	case ahead < 0:
		return off.String() + " behind"
	default:
		return off.String() + " ahead of"
	}
}

// Far reports whether a clock that is ahead by so much, or behind, is beyond limit.
func Far(ahead, limit time.Duration) bool { return ahead > limit || ahead < -limit }

// Judge returns an [*Error] if our own clock is the wrong one: if the median of the members' is beyond limit. Of an even number
// both in the middle have to be, on the same side. One member alone convicts nobody, so it takes two to stop a coordinator, and
// as many as half of those that can be read.
func Judge(readings []Reading, limit time.Duration) error {
	n := len(readings)
	if n < 2 {
		return nil
	}
	ahead, behind := 0, 0
	for _, r := range readings {
		if r.Ahead > limit {
			ahead++
		} else if r.Ahead < -limit {
			behind++
		}
	}
	if max(ahead, behind) <= n/2 { // then the middle is within the limit, and need not be found
		return nil
	}
	sorted := slices.SortedFunc(slices.Values(readings), func(a, b Reading) int { return cmp.Compare(a.Ahead, b.Ahead) })
	low, high := sorted[(n-1)/2].Ahead, sorted[n/2].Ahead
	var e *Error
	switch {
	case low > limit:
		e = &Error{Ahead: low, Limit: limit, Of: n}
	case high < -limit:
		e = &Error{Ahead: high, Limit: limit, Of: n}
	default:
		return nil
	}
	for _, r := range sorted {
		if low > limit && r.Ahead >= low || high < -limit && r.Ahead <= high {
			e.Members = append(e.Members, r.Member)
		}
	}
	slices.Sort(e.Members)
	return e
}
