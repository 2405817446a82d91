package main

import (
	"strings"
	"testing"

	"consilium.dev/internal/client"
	"consilium.dev/internal/entry"
)

// TestPrivacyShown: a figure never stands without whom it protects, its delta and who reckoned it.
func TestPrivacyShown(t *testing.T) {
	r := client.Run{
		Plan: entry.Plan{Privacy: &entry.Privacy{
			Unit: "participant", ClipNorm: 0.5, NoiseMultiplier: 4, Delta: 1e-5, Adaptive: &entry.AdaptiveClip{Quantile: 0.5, LearningRate: 0.2, CountStddev: 3},
		}},
		History: []client.Round{{Round: 1, Clip: 0.5}, {Round: 2, Clip: 0.625}},
		Members: []client.Member{{Name: "north", State: "consented", Records: 1}, {Name: "south", State: "invited"}},
		Privacy: &client.Privacy{Unit: "participant", Epsilon: 1.25, Delta: 1e-5, Spent: 3.5, Budget: 8, ForDelta: 1e-6, Accountant: "renyi"},
	}
	var got page
	showRun(&got, r, false)
	for _, want := range []string{
		"privacy   epsilon 1.25 at delta 1e-05 until now, for a whole participant (noise multiplier 4, clip norm 0.625 now, 0.5 at first; accountant renyi)\n",
		"          all runs of the federation: epsilon 3.5 of 8 at delta 1e-06 for a whole participant\n",
		"│ north  │ consented    │ -       │",
		"No figures: members make none in a run with privacy",
	} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("run show prints:\n%swant in it:\n%s", got.String(), want)
		}
	}
	r.Plan.Privacy = &entry.Privacy{Unit: "record", ClipNorm: 1, NoiseMultiplier: 3, Delta: 1e-5, ExpectedRecords: 500, SamplingRate: 0.1}
	r.Privacy = &client.Privacy{Unit: "record", Epsilon: 1.25, Delta: 1e-5, Spent: 3.5, ForDelta: 1e-6, Accountant: "renyi"}
	var record page
	showRun(&record, r, false)
	for _, want := range []string{
		"privacy   epsilon 1.25 at delta 1e-05 until now, for one record (noise multiplier 3, clip norm 1, sampling rate 0.1; accountant renyi)\n",
		"          all runs of the federation: epsilon 3.5 at delta 1e-06 for one record; the manifest has no budget for that any more\n",
	} {
		if !strings.Contains(record.String(), want) {
			t.Errorf("run show prints:\n%swant in it:\n%s", record.String(), want)
		}
	}
	r.Plan.Privacy, r.Privacy, r.Plan.Encoding, r.Plan.TopK = nil, nil, "top-k", 0.01
	var without page
	showRun(&without, r, false)
	if strings.Contains(without.String(), "privacy") {
		t.Errorf("run show of a run without noise prints:\n%s", without.String())
	}
	for _, want := range []string{"│ north  │ consented    │ 1       │", "encoding top-k, top_k 0.01\n"} {
		if !strings.Contains(without.String(), want) {
			t.Errorf("run show prints:\n%swant in it:\n%s", without.String(), want)
		}
	}
	var model page
	showModel(&model, client.Model{Strategy: "fedbuff", Params: map[string]any{"buffer_size": 2.0}, Masked: true, Late: []client.Late{{Member: "north", Rounds: 3}}})
	for _, want := range []string{"strategy  fedbuff (buffer_size 2)\n", "late      north by 3\n", "masks     updates were masked: the coordinator saw their sum alone\n"} {
		if !strings.Contains(model.String(), want) {
			t.Errorf("model show prints:\n%swant in it:\n%s", model.String(), want)
		}
	}
	var shown page
	showModel(&shown, client.Model{Epsilon: 3.5, Delta: 1e-6, Unit: "participant"})
	if want := "privacy   epsilon 3.5 at delta 1e-06 for a whole participant, all that the federation had released by then (renyi)\n"; !strings.Contains(shown.String(), want) {
		t.Errorf("model show prints:\n%swant in it:\n%s", shown.String(), want)
	}
}
