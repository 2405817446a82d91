package dataset

import (
	"strconv"
	"strings"
)

// names are the names that columns stand for, by what a schema says: NAME, or NAME_1 to NAME_n. So a million of them take no more than their
// schema's text.
type names struct {
	single  map[string]bool
	counted map[string]int // n, by NAME
}

// has reports whether a name is among them.
func (a *names) has(name string) bool {
	if a.single[name] {
		return true
	}
	i := strings.LastIndexByte(name, '_') // what counts holds none
	if i < 0 {
		return false
	}
	n, err := strconv.Atoi(name[i+1:])
	return err == nil && n >= 1 && n <= a.counted[name[:i]] && strconv.Itoa(n) == name[i+1:]
}

// namesOf returns those of columns, and one that stands there twice, "" if none does.
func namesOf(columns []columnSpec) (a names, twice string) {
	a = names{map[string]bool{}, map[string]int{}}
	for _, c := range columns {
		if c.Count == nil {
			continue
		}
		if a.counted[c.Name] > 0 { // two counts of other NAMEs give no name twice: each ends in its own NAME and a number
			twice = c.Name + "_1"
		}
		a.counted[c.Name] = max(a.counted[c.Name], *c.Count)
	}
	for _, c := range columns {
		if c.Count != nil {
			continue
		}
		if a.has(c.Name) {
			twice = c.Name
		}
		a.single[c.Name] = true
	}
	return a, twice
}
