package participant_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/participant"
)

// shortDigest is computed from the canonical form as RFC 8785 has it: keys in order, no spaces, 1 for 1.0.
var shortDigest = entry.Digest(sha256.Sum256([]byte(`{"a":"x","b":[1]}`)))

// TestPolicyNames: names that this program does not know are found at start, and leads whom the manifest does not know are named.
func TestPolicyNames(t *testing.T) {
	for _, test := range []struct {
		name   string
		policy participant.Policy
		want   string
	}{
		{"nothing", participant.Policy{}, ""},
		{"all that there is", participant.Policy{Strategies: []string{"fedavg", "fedadam"}, Trainers: []string{"builtin/logistic"}}, ""},
		{"a strategy mistyped", participant.Policy{Strategies: []string{"fedavg", "fedaverage"}}, `policy: strategies: `},
		{"a trainer mistyped", participant.Policy{Trainers: []string{"logistic"}}, `policy: trainers: "logistic" is unknown, want builtin/logistic`},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.policy.Check()
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("Check = %v, want %q", err, test.want)
			}
		})
	}
}

// TestPlain: why a session ended is one line without what gRPC puts around it.
func TestPlain(t *testing.T) {
	for in, want := range map[error]string{
		errors.New("a disk"): "a disk",
		errors.Join(context.Canceled, fmt.Errorf("following: %w", status.Error(codes.Unavailable, "closing"))): "context canceled; following: closing",
		status.Error(codes.Unavailable, `connection error: desc = "transport: nobody listens"`):                "transport: nobody listens",
	} {
		if got := participant.Plain(in); got != want {
			t.Errorf("Plain(%v) = %q, want %q", in, got, want)
		}
	}
}

func TestPolicy(t *testing.T) {
	open := participant.Policy{
		Leads: []string{"ada"}, Strategies: []string{"fedavg"}, Trainers: []string{"builtin/logistic"}, LeastParticipants: 3,
	}
	good := entry.Plan{Strategy: entry.Strategy{Name: "fedavg"}, Trainer: "builtin/logistic", Quorum: 3}
	tests := []struct {
		name, lead string
		policy     func(*participant.Policy)
		plan       func(*entry.Plan)
		want       string
	}{
		{"allowed", "ada", nil, nil, ""},
		{"more participants than the least", "ada", nil, func(p *entry.Plan) { p.Quorum = 4 }, ""},
		{"other lead", "ben", nil, nil, `leads: "ben" is not on the owner's list`},
		{"no lead", "", nil, nil, `leads: "" is not on the owner's list`},
		{"other strategy", "ada", nil, func(p *entry.Plan) { p.Strategy.Name = "fedadam" }, `strategies: "fedadam" is not on the owner's list`},
		{"other trainer", "ada", nil, func(p *entry.Plan) { p.Trainer = "sh" }, `trainers: "sh" is not on the owner's list`},
		{
			"fewer participants", "ada", nil, func(p *entry.Plan) { p.Quorum = 2 },
			"least_participants: the plan closes rounds with 2, the owner wants 3",
		},
		{"nothing is allowed", "ada", func(p *participant.Policy) { *p = participant.Policy{} }, nil, `leads: "ada" is not on the owner's list`},
		{"no leads", "ada", func(p *participant.Policy) { p.Leads = nil }, nil, `leads: "ada" is not on the owner's list`},
		{"no strategies", "ada", func(p *participant.Policy) { p.Strategies = nil }, nil, `strategies: "fedavg" is not on the owner's list`},
		{"no trainers", "ada", func(p *participant.Policy) { p.Trainers = nil }, nil, `trainers: "builtin/logistic" is not on the owner's list`},
		{
			"no least", "ada", func(p *participant.Policy) { p.LeastParticipants = 0 }, nil,
			"least_participants: the owner has not set it to 2 or more",
		},
		{
			"least records below 0", "ada", func(p *participant.Policy) { p.LeastRecords = -1 }, nil,
			"least_records: the owner has set it below 0",
		},
		{
			"schema that is on the list", "ada", func(p *participant.Policy) { p.Schemas = []entry.Digest{{1}, shortDigest} },
			func(p *entry.Plan) { p.Schema = json.RawMessage(`{"b": [1.0],  "a":"x"}`) }, "",
		},
		{
			"schema that is not on the list", "ada", func(p *participant.Policy) { p.Schemas = []entry.Digest{{1}} },
			func(p *entry.Plan) { p.Schema = json.RawMessage(`{"a":"x","b":[1]}`) },
			"schemas: " + shortDigest.String() + " is not on the owner's list",
		},
		{
			"no schema", "ada", func(p *participant.Policy) { p.Schemas = []entry.Digest{{}} }, nil,
			"schemas: the plan's schema has no canonical form",
		},
		{
			"one is no federation", "ada", func(p *participant.Policy) { p.LeastParticipants = 1 }, nil,
			"least_participants: the owner has not set it to 2 or more",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			policy, plan := open, good
			if test.policy != nil {
				test.policy(&policy)
			}
			if test.plan != nil {
				test.plan(&plan)
			}
			if got := policy.Refuses(test.lead, plan); got != test.want {
				t.Errorf("Refuses(%q) = %q, want %q", test.lead, got, test.want)
			}
		})
	}
}
