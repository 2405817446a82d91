// Package registry knows which model versions there are, what each was made from, and which tag names which. It is a fold over
// the facts of package entry, like the state of the runs, so nothing that it says can differ from the log.
//
// A version's id is its model's digest. A run may make a model again that there was before; the id then means the newest
// version of it, and all of them are listed.
package registry

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"consilium.dev/internal/entry"
)

// The errors of Resolve.
var (
	ErrUnknown   = errors.New("no such model")
	ErrAmbiguous = errors.New("the prefix fits several models")
)

// shortest is the fewest hex digits of an id that name a version.
const shortest = 4

// NoProtection is what a version's Rollback says where the manifest has no witnesses.
const NoProtection = "no rollback protection"

// Version is a model version with its provenance.
type Version struct {
	Model     entry.Digest // its id
	Blob      entry.Blob
	Run       string
	RunName   string
	Round     int          // that made it; 0 also for the initial model of a run without a statistics round
	Base      entry.Digest // that the round trained from, zero for a run's first model
	Created   time.Time
	Members   []entry.Contribution // whose updates it is made of
	Strategy  string
	Params    map[string]any // of the strategy, as the plan gives them; not to be changed
	Masked    bool           // the plan asks for masks
	Spent     entry.Spent
	Position  int64        // of its commit in the log
	Manifest  entry.Digest // that held when it was made
	Sets      []string     // reference sets of the manifest that the coordinator's enclave matched when it made it
	Simulated string       // private roots of simulated enclaves that had a part in it or in what it was made from, "" for none
	Rollback  string       // NoProtection, or ""
	Tags      []string     // ascending
	Dropped   time.Time    // since when it is kept no more, though its provenance is; zero while it is
	Evaluated []entry.Evaluated
}

// Index holds all versions. Its methods are not safe for concurrent use; what they return may be kept.
type Index struct {
	versions []*Version
	newest   map[entry.Digest]*Version
	tags     map[string]entry.Digest
	runs     map[string]entry.RunCreated
	rounds   map[roundOf]*Version
	parts    map[string]map[string]bool // simulated roots that had a part in a run's models, by run
	adopted  entry.ManifestAdopted
	booted   entry.Booted
	roots    map[entry.Member]string // simulated root of each participant's newest admission
}

type roundOf struct {
	run   string
	round int
}

// New returns the index before the first fact.
func New() *Index {
	return &Index{
		newest: map[entry.Digest]*Version{}, tags: map[string]entry.Digest{}, runs: map[string]entry.RunCreated{},
		rounds: map[roundOf]*Version{}, parts: map[string]map[string]bool{}, roots: map[entry.Member]string{},
	}
}

// Apply folds the fact at that position of the log into the index. It returns an error, and leaves the index as it was, for a
// fact about a run, a model or a tag that cannot follow from those before it. Whether a run's facts follow each other in all
// else is for package round to judge.
func (x *Index) Apply(position int64, at time.Time, f entry.Fact) error {
	switch f := f.(type) {
	case entry.ManifestAdopted:
		x.adopted = f
		if f.Enclave != nil {
			x.booted.Sets, x.booted.Simulated = f.Enclave.Sets, f.Enclave.Simulated
		}
	case entry.Booted:
		x.booted = f
	case entry.Admitted:
		if f.Office == "participant" {
			x.roots[entry.Member(f.Name)] = f.Simulated
		}
	case entry.RunCreated:
		if _, twice := x.runs[f.Run]; twice {
			return fmt.Errorf("run %s was created before", f.Run)
		}
		x.runs[f.Run], x.parts[f.Run] = f, map[string]bool{}
		if f.Initial != nil {
			x.add(position, at, Version{Model: f.Model, Blob: *f.Initial, Run: f.Run})
		}
	case entry.RoundClosed:
		return x.closed(position, at, f)
	case entry.Evaluated:
		v := x.rounds[roundOf{f.Run, f.Round}]
		if v == nil || v.Model != f.Model {
			return fmt.Errorf("figures of %s are of a model that round %d of run %s did not make", f.Member, f.Round, f.Run)
		}
		v.Evaluated = append(v.Evaluated, f)
	case entry.Dropped:
		return x.dropped(at, f)
	case entry.TagMoved:
		if x.newest[f.Model] == nil || x.tags[f.Tag] != f.From {
			return fmt.Errorf("tag %s moves from %s to %s, which there is not", f.Tag, f.From.Short(), f.Model.Short())
		}
		x.tags[f.Tag] = f.Model
	}
	return nil
}

func (x *Index) closed(position int64, at time.Time, f entry.RoundClosed) error {
	v := Version{
		Model: f.Model, Blob: f.Blob, Run: f.Run, Round: f.Round, Base: f.Base, Members: f.Members, Spent: f.Spent, Position: position,
	}
	if _, ok := x.runs[f.Run]; !ok {
		return fmt.Errorf("a round of the unknown run %s was closed", f.Run)
	}
	if !f.Base.IsZero() && x.base(&v) == nil {
		return fmt.Errorf("round %d of run %s was closed over model %s, which the run did not have", f.Round, f.Run, f.Base.Short())
	}
	x.add(position, at, v)
	return nil
}

// dropped notes which versions are kept no more.
func (x *Index) dropped(at time.Time, f entry.Dropped) error {
	for _, number := range f.Rounds {
		if x.rounds[roundOf{f.Run, number}] == nil {
			return fmt.Errorf("the model of round %d of run %s is dropped, and there is none", number, f.Run)
		}
	}
	for _, number := range f.Rounds {
		x.rounds[roundOf{f.Run, number}].Dropped = at
	}
	return nil
}

// add completes a version with what holds at this moment.
func (x *Index) add(position int64, at time.Time, v Version) {
	run := x.runs[v.Run]
	v.RunName, v.Strategy, v.Params, v.Masked = run.Plan.Name, run.Plan.Strategy.Name, run.Plan.Strategy.Params, run.Plan.Masks
	v.Position, v.Created, v.Manifest, v.Sets = position, at, x.adopted.Manifest, x.booted.Sets
	v.Simulated = x.simulated(v.Run, v.Members)
	if strings.HasPrefix(x.adopted.Witnesses, "none") {
		v.Rollback = NoProtection
	}
	x.versions = append(x.versions, &v)
	x.newest[v.Model] = &v
	x.rounds[roundOf{v.Run, v.Round}] = &v
}

// simulated names the private roots of the coordinator, of those who contributed, and of those who had a part in the run's
// models before: each is made from the one before it.
func (x *Index) simulated(run string, members []entry.Contribution) string {
	roots := x.parts[run]
	roots[x.booted.Simulated] = true
	for _, m := range members {
		roots[x.roots[m.Member]] = true
	}
	delete(roots, "")
	return strings.Join(slices.Sorted(maps.Keys(roots)), ", ")
}

// Versions returns all versions, oldest first.
func (x *Index) Versions() []Version {
	out := make([]Version, len(x.versions))
	for i, v := range x.versions {
		out[i] = x.view(v)
	}
	return out
}

func (x *Index) view(v *Version) Version {
	out := *v
	out.Evaluated = slices.Clip(v.Evaluated) // later figures are appended behind it
	for tag, d := range x.tags {
		if d == v.Model {
			out.Tags = append(out.Tags, tag)
		}
	}
	slices.Sort(out.Tags)
	return out
}

// Resolve returns the version that text names: an id, a tag, or the first four or more hex digits of one id. The first of these
// that fits counts, so no tag hides a whole id. Its errors are ErrUnknown and ErrAmbiguous.
func (x *Index) Resolve(text string) (Version, error) {
	var id entry.Digest
	if id.UnmarshalText([]byte(text)) == nil && x.newest[id] != nil {
		return x.view(x.newest[id]), nil
	}
	if d, ok := x.tags[text]; ok {
		return x.view(x.newest[d]), nil
	}
	if len(text) < shortest {
		return Version{}, fmt.Errorf("%w as %.64q: want a tag, or %d hex digits of an id", ErrUnknown, text, shortest)
	}
	var found *Version
	for d, v := range x.newest {
		if !strings.HasPrefix(d.String(), text) {
			continue
		}
		if found != nil {
			return Version{}, fmt.Errorf("%w: %.64q", ErrAmbiguous, text)
		}
		found = v
	}
	if found == nil {
		return Version{}, fmt.Errorf("%w as %.64q", ErrUnknown, text)
	}
	return x.view(found), nil
}

// Lineage returns the version with that id and those it was made from, each the base of the one before it. It is empty for an
// id that there is not.
func (x *Index) Lineage(id entry.Digest) []Version {
	var out []Version
	for v := x.newest[id]; v != nil; v = x.base(v) {
		out = append(out, x.view(v))
	}
	return out
}

// base returns what v was made from: the newest version of its base that its own run had before it. Another run may have made
// the same model in between.
func (x *Index) base(v *Version) *Version {
	for _, w := range slices.Backward(x.versions) {
		if w.Run == v.Run && w.Model == v.Base && w.Position < v.Position {
			return w
		}
	}
	return nil
}
