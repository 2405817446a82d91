package participant

import (
	"bytes"
	"fmt"
	"reflect"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/trainer"
)

// study is a run's plan and what follows from it. A wide schema takes a while to read, and a plan comes with each request.
type study struct {
	text   []byte
	plan   entry.Plan
	shape  trainer.Description
	schema entry.Digest // names the plan's schema, as the owner's list does
}

// planCache holds the plans of the runs that are under way. It is used by one goroutine at a time.
type planCache map[string]*study

// read returns a run's plan from how it came over the wire. A run keeps the plan that came first while it is under way. What was
// consented to, consents holds for longer.
func (c planCache) read(run string, text []byte) (*study, error) {
	known := c[run]
	if known != nil && bytes.Equal(known.text, text) {
		return known, nil
	}
	s, err := readPlan(text)
	if err != nil {
		return nil, err
	}
	if known != nil && !reflect.DeepEqual(known.plan, s.plan) {
		return nil, fmt.Errorf("plan: it is another one than run %.16s had before", run)
	}
	c[run] = s
	return s, nil
}

// forget drops the plans of runs that closed does not hold.
func (c planCache) forget(closed map[string]int) {
	for run := range c {
		if _, open := closed[run]; !open {
			delete(c, run)
		}
	}
}

// readPlan reads and judges a plan that came over the wire.
func readPlan(text []byte) (*study, error) {
	s := &study{text: text}
	var err error
	if s.plan, err = trainer.DecodePlan(text); err != nil {
		return nil, err
	}
	if s.shape, err = trainer.Describe(s.plan); err != nil { // it names the plan
		return nil, err
	}
	if s.schema, err = SchemaDigest(s.plan.Schema); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	return s, nil
}
