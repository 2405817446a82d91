package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"consilium.dev/internal/audit"
	"consilium.dev/internal/client"
	"consilium.dev/internal/entry"
)

// effectText words what a strategy did with an update.
func effectText(e entry.Effect) string {
	switch e {
	case "left_out":
		return "left out"
	case "reference":
		return "the reference"
	}
	return name(e)
}

// effectsText says whose updates a strategy left out, shortened or measured the others by: names, or only how many where they are many.
func effectsText(all []client.Effect) string {
	var order []entry.Effect
	who := map[entry.Effect][]string{}
	for _, e := range all {
		if who[e.Effect] == nil {
			order = append(order, e.Effect)
		}
		who[e.Effect] = append(who[e.Effect], e.Member)
	}
	slices.Sort(order)
	var out []string
	for _, e := range order {
		whom := names(who[e])
		if n := len(who[e]); n > fewMembers {
			whom = fmt.Sprint(n)
		}
		out = append(out, effectText(e)+": "+whom)
	}
	return strings.Join(out, "; ")
}

// contributors are a model's members, each with what became of its update where that is not the usual.
func contributors(members []string, effects []client.Effect) string {
	did := map[string]string{}
	for _, e := range effects {
		did[e.Member] = " (" + effectText(e.Effect) + ")"
	}
	out := make([]string, len(members))
	for i, m := range members {
		out[i] = name(m) + did[m]
	}
	return strings.Join(out, ", ")
}

// tally counts what became of each member's updates over the models that they are part of.
type tally struct {
	updates map[string]int
	effects map[string]map[entry.Effect]int
}

func newTally() tally { return tally{map[string]int{}, map[string]map[entry.Effect]int{}} }

// add counts a model's updates.
func (t tally) add(members []string, effects []client.Effect) {
	for _, m := range members {
		t.updates[m]++
	}
	for _, e := range effects {
		if t.effects[e.Member] == nil {
			t.effects[e.Member] = map[entry.Effect]int{}
		}
		t.effects[e.Member][e.Effect]++
	}
}

// of words a member's counts, "" where each of its updates had part in a model as it was.
func (t tally) of(member string) string {
	var out []string
	for _, e := range []entry.Effect{"left_out", "clipped", "reference"} {
		if n := t.effects[member][e]; n > 0 {
			out = append(out, fmt.Sprintf("%s %d of %d", effectText(e), n, t.updates[member]))
		}
	}
	return strings.Join(out, ", ")
}

// tallied counts a run's rounds of training.
func tallied(history []client.Round) tally {
	t := newTally()
	for _, x := range history {
		if x.State == "closed" && x.Kind == string(entry.Training) {
			t.add(x.Accepted, x.Effects)
		}
	}
	return t
}

// effectsOf are those of an audited model.
func effectsOf(m audit.Model) []client.Effect {
	effects := make([]client.Effect, len(m.Effects))
	for i, e := range m.Effects {
		effects[i] = client.Effect(e)
	}
	return effects
}

// effectsTable shows what became of members' updates in an audited history, run by run, nil where all had part in the models as they were. Of
// many runs it shows the newest.
func effectsTable(models []audit.Model) table.Writer {
	var runs []string
	title, tallies := map[string]string{}, map[string]tally{}
	for _, m := range models {
		if _, ok := tallies[m.Run]; !ok {
			tallies[m.Run] = newTally()
			title[m.Run] = m.RunName
			runs = append(runs, m.Run)
		}
		if m.Round > 0 { // round 0 takes statistics, which every strategy adds up
			tallies[m.Run].add(m.Members, effectsOf(m))
		}
	}
	runs = slices.DeleteFunc(runs, func(run string) bool { return len(tallies[run].effects) == 0 })
	if len(runs) == 0 {
		return nil
	}
	t := newTable("RUN", "NAME", "MEMBER", "ITS UPDATES")
	if older := len(runs) - fewModels; older > 0 {
		runs = runs[older:]
		t.SetCaption("%d older runs: consilium audit verify FOLDER -o json", older)
	}
	for _, run := range runs {
		for _, m := range slices.Sorted(maps.Keys(tallies[run].effects)) {
			t.AppendRow(table.Row{name(run), name(title[run]), name(m), tallies[run].of(m)})
		}
	}
	return t
}
