package round_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// The facts of a run of three members that tests change one at a time.

var (
	adopted = entry.ManifestAdopted{Federation: "f", Epoch: 3, Manifest: entry.Digest{3}, Previous: entry.Digest{2}}
	zeros   = entry.Blob{Plain: digest("zeros"), Sealed: digest("sealed"), Size: 8}
	first   = entry.Blob{Plain: digest("first"), Sealed: digest("sealed first"), Size: 8}
)

func created() entry.RunCreated {
	return entry.RunCreated{
		Run: "run", Request: "request", Lead: "lead", Members: []entry.Member{"a", "b", "c"}, Initial: &zeros, Model: digest("zeros"),
		Plan: entry.Plan{
			Trainer: "builtin/logistic", Strategy: entry.Strategy{Name: "fedavg"}, Rounds: 2, Quorum: 2, Tries: 2,
			Deadline: entry.Duration(time.Minute), MaxAbs: 16,
		},
	}
}

func consented(m entry.Member, records int64) entry.Consented {
	return entry.Consented{Run: "run", Member: m, Records: records}
}

func opened() entry.RoundOpened {
	return entry.RoundOpened{
		Run: "run", Round: 1, Try: 1, Kind: entry.Training, Base: &zeros, Model: digest("zeros"), Deadline: start.Add(time.Minute),
		Selected: []entry.Share{{Member: "a", Weight: 100}, {Member: "b", Weight: 200}, {Member: "c", Weight: 300}}, Bound: 1e-14,
	}
}

func accepted(m entry.Member, weight int64) entry.UpdateAccepted {
	return entry.UpdateAccepted{Run: "run", Round: 1, Try: 1, Member: m, Update: digest(m), Weight: weight, Bytes: 8}
}

func refused(m entry.Member) entry.UpdateRefused {
	return entry.UpdateRefused{Run: "run", Round: 1, Try: 1, Member: m, Update: digest("bad"), Reason: "value"}
}

func closed() entry.RoundClosed {
	return entry.RoundClosed{
		Run: "run", Round: 1, Try: 1, Kind: entry.Training, Base: digest("zeros"), Model: digest("first"), Blob: first,
		Members: []entry.Contribution{{Member: "a", Weight: 100, Update: digest("a")}, {Member: "b", Weight: 200, Update: digest("b")}},
	}
}

func evaluated(m entry.Member) entry.Evaluated {
	return entry.Evaluated{Run: "run", Round: 1, Member: m, Model: digest("first")}
}

// with returns a changed copy of a fact.
func with[F entry.Fact](f F, change func(*F)) entry.Fact {
	change(&f)
	return f
}

// The logs that tests begin with: each goes on where the one before it stops.
func untilCreated() []entry.Fact {
	return []entry.Fact{adopted, entry.Booted{}, created()}
}

func untilConsented() []entry.Fact {
	return append(untilCreated(), consented("a", 100), consented("b", 200), consented("c", 300))
}

func untilOpened() []entry.Fact { return append(untilConsented(), opened()) }

// untilSent ends with two updates accepted, and c out of the try.
func untilSent() []entry.Fact {
	log := append(untilOpened(), accepted("a", 100), accepted("b", 200))
	for range 8 {
		log = append(log, refused("c"))
	}
	return log
}

func untilClosed() []entry.Fact { return append(untilSent(), closed(), evaluated("a")) }

// untilFinished ends with the last round closed.
func untilFinished() []entry.Fact {
	log := append(untilClosed(), with(opened(), func(f *entry.RoundOpened) { f.Round, f.Base, f.Model = 2, &first, digest("first") }))
	for _, f := range []entry.UpdateAccepted{accepted("a", 100), accepted("b", 200)} {
		f.Round = 2
		log = append(log, f)
	}
	return append(log, with(closed(), func(f *entry.RoundClosed) { f.Round, f.Base, f.Model = 2, digest("first"), digest("second") }))
}

func untilEnded() []entry.Fact {
	return append(untilFinished(), entry.RunEnded{Run: "run", Outcome: "completed"})
}

// folded returns the state after a log, all of it at the instant start.
func folded(t testing.TB, log []entry.Fact) *round.State {
	t.Helper()
	s := round.New()
	for i, f := range log {
		if err := s.Apply(start, f); err != nil {
			t.Fatalf("fact %d, %T: %v", i, f, err)
		}
	}
	return s
}

// mustEqual fails the test where got differs from want in anything, seen from outside or not.
func mustEqual(t testing.TB, what string, got, want *round.State) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s changed the state:\n%s", what, cmp.Diff(got.Runs(), want.Runs()))
	}
}

// panics returns what f panicked with, "" for nothing.
func panics(f func()) (with string) {
	defer func() {
		if r := recover(); r != nil {
			with = fmt.Sprint(r)
		}
	}()
	f()
	return ""
}
