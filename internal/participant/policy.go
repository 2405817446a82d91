package participant

import (
	"fmt"
	"slices"

	"consilium.dev/internal/entry"
)

// Policy is what the data's owner allows, as participant.yaml says it. The zero Policy allows nothing.
type Policy struct {
	Leads             []string `yaml:"leads"`              // people whose runs may use the data
	Strategies        []string `yaml:"strategies"`         // how updates may be combined
	Trainers          []string `yaml:"trainers"`           // what may train on the data
	LeastParticipants int      `yaml:"least_participants"` // fewest members whose updates may be combined; at least 2
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
	}
	return ""
}
