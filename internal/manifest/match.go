package manifest

import (
	"maps"
	"slices"
	"time"

	"consilium.dev/internal/attest"
)

// Match judges claims at the instant now by every reference set of their type, whatever office it is for, and returns the first
// that they match. It is for looking at evidence apart from a peer: who may show it, and in which office, is Appraise's to say.
// The appraisal has no TTL; a refusal is as Appraise's.
func (m *Manifest) Match(c attest.Claims, now time.Time) (attest.Appraisal, error) {
	var all office
	for _, name := range slices.Sorted(maps.Keys(m.sets)) {
		if one := m.sets[name]; one.typ == c.Type {
			all.sets = append(all.sets, one)
		}
	}
	if all.sets == nil {
		return attest.Appraisal{}, attest.Refuse(attest.ClassPlat, "the manifest has no reference set of the type %s", c.Type)
	}
	matched, err := all.match(&c, now)
	if err != nil {
		return attest.Appraisal{}, err
	}
	return attest.Appraisal{Sets: []string{matched.name}, Any: slices.Clone(matched.any), Simulated: c.Simulated}, nil
}
