package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"consilium.dev/internal/strictyaml"
)

// Limits on what a document may hold, far above what a federation needs.
const (
	maxFaults = 100
	maxName   = 63
	maxReason = 300
	maxWhole  = 1<<53 - 1 // RFC 8785 keeps whole numbers exact up to here
)

// faults collects what is wrong with a document, so that its author sees all of it at once.
type faults struct {
	list []fault
	keys map[string]string // public key to the field it first stood in
}

type fault struct {
	line int
	text string
}

func newFaults() *faults { return &faults{keys: map[string]string{}} }

func (f *faults) add(line int, format string, args ...any) {
	if len(f.list) < maxFaults {
		f.list = append(f.list, fault{line, fmt.Sprintf(format, args...)})
	}
}

// err returns all faults in the order of their lines as one error, nil if there are none.
func (f *faults) err() error {
	slices.SortStableFunc(f.list, func(a, b fault) int { return cmp.Compare(a.line, b.line) })
	var said strictyaml.Faults
	for _, one := range f.list {
		if one.line > 0 {
			one.text = fmt.Sprintf("line %d: %s", one.line, one.text)
		}
		said = append(said, one.text)
	}
	if said == nil {
		return nil
	}
	return said
}

// cursor stands on one value of a document. Reading what is missing or of another kind notes a fault and gives a zero, so
// that the reader goes on and finds the other faults too.
type cursor struct {
	v    *value // nil where the fault has been noted already
	path string
	all  *faults
}

func (c cursor) fault(format string, args ...any) {
	if c.v == nil {
		return
	}
	where := c.path
	if where == "" {
		where = "the document"
	}
	c.all.add(c.v.line, "%s: %s", where, fmt.Sprintf(format, args...))
}

// is reports whether the value is of kind k, and notes a fault if it is not.
func (c cursor) is(k kind) bool {
	if c.v == nil {
		return false
	}
	if c.v.kind == k {
		return true
	}
	hint := ""
	if k == text && (c.v.kind == number || c.v.kind == truth) {
		hint = ": put it in quotes"
	}
	c.fault("is %s, want %s%s", c.v.kind, k, hint)
	return false
}

func (c cursor) at(v *value, name string) cursor {
	if c.path != "" && name[0] != '[' {
		name = "." + name
	}
	return cursor{v, c.path + name, c.all}
}

// fields returns a cursor for each of the names, all of which must be there. A name with a trailing question mark may be
// absent, which gives a cursor without a value. Any other field is a fault.
func (c cursor) fields(names ...string) map[string]cursor {
	found := map[string]cursor{}
	ok := c.is(object)
	for _, name := range names {
		name, optional := strings.CutSuffix(name, "?")
		found[name] = c.at(nil, name)
		if !ok {
			continue
		}
		if v := c.v.field(name); v != nil {
			found[name] = c.at(v, name)
		} else if !optional {
			c.fault("field %q is missing", name)
		}
	}
	if ok {
		for i, name := range c.v.names {
			if _, known := found[name]; !known {
				c.all.add(c.v.items[i].line, "unknown field %q in %s", name, cmp.Or(c.path, "the document"))
			}
		}
	}
	return found
}

// items returns a cursor for each item of a list, which must not be empty.
func (c cursor) items() []cursor {
	if !c.is(list) {
		return nil
	}
	if len(c.v.items) == 0 {
		c.fault("is empty: a list has one item at least")
	}
	var all []cursor
	for i := range c.v.items {
		all = append(all, c.at(&c.v.items[i], fmt.Sprintf("[%d]", i)))
	}
	return all
}

// entries returns a cursor for each field of an object whose names the author chose; there must be one at least.
func (c cursor) entries() (names []string, values []cursor) {
	if !c.is(object) {
		return nil, nil
	}
	if len(c.v.items) == 0 {
		c.fault("is empty: it has one entry at least")
	}
	for i, name := range c.v.names {
		names = append(names, name)
		values = append(values, c.at(&c.v.items[i], cmp.Or(name, `""`)))
	}
	return names, values
}

// each reads every item of a list that must not be empty and in which nothing stands twice.
func each[T any](c cursor, read func(cursor) T) []T {
	var all []T
	seen := map[string]bool{}
	for _, item := range c.items() {
		all = append(all, read(item))
		if item.v.kind != text {
			continue
		}
		if seen[item.v.text] {
			item.fault("stands twice in its list")
		}
		seen[item.v.text] = true
	}
	return all
}
