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
	Spent     entry.Spent
	Position  int64 // of its commit in the log
	Manifest  entry.Digest
	Sets      []string // reference sets of the manifest that the coordinator's enclave matched when it made it
	Simulated string   // private roots of simulated enclaves that had a part in it, "" where all were hardware
	Rollback  string   // NoProtection, or ""
	Tags      []string // ascending
	Evaluated []entry.Evaluated
}

// Index holds all versions. Its methods are not safe for concurrent use.
type Index struct {
	versions []*Version
	newest   map[entry.Digest]*Version
	tags     map[string]entry.Digest
	runs     map[string]entry.RunCreated
	rounds   map[roundOf]*Version
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
		rounds: map[roundOf]*Version{}, roots: map[entry.Member]string{},
	}
}

// Apply folds the fact at that position of the log into the index. It returns an error, and leaves the index as it was, for a
// fact that cannot follow from those before it.
func (x *Index) Apply(position int64, at time.Time, f entry.Fact) error {
	switch f := f.(type) {
	case entry.ManifestAdopted:
		x.adopted = f
	case entry.Booted:
		x.booted = f
	case entry.Admitted:
		if f.Office == "participant" {
			x.roots[entry.Member(f.Name)] = f.Simulated
		}
	case entry.RunCreated:
		x.runs[f.Run] = f
		if f.Initial != nil {
			x.add(position, at, Version{Model: f.Model, Blob: *f.Initial, Run: f.Run})
		}
	case entry.RoundClosed:
		if _, ok := x.runs[f.Run]; !ok {
			return fmt.Errorf("a round of the unknown run %s was closed", f.Run)
		}
		x.add(position, at, Version{
			Model: f.Model, Blob: f.Blob, Run: f.Run, Round: f.Round, Base: f.Base, Members: f.Members, Spent: f.Spent,
		})
	case entry.Evaluated:
		v := x.rounds[roundOf{f.Run, f.Round}]
		if v == nil || v.Model != f.Model {
			return fmt.Errorf("figures of %s are of a model that round %d of run %s did not make", f.Member, f.Round, f.Run)
		}
		v.Evaluated = append(v.Evaluated, f)
	case entry.TagMoved:
		if x.newest[f.Model] == nil || x.tags[f.Tag] != f.From {
			return fmt.Errorf("tag %s moves from %s to %s, which there is not", f.Tag, f.From.Short(), f.Model.Short())
		}
		x.tags[f.Tag] = f.Model
	}
	return nil
}

// add completes a version with what holds at this moment.
func (x *Index) add(position int64, at time.Time, v Version) {
	run := x.runs[v.Run]
	v.RunName, v.Strategy = run.Plan.Name, run.Plan.Strategy.Name
	v.Position, v.Created, v.Manifest, v.Sets = position, at, run.Manifest, x.booted.Sets
	v.Simulated = x.simulated(v.Members)
	if strings.HasPrefix(x.adopted.Witnesses, "none") {
		v.Rollback = NoProtection
	}
	x.versions = append(x.versions, &v)
	x.newest[v.Model] = &v
	x.rounds[roundOf{v.Run, v.Round}] = &v
}

// simulated names the private roots of the coordinator and of those who contributed.
func (x *Index) simulated(members []entry.Contribution) string {
	roots := map[string]bool{x.booted.Simulated: true}
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
	for tag, d := range x.tags {
		if d == v.Model {
			out.Tags = append(out.Tags, tag)
		}
	}
	slices.Sort(out.Tags)
	return out
}

// Resolve returns the version that text names: a tag, an id, or the first four or more hex digits of one id. Its errors are
// ErrUnknown and ErrAmbiguous.
func (x *Index) Resolve(text string) (Version, error) {
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
	position := int64(-1)
	for v := x.newest[id]; v != nil; v = x.before(v, position) {
		out = append(out, x.view(v))
		position = v.Position
	}
	return out
}

// before returns the newest version of v's base that was there before that position.
func (x *Index) before(v *Version, position int64) *Version {
	if v.Base.IsZero() {
		return nil
	}
	for _, w := range slices.Backward(x.versions) {
		if w.Model == v.Base && w.Position < position {
			return w
		}
	}
	return nil
}
