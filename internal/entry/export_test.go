package entry

import "time"

// Kinds returns the names of all kinds of facts.
func Kinds() []string {
	var names []string
	for _, c := range codecs {
		names = append(names, c.name)
	}
	return names
}

// Instants returns the instants in a fact that must be UTC.
func Instants(f Fact) []time.Time { return instants(f) }
