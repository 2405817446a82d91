package entry_test

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"consilium.dev/internal/entry"
)

// anyOf draws facts of one kind, with all sorts of text, numbers and lists in them.
func anyOf[F entry.Fact]() *rapid.Generator[entry.Fact] {
	instants := rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(-62e9, 250e9).Draw(t, "second"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanosecond")).UTC()
	})
	schemas := rapid.SampledFrom([]string{`null`, `{}`, `[1,"two",{"three":[null,true,-0.5e-7]}]`, "\"<&>\u2028\\ud800\""})
	params := rapid.MapOf(rapid.String(), rapid.OneOf(
		rapid.Float64Range(-math.MaxFloat64, math.MaxFloat64).AsAny(), rapid.Bool().AsAny(), rapid.String().AsAny(),
	))
	make := rapid.MakeCustom[F](rapid.MakeConfig{Types: map[reflect.Type]*rapid.Generator[any]{
		reflect.TypeFor[time.Time]():       instants.AsAny(),
		reflect.TypeFor[map[string]any]():  params.AsAny(),
		reflect.TypeFor[json.RawMessage](): rapid.Map(schemas, func(s string) json.RawMessage { return json.RawMessage(s) }).AsAny(),
	}})
	return rapid.Map(make, func(f F) entry.Fact { return f })
}

// anyFact draws facts of all kinds.
func anyFact() *rapid.Generator[entry.Fact] {
	return rapid.OneOf(
		anyOf[entry.ManifestAdopted](), anyOf[entry.HandedOver](), anyOf[entry.Booted](), anyOf[entry.Admitted](), anyOf[entry.RunCreated](),
		anyOf[entry.Consented](), anyOf[entry.Declined](), anyOf[entry.Left](), anyOf[entry.RoundOpened](), anyOf[entry.UpdateAccepted](), anyOf[entry.UpdateRefused](),
		anyOf[entry.MasksAgreed](), anyOf[entry.Unmasking](), anyOf[entry.RoundFailed](), anyOf[entry.RoundClosed](), anyOf[entry.Evaluated](), anyOf[entry.RunEnded](), anyOf[entry.TagMoved](), anyOf[entry.Dropped](),
	)
}

// Whatever can be written is read back as it was, but that a list or map of none and no list or map are one.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := entry.Line{
			Salt: [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "salt")),
			At:   time.UnixMicro(rapid.Int64Range(-62e15, 250e15).Draw(t, "at")).UTC(),
			Fact: anyFact().Draw(t, "fact"),
		}
		if err := entry.Check(want.Fact); err != nil {
			t.Fatalf("Check(%+v) = %v", want.Fact, err)
		}
		line := entry.Encode(want.Salt, want.At, want.Fact)
		if bytes.ContainsAny(line, "\n\r") {
			t.Fatalf("Encode = %q, which is more than a line", line)
		}
		got, err := entry.Decode(line)
		if err != nil {
			t.Fatalf("Decode(%s) = %v", line, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("Decode(%s) (-want +got):\n%s", line, diff)
		}
	})
}

// A byte of a line that is changed is refused, or what changed is in what was read: nothing is passed over.
func TestEveryByte(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 2))
	for kind, f := range facts() {
		line := entry.Encode(salt, at, f)
		for i := range line {
			altered := bytes.Clone(line)
			altered[i] ^= 1 << chance.IntN(8)
			l, err := entry.Decode(altered)
			if err == nil && cmp.Equal(l, entry.Line{Salt: salt, At: at, Fact: f}) {
				t.Errorf("%s: byte %d altered to %q: Decode took it for the same line", kind, i, altered[i])
			}
		}
		for i := range line {
			if l, err := entry.Decode(line[:i]); err == nil {
				t.Errorf("%s: cut after %d bytes: Decode = %+v", kind, i, l)
			}
		}
	}
}

// FuzzDecode: nothing panics, and what is a line is one that Encode writes, and comes back.
func FuzzDecode(f *testing.F) {
	for _, fact := range facts() {
		f.Add(entry.Encode(salt, at, fact))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := entry.Decode(text)
		if err != nil {
			return
		}
		again, err := entry.Decode(entry.Encode(l.Salt, l.At, l.Fact))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(l, again); diff != "" {
			t.Errorf("read, written and read again (-once +twice):\n%s", diff)
		}
	})
}
