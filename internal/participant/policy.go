package participant

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/gowebpki/jcs"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/trainer"
)

// defaultLeastRecords is the fewest rows where the owner says nothing.
const defaultLeastRecords = 10

// masksRequired has a member take part in no run whose updates are not masked.
const masksRequired = "required"

// Policy is what the data's owner allows, as participant.yaml says it. The zero Policy allows nothing.
type Policy struct {
	Leads             []string `yaml:"leads"`              // people whose runs may use the data
	Strategies        []string `yaml:"strategies"`         // how updates may be combined
	Trainers          []string `yaml:"trainers"`           // what may train on the data
	LeastParticipants int      `yaml:"least_participants"` // fewest members whose updates may be combined; at least 2
	// Fewest rows to train on with which this member takes part, and fewest rows of a set of which figures are given away.
	// 0 means 10.
	LeastRecords int `yaml:"least_records"`
	// Digests, as SchemaDigest gives them, of the schemas by which the records may be read. Empty: whichever a plan names.
	Schemas []entry.Digest `yaml:"schemas"`
	Masks   string         `yaml:"masks"` // "required": no run without; "": as a plan says
	Adopt   string         `yaml:"adopt"` // newer manifests: "auto", which "" means, or "ask"
}

// check reports names that no plan this program can carry out may have: whoever mistypes one would decline every run and not
// know why.
func (p Policy) check() error {
	if p.Adopt != "" && p.Adopt != adoptAuto && p.Adopt != adoptAsk {
		return fmt.Errorf("policy: adopt: %.64q is unknown, want %s or %s", p.Adopt, adoptAuto, adoptAsk)
	}
	if p.Masks != "" && p.Masks != masksRequired {
		return fmt.Errorf("policy: masks: %.64q is unknown, want %s or nothing", p.Masks, masksRequired)
	}
	for _, name := range p.Strategies {
		if err := aggregate.CheckName(name); err != nil {
			return fmt.Errorf("policy: strategies: %w", err)
		}
	}
	for _, name := range p.Trainers {
		if name != trainer.Logistic {
			return fmt.Errorf("policy: trainers: %.64q is unknown, want %s", name, trainer.Logistic)
		}
	}
	return nil
}

// strangers returns the leads on the owner's list whom the manifest lets lead nothing. They may be of another epoch.
func (p Policy) strangers(m *manifest.Manifest) []string {
	return slices.DeleteFunc(slices.Clone(p.Leads), func(name string) bool {
		person, ok := m.Person(name)
		return ok && slices.Contains(person.May, "lead")
	})
}

// Refuses returns the rule that refuses a run and what it found, or "" for a run that the owner allows.
func (p Policy) Refuses(lead string, plan entry.Plan) string {
	switch {
	case !slices.Contains(p.Leads, lead):
		return fmt.Sprintf("leads: %q is not on the owner's list", lead)
	case !slices.Contains(p.Strategies, plan.Strategy.Name):
		return fmt.Sprintf("strategies: %q is not on the owner's list", plan.Strategy.Name)
	case !slices.Contains(p.Trainers, plan.Trainer):
		return fmt.Sprintf("trainers: %q is not on the owner's list", plan.Trainer)
	case p.LeastParticipants < 2:
		return "least_participants: the owner has not set it to 2 or more"
	case plan.Quorum < p.LeastParticipants:
		return fmt.Sprintf("least_participants: the plan closes rounds with %d, the owner wants %d", plan.Quorum, p.LeastParticipants)
	case p.Masks == masksRequired && !plan.Masks:
		return "masks: the plan has none, and the owner requires them"
	case p.LeastRecords < 0:
		return "least_records: the owner has set it below 0"
	case len(p.Schemas) > 0:
		return p.refusesSchema(plan.Schema)
	}
	return ""
}

func (p Policy) refusesSchema(schema json.RawMessage) string {
	switch d, err := SchemaDigest(schema); {
	case err != nil:
		return "schemas: the plan's schema has no canonical form"
	case !slices.Contains(p.Schemas, d):
		return fmt.Sprintf("schemas: %s is not on the owner's list", d)
	}
	return ""
}

// leastRecords returns the fewest rows, 1 at least.
func (p Policy) leastRecords() int {
	if p.LeastRecords == 0 {
		return defaultLeastRecords
	}
	return max(p.LeastRecords, 1)
}

// large returns a set of which figures may be given away, and nil in the place of a smaller one.
func (p Policy) large(set *dataset.Set) *dataset.Set {
	if set == nil || set.Rows() < p.leastRecords() {
		return nil
	}
	return set
}

// SchemaDigest names a plan's schema: the SHA-256 of its JSON in canonical form, RFC 8785 (JCS), so that neither spaces nor the
// order of keys matter.
func SchemaDigest(schema json.RawMessage) (entry.Digest, error) {
	text, err := jcs.Transform(schema)
	if err != nil {
		return entry.Digest{}, fmt.Errorf("schema has no canonical form: %w", err)
	}
	return sha256.Sum256(text), nil
}

// Doubts checks the policy as [New] does, and returns what in it lets no run in, or none of a kind, under that manifest.
func (p Policy) Doubts(m *manifest.Manifest) (all []string, err error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	limits := m.Limits()
	doubt := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	none := func(key string, ours []string) {
		if len(ours) == 0 {
			doubt("%s: nothing is listed, so every run is declined", key)
		}
	}
	none("leads", p.Leads)
	for _, name := range p.strangers(m) {
		doubt("leads: the manifest lets %q lead nothing", name)
	}
	for _, list := range []struct {
		key          string
		ours, theirs []string
	}{{"strategies", p.Strategies, limits.Strategies}, {"trainers", p.Trainers, limits.Trainers}} {
		none(list.key, list.ours)
		for _, name := range list.ours {
			if !slices.Contains(list.theirs, name) {
				doubt("%s: the manifest allows no run with %q", list.key, name)
			}
		}
	}
	switch n := len(m.Members()); {
	case p.LeastParticipants < 2:
		doubt("least_participants: it is not set to 2 or more, so every run is declined")
	case p.LeastParticipants > n:
		doubt("least_participants: %d are wanted, and the federation has %d members", p.LeastParticipants, n)
	}
	if p.LeastRecords < 0 {
		doubt("least_records: it is below 0, so every run is declined")
	}
	return all, nil
}
