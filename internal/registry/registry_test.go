package registry_test

import (
	"crypto/sha256"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/registry"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func digest(name string) entry.Digest {
	if name == "" {
		return entry.Digest{}
	}
	return sha256.Sum256([]byte(name))
}

func blob(model string) entry.Blob {
	return entry.Blob{Plain: digest("blob of " + model), Sealed: digest("sealed " + model), Size: int64(len(model))}
}

// created begins a run named after its id; initial is its first model, "" for a run with statistics.
func created(run, initial string) entry.RunCreated {
	f := entry.RunCreated{
		Run: run, Manifest: digest("manifest"), Plan: entry.Plan{
			Name: "name of " + run, Strategy: entry.Strategy{Name: "fedavg", Params: map[string]any{"learning_rate": 0.5}}, Masks: true,
		},
	}
	if initial != "" {
		b := blob(initial)
		f.Initial, f.Model = &b, digest(initial)
	}
	return f
}

func closed(run string, number int, base, model string, members ...entry.Member) entry.RoundClosed {
	f := entry.RoundClosed{
		Run: run, Round: number, Try: 1, Base: digest(base), Model: digest(model), Blob: blob(model), Spent: entry.Spent{Epsilon: float64(number)},
	}
	for _, m := range members {
		f.Members = append(f.Members, entry.Contribution{Member: m, Weight: 10, Update: digest(string(m))})
	}
	return f
}

func evaluated(run string, number int, model string, m entry.Member) entry.Evaluated {
	return entry.Evaluated{Run: run, Round: number, Model: digest(model), Member: m}
}

func tagged(tag, from, model string) entry.TagMoved {
	return entry.TagMoved{Tag: tag, From: digest(from), Model: digest(model), By: "lead"}
}

// folded returns the index after a log; the fact at position n is of n seconds after the start.
func folded(t testing.TB, log ...entry.Fact) *registry.Index {
	t.Helper()
	x := registry.New()
	for i, f := range log {
		if err := x.Apply(int64(i), start.Add(time.Duration(i)*time.Second), f); err != nil {
			t.Fatalf("fact %d, %+v: %v", i, f, err)
		}
	}
	return x
}

// begun are the facts that the tests' logs begin with.
func begun() []entry.Fact {
	return []entry.Fact{
		entry.ManifestAdopted{Epoch: 1, Manifest: digest("manifest"), Witnesses: "none: a test"},
		entry.Booted{Simulated: "root", Sets: []string{"coordinator-1"}},
	}
}

func mustResolve(t testing.TB, x *registry.Index, text string) registry.Version {
	t.Helper()
	v, err := x.Resolve(text)
	if err != nil {
		t.Fatalf("Resolve(%q): %v", text, err)
	}
	return v
}

func TestVersions(t *testing.T) {
	x := folded(t, append(begun(), created("r", "zeros"), closed("r", 1, "zeros", "one", "a", "b"), evaluated("r", 1, "one", "b"),
		evaluated("r", 1, "one", "a"), closed("r", 2, "one", "two", "a"), tagged("champion", "", "two"), tagged("candidate", "", "two"),
		entry.UpdateAccepted{Run: "r"}, entry.RunEnded{Run: "r"})...)
	zeros := registry.Version{
		Model: digest("zeros"), Blob: blob("zeros"), Run: "r", RunName: "name of r", Created: start.Add(2 * time.Second), Strategy: "fedavg",
		Params: map[string]any{"learning_rate": 0.5}, Masked: true,
		Position: 2, Manifest: digest("manifest"), Sets: []string{"coordinator-1"}, Simulated: "root", Rollback: registry.NoProtection,
	}
	one, two := zeros, zeros
	one.Model, one.Blob, one.Round, one.Base, one.Created, one.Position = digest("one"), blob("one"), 1, digest("zeros"), start.Add(3*time.Second), 3
	one.Members, one.Spent = closed("r", 1, "", "", "a", "b").Members, entry.Spent{Epsilon: 1}
	one.Evaluated = []entry.Evaluated{evaluated("r", 1, "one", "b"), evaluated("r", 1, "one", "a")}
	two.Model, two.Blob, two.Round, two.Base, two.Created, two.Position = digest("two"), blob("two"), 2, digest("one"), start.Add(6*time.Second), 6
	two.Members, two.Spent, two.Tags = closed("r", 2, "", "", "a").Members, entry.Spent{Epsilon: 2}, []string{"candidate", "champion"}
	if d := cmp.Diff(x.Versions(), []registry.Version{zeros, one, two}); d != "" {
		t.Errorf("Versions, - got + want:\n%s", d)
	}
	if d := cmp.Diff(x.Lineage(digest("two")), []registry.Version{two, one, zeros}); d != "" {
		t.Errorf("Lineage, - got + want:\n%s", d)
	}
	if got := x.Lineage(digest("three")); len(got) > 0 {
		t.Errorf("Lineage of a model that there is not: %v", got)
	}
	if got := registry.New().Versions(); len(got) > 0 {
		t.Errorf("Versions before the first fact: %v", got)
	}
}

// TestStatistics: a run with a statistics round has no model before it.
func TestStatistics(t *testing.T) {
	x := folded(t, append(begun(), created("r", ""), closed("r", 0, "", "zero", "a"), closed("r", 1, "zero", "one", "a"))...)
	all := x.Versions()
	if len(all) != 2 || all[0].Round != 0 || !all[0].Base.IsZero() || len(all[0].Members) != 1 {
		t.Fatalf("versions are %+v, want that of round 0, with its member, and that of round 1", all)
	}
	if got := x.Lineage(digest("one")); len(got) != 2 || got[1].Model != digest("zero") {
		t.Errorf("lineage is %+v, want rounds 1 and 0", got)
	}
}

// TestTags: a tag moves from where it is.
func TestTags(t *testing.T) {
	log := append(begun(), created("r", "zeros"), closed("r", 1, "zeros", "one", "a"), tagged("champion", "", "zeros"))
	x := folded(t, log...)
	if v := mustResolve(t, x, "champion"); v.Model != digest("zeros") || !reflect.DeepEqual(v.Tags, []string{"champion"}) {
		t.Errorf("champion is %s with tags %v, want the initial model", v.Model.Short(), v.Tags)
	}
	x = folded(t, append(log, tagged("champion", "zeros", "one"))...)
	if v := mustResolve(t, x, "champion"); v.Model != digest("one") {
		t.Errorf("champion is %s after its move, want the model of round 1", v.Model.Short())
	}
	if v := mustResolve(t, x, digest("zeros").String()); len(v.Tags) > 0 {
		t.Errorf("the model that the tag has left has tags %v", v.Tags)
	}
}

func TestResolve(t *testing.T) {
	// Two models whose ids begin alike, and one that is a name's.
	near, far := entry.Digest{0xab, 0xcd, 0xe0, 1}, entry.Digest{0xab, 0xcd, 0xe0, 2}
	close := func(number int, base, model entry.Digest) entry.Fact {
		f := closed("r", number, "", "", "a")
		f.Base, f.Model = base, model
		return f
	}
	x := folded(t, append(begun(), created("r", "zeros"), close(1, digest("zeros"), near), close(2, near, far),
		tagged("champion", "", "zeros"), tagged("abc", "", "zeros"), tagged(far.String()[:10], "", "zeros"), tagged(near.String(), "", "zeros"))...)
	for _, c := range []struct {
		text string
		want entry.Digest
		err  error
	}{
		{"champion", digest("zeros"), nil},
		{"abc", digest("zeros"), nil},
		{digest("zeros").String(), digest("zeros"), nil},
		{digest("zeros").String()[:4], digest("zeros"), nil},
		{near.String()[:8], near, nil},
		{near.String(), near, nil},                // no tag hides an id
		{far.String()[:10], digest("zeros"), nil}, // but the beginning of one
		{far.String()[:9], far, nil},
		{"abcd", entry.Digest{}, registry.ErrAmbiguous},
		{near.String()[:6], entry.Digest{}, registry.ErrAmbiguous},
		{"ABCDE001", entry.Digest{}, registry.ErrUnknown},
		{digest("zeros").String()[:3], entry.Digest{}, registry.ErrUnknown},
		{"", entry.Digest{}, registry.ErrUnknown},
		{"Champion", entry.Digest{}, registry.ErrUnknown},
		{digest("other").String(), entry.Digest{}, registry.ErrUnknown},
		{digest("zeros").String() + "0", entry.Digest{}, registry.ErrUnknown},
		{strings.Repeat("\x00", 1000), entry.Digest{}, registry.ErrUnknown},
	} {
		v, err := x.Resolve(c.text)
		if !errors.Is(err, c.err) || v.Model != c.want {
			t.Errorf("Resolve(%.70q) = %s, %v, want %s, %v", c.text, v.Model.Short(), err, c.want.Short(), c.err)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("Resolve(%.70q): an error of %d bytes echoes the question", c.text, len(err.Error()))
		}
	}
}

// TestRepeated: a model that is made again is one id with several versions; each keeps its own run, base and figures.
func TestRepeated(t *testing.T) {
	// Two runs begin with the same model at about the same time and make the same one of it. The first goes back to where it began.
	x := folded(t, append(begun(), created("r", "zeros"), created("s", "zeros"), closed("r", 1, "zeros", "one", "a"),
		closed("s", 1, "zeros", "one", "b"), evaluated("r", 1, "one", "a"), closed("r", 2, "one", "zeros", "a"), closed("r", 3, "zeros", "two", "a"),
		created("t", "zeros"))...)
	at := func(all []registry.Version) (positions []int64) {
		for _, v := range all {
			positions = append(positions, v.Position)
		}
		return positions
	}
	if got, want := at(x.Versions()), []int64{2, 3, 4, 5, 7, 8, 9}; !reflect.DeepEqual(got, want) {
		t.Errorf("Versions are at %v, want %v", got, want)
	}
	for model, want := range map[string]int64{"zeros": 9, "one": 5, "two": 8} {
		if got := mustResolve(t, x, digest(model).String()).Position; got != want {
			t.Errorf("%s is the version at %d, want the newest, at %d", model, got, want)
		}
	}
	for model, want := range map[string][]int64{"two": {8, 7, 4, 2}, "one": {5, 3}, "zeros": {9}} {
		if got := at(x.Lineage(digest(model))); !reflect.DeepEqual(got, want) {
			t.Errorf("Lineage of %s is at %v, want %v", model, got, want)
		}
	}
	if got := x.Versions()[2].Evaluated; len(got) != 1 {
		t.Errorf("the version that was evaluated has figures %v", got)
	}
	if got := mustResolve(t, x, digest("one").String()).Evaluated; len(got) > 0 {
		t.Errorf("the other run's version of the same model has figures %v", got)
	}
}

// TestSimulated: a version names the private roots of all who had a part in it, the coordinator's and those of what it was made
// from included, each as it was at the time.
func TestSimulated(t *testing.T) {
	admit := func(office, name, root string) entry.Admitted {
		return entry.Admitted{Office: office, Name: name, Simulated: root}
	}
	hardware := entry.Booted{Sets: []string{"coordinator-2"}}
	for _, c := range []struct {
		name string
		log  []entry.Fact
		want string
	}{
		{"hardware", []entry.Fact{hardware, created("r", "zeros"), closed("r", 1, "zeros", "one", "a")}, ""},
		{"the coordinator", []entry.Fact{entry.Booted{Simulated: "x"}, created("r", "zeros")}, "x"},
		{"the coordinator before", []entry.Fact{entry.Booted{Simulated: "x"}, hardware, created("r", "zeros")}, ""},
		{"a member", []entry.Fact{hardware, admit("participant", "a", "y"), created("r", "zeros"), closed("r", 1, "zeros", "one", "a", "b")}, "y"},
		{"a member without a part", []entry.Fact{hardware, admit("participant", "c", "y"), created("r", "zeros"), closed("r", 1, "zeros", "one", "a")}, ""},
		{"a person of a member's name", []entry.Fact{hardware, admit("person", "a", "y"), created("r", "zeros"), closed("r", 1, "zeros", "one", "a")}, ""},
		{
			"a member admitted anew",
			[]entry.Fact{hardware, admit("participant", "a", "y"), admit("participant", "a", ""), created("r", "zeros"), closed("r", 1, "zeros", "one", "a")},
			"",
		},
		{
			"both, and each root once",
			[]entry.Fact{
				entry.Booted{Simulated: "y"},
				admit("participant", "a", "z"), admit("participant", "b", "x"), admit("participant", "c", "y"),
				created("r", "zeros"), closed("r", 1, "zeros", "one", "a", "b", "c"),
			},
			"x, y, z",
		},
		{
			"whoever had a part in the base",
			[]entry.Fact{
				hardware, admit("participant", "a", "y"), created("r", "zeros"), closed("r", 1, "zeros", "one", "a"),
				closed("r", 2, "one", "two", "b"),
			},
			"y",
		},
		{
			"not those of another run",
			[]entry.Fact{
				hardware, admit("participant", "a", "y"), created("r", "zeros"), closed("r", 1, "zeros", "one", "a"),
				created("s", "zeros"), closed("s", 1, "zeros", "two", "b"),
			},
			"",
		},
	} {
		all := folded(t, c.log...).Versions()
		if got := all[len(all)-1].Simulated; got != c.want {
			t.Errorf("%s: simulated is %q, want %q", c.name, got, c.want)
		}
	}
}

// TestProvenance: manifest, measurements and rollback are those of the moment.
func TestProvenance(t *testing.T) {
	x := folded(t, entry.ManifestAdopted{Epoch: 1, Witnesses: "none: a test"}, entry.Booted{Sets: []string{"one"}}, created("r", "zeros"),
		entry.ManifestAdopted{Epoch: 2, Manifest: digest("two"), Witnesses: "2 of 3"}, entry.Booted{Sets: []string{"two"}}, closed("r", 1, "zeros", "one", "a"),
		entry.ManifestAdopted{Epoch: 3, Manifest: digest("three"), Enclave: &entry.Enclave{Sets: []string{"three"}, Simulated: "root"}},
		closed("r", 2, "one", "two", "a"))
	all := x.Versions()
	if got := []string{all[0].Rollback, all[1].Rollback}; !reflect.DeepEqual(got, []string{registry.NoProtection, ""}) {
		t.Errorf("rollback is %q before witnesses and after", got)
	}
	if got := slices.Concat(all[0].Sets, all[1].Sets, all[2].Sets); !reflect.DeepEqual(got, []string{"one", "two", "three"}) {
		t.Errorf("reference sets are %v, want that of each boot, and of the epoch that needed none", got)
	}
	if all[1].Simulated != "" || all[2].Simulated != "root" {
		t.Errorf("simulated are %q and %q, want the last one", all[1].Simulated, all[2].Simulated)
	}
	if got := []entry.Digest{all[0].Manifest, all[1].Manifest, all[2].Manifest}; !reflect.DeepEqual(got, []entry.Digest{{}, digest("two"), digest("three")}) {
		t.Errorf("manifests are %v, want those that held", got)
	}
}

// TestApplyImpossible: facts that cannot follow are refused and change nothing.
func TestApplyImpossible(t *testing.T) {
	log := append(begun(), created("r", "zeros"), created("s", "others"), closed("r", 1, "zeros", "one", "a"), tagged("champion", "", "one"))
	for name, f := range map[string]entry.Fact{
		"a run twice":                     created("r", "ones"),
		"a round of no run":               closed("nowhere", 1, "", "two", "a"),
		"a base that there is not":        closed("r", 2, "nothing", "two", "a"),
		"a base of another run":           closed("s", 1, "zeros", "two", "a"),
		"figures of no run":               evaluated("nowhere", 1, "one", "a"),
		"figures of a round not closed":   evaluated("r", 2, "one", "a"),
		"figures of another model":        evaluated("r", 1, "zeros", "a"),
		"a tag on no model":               tagged("other", "", "nothing"),
		"a tag from where it is not":      tagged("champion", "zeros", "zeros"),
		"a tag that is there, from none":  tagged("champion", "", "zeros"),
		"a tag that is not there, from 1": tagged("other", "one", "zeros"),
	} {
		x := folded(t, log...)
		if err := x.Apply(100, start.Add(time.Hour), f); err == nil {
			t.Errorf("%s: Apply(%+v) went through", name, f)
		}
		if !reflect.DeepEqual(x, folded(t, log...)) {
			t.Errorf("%s: a fact that was refused changed the index", name)
		}
	}
}

// TestKept: what was returned stays as it is, and what is appended to it reaches nobody.
func TestKept(t *testing.T) {
	x := folded(t, append(begun(), created("r", "zeros"), closed("r", 1, "zeros", "one", "a"), evaluated("r", 1, "one", "a"),
		evaluated("r", 1, "one", "b"), evaluated("r", 1, "one", "c"))...)
	kept, other := mustResolve(t, x, digest("one").String()), mustResolve(t, x, digest("one").String())
	mine := append(other.Evaluated, evaluated("r", 1, "one", "mine"))
	for i, f := range []entry.Fact{evaluated("r", 1, "one", "d"), tagged("champion", "", "one"), closed("r", 2, "one", "one", "a")} {
		if err := x.Apply(int64(7+i), start.Add(time.Hour), f); err != nil {
			t.Fatal(err)
		}
	}
	if len(kept.Evaluated) != 3 || len(kept.Tags) != 0 || kept.Round != 1 {
		t.Errorf("a version that was kept changed: %+v", kept)
	}
	if mine[3].Member != "mine" || x.Versions()[1].Evaluated[3].Member != "d" {
		t.Error("what was appended to a version that was returned and what the index appended are one")
	}
}

// TestDropped: a version that is kept no more is still listed, with all that it was made from.
func TestDropped(t *testing.T) {
	log := append(begun(), created("r", "zeros"), closed("r", 1, "zeros", "one", "a"), closed("r", 2, "one", "two", "a"),
		entry.RunEnded{Run: "r"}, entry.Dropped{Run: "r", Rounds: []int{0, 1}})
	x := folded(t, log...)
	at := start.Add(time.Duration(len(log)-1) * time.Second)
	for model, want := range map[string]time.Time{"zeros": at, "one": at, "two": {}} {
		if v := mustResolve(t, x, digest(model).String()); !v.Dropped.Equal(want) || model == "one" && v.Base != digest("zeros") {
			t.Errorf("%s was dropped at %v, want %v; its base is %s", model, v.Dropped, want, v.Base.Short())
		}
	}
	if got := x.Lineage(digest("two")); len(got) != 3 {
		t.Errorf("the lineage has %d versions, want 3", len(got))
	}
	before := folded(t, log...)
	if err := x.Apply(99, at, entry.Dropped{Run: "r", Rounds: []int{2, 3}}); err == nil {
		t.Error("a round that there was not is dropped")
	}
	if d := cmp.Diff(x.Versions(), before.Versions()); d != "" {
		t.Errorf("a fact that was refused changed the index:\n%s", d)
	}
}
