package strictyaml

import (
	"errors"
	"strings"
)

// Faults is all that is wrong with a document, each with its place. Its text is one line, fit for a log; [Apart] says it to people.
type Faults []string

func (f Faults) Error() string { return strings.Join(f, "; ") }

// Apart returns an error's text for people: where several faults are in it, each stands on a line of its own, indented.
func Apart(err error) string {
	text := err.Error()
	if f, ok := errors.AsType[Faults](err); ok && len(f) > 1 {
		text = strings.Replace(text, f.Error(), "\n"+strings.Join(f, "\n"), 1)
	}
	var out strings.Builder
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if out.Len() > 0 {
			out.WriteString("\n  ")
		}
		out.WriteString(line)
	}
	return out.String()
}
