package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"consilium.dev/internal/client"
	"consilium.dev/internal/entry"
)

const (
	fewRounds  = 12 // as many are shown one by one
	fewMembers = 6  // as many have a column of their own
)

// roundsTable shows a run's rounds with their figures: the loss over all training rows, the accuracy over each member's test
// rows and over all of them.
func roundsTable(r client.Run, all bool) table.Writer {
	shown := r.History
	if !all {
		shown = thinned(shown)
	}
	columns := []any{"ROUND", "STATE", "UPDATES", "LOSS"}
	members := reporters(r.History)
	if len(members) > fewMembers {
		members = nil
	}
	for _, m := range members {
		columns = append(columns, name(m))
	}
	columns = append(columns, "ALL", "BYTES", "SECONDS")
	judged := slices.ContainsFunc(r.History, func(x client.Round) bool { return len(x.Effects)+len(x.Late) > 0 })
	if judged {
		columns = append(columns, "STRATEGY")
	}
	t := newTable(columns...)
	for _, x := range shown {
		row := roundRow(x, members)
		if judged {
			row = append(row, strings.Trim(effectsText(x.Effects)+"; "+lateText(x.Late), "; "))
		}
		t.AppendRow(row)
	}
	switch {
	case r.Plan.Privacy != nil:
		t.SetCaption("No figures: members make none in a run with privacy, since figures have no noise.")
	case len(members) > 0:
		t.SetCaption("LOSS is over the training rows of those who reported; the columns after it are the accuracy on test rows.")
	default:
		t.SetCaption("LOSS is over the training rows, ALL the accuracy over the test rows, of those who reported.")
	}
	return t
}

func roundRow(x client.Round, members []string) table.Row {
	title := fmt.Sprint(x.Round)
	if x.Try > 1 {
		title += fmt.Sprintf(", try %d", x.Try)
	}
	state := name(x.State)
	if x.Kind == string(entry.Statistics) {
		state += ", statistics"
	}
	row := table.Row{title, state, fmt.Sprintf("%d of %d", len(x.Accepted), len(x.Selected)), over(x.Figures, "train", "loss", "%.6f")}
	for _, m := range members {
		text := ""
		if i := slices.IndexFunc(x.Figures, func(f client.Figures) bool { return f.Member == m }); i >= 0 {
			text = over(x.Figures[i:i+1], "test", "accuracy", "%.4f")
		}
		row = append(row, text)
	}
	seconds := ""
	if !x.Closed.IsZero() {
		seconds = fmt.Sprintf("%.2f", x.Closed.Sub(x.Opened).Seconds())
	}
	return append(row, over(x.Figures, "test", "accuracy", "%.4f"), bytesText(x.Received), seconds)
}

// lateText says whose updates were trained from the base model of an earlier round, and of how many rounds before: names, or only how many where they
// are many.
func lateText(all []client.Late) string {
	if len(all) == 0 {
		return ""
	}
	var each []string
	most := 0
	for _, l := range all {
		each, most = append(each, fmt.Sprintf("%s by %d", name(l.Member), l.Rounds)), max(most, l.Rounds)
	}
	if n := len(all); n > fewMembers {
		return fmt.Sprintf("late: %d by up to %d", n, most)
	}
	return "late: " + strings.Join(each, ", ")
}

// over words a figure over all rows of those who reported it, "" if nobody did.
func over(all []client.Figures, set, figure, format string) string {
	v, rows := client.Over(all, set, figure)
	if rows == 0 {
		return ""
	}
	return fmt.Sprintf(format, v)
}

// reporters returns the members that have reported figures, ascending.
func reporters(history []client.Round) []string {
	var out []string
	for _, x := range history {
		for _, f := range x.Figures {
			out = append(out, f.Member)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// thinned returns about a dozen of many rounds: the first, the last two tries, those that failed lately, and some between.
func thinned(history []client.Round) []client.Round {
	if len(history) <= fewRounds {
		return history
	}
	step := roundStep(history[len(history)-1].Round)
	var out []client.Round
	for i, x := range history {
		if i == 0 || i == len(history)-1 || x.Round == 1 || x.Round%step == 0 && x.State == "closed" {
			out = append(out, x)
		}
	}
	return out
}

// roundStep returns the least of 1, 2, 5, 10, 20, ... that shows at most ten of n rounds.
func roundStep(n int) int {
	for decade := 1; ; decade *= 10 {
		for _, one := range []int{1, 2, 5} {
			if step := one * decade; n/step <= 10 {
				return step
			}
		}
	}
}
