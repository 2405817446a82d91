package manifest

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
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
	var said []string
	for _, one := range f.list {
		if one.line > 0 {
			one.text = fmt.Sprintf("line %d: %s", one.line, one.text)
		}
		said = append(said, one.text)
	}
	if said == nil {
		return nil
	}
	return errors.New(strings.Join(said, "; "))
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

// words reads text of 1 to limit bytes without control characters: it is shown on terminals and in logs.
func (c cursor) words(limit int) string {
	if !c.is(text) {
		return ""
	}
	if n := len(c.v.text); n == 0 || n > limit {
		c.fault("has %d bytes, want 1 to %d", n, limit)
		return ""
	}
	if strings.ContainsFunc(c.v.text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		c.fault("holds characters that do not print")
		return ""
	}
	return c.v.text
}

// token reads text made of lower-case letters, digits and the characters in extra.
func (c cursor) token(extra string, limit int) string {
	s := c.words(limit)
	if strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune(extra, r)
	}) {
		c.fault("%q must be made of a-z, 0-9 and %q", s, extra)
		return ""
	}
	return s
}

// name reads the name of a federation, a peer or a set.
func (c cursor) name() string { return c.token("-", maxName) }

// choice reads text that must be one of the given.
func (c cursor) choice(of ...string) string {
	s := c.words(maxReason)
	if s != "" && !slices.Contains(of, s) {
		c.fault("is %q, want one of %s", s, strings.Join(of, ", "))
		return ""
	}
	return s
}

// whole reads a whole number in plain decimal digits.
func (c cursor) whole(least, most uint64) uint64 {
	if !c.is(number) {
		return 0
	}
	n, err := strconv.ParseUint(c.v.text, 10, 64)
	if err != nil || n < least || n > most {
		c.fault("is %s, want a whole number from %d to %d", c.v.text, least, most)
		return 0
	}
	return n
}

// positive reads a number above 0 up to most.
func (c cursor) positive(most float64) float64 {
	if !c.is(number) {
		return 0
	}
	x, err := strconv.ParseFloat(c.v.text, 64)
	if err != nil || !(x > 0 && x <= most) {
		c.fault("is %s, want a number above 0, at most %g", c.v.text, most)
		return 0
	}
	return x
}

func (c cursor) truth() bool { return c.is(truth) && c.v.text == "true" }

// hex reads n bytes as lower-case hex digits.
func (c cursor) hex(n int) []byte {
	if !c.is(text) {
		return nil
	}
	b, err := hex.DecodeString(c.v.text)
	if err != nil || len(b) != n || hex.EncodeToString(b) != c.v.text {
		c.fault("want %d bytes as %d lower-case hex digits", n, 2*n)
		return nil
	}
	return b
}

// base64 reads up to limit bytes in standard, padded base64.
func (c cursor) base64(limit int) []byte {
	if !c.is(text) {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(c.v.text)
	// Encoding again refuses line breaks and stray bits, which decoding lets pass.
	if err != nil || len(b) == 0 || len(b) > limit || base64.StdEncoding.EncodeToString(b) != c.v.text {
		c.fault("want 1 to %d bytes in padded standard base64", limit)
		return nil
	}
	return b
}

// key reads an Ed25519 public key, PKIX DER in base64, that must stand nowhere else in the document.
func (c cursor) key() ed25519.PublicKey {
	der := c.base64(64)
	if der == nil {
		return nil
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	key, ok := parsed.(ed25519.PublicKey)
	if err != nil || !ok {
		c.fault("is not an Ed25519 public key (PKIX)")
		return nil
	}
	if again, err := x509.MarshalPKIXPublicKey(key); err != nil || !bytes.Equal(again, der) {
		c.fault("is not an Ed25519 public key in its one DER form")
		return nil
	}
	if first, twice := c.all.keys[string(key)]; twice {
		c.fault("the same key stands in %s: every key serves one purpose", first)
		return nil
	}
	c.all.keys[string(key)] = c.path
	return key
}

// duration reads a span of whole seconds as Go writes it, such as 5m or 1h30m.
func (c cursor) duration(most time.Duration) time.Duration {
	if !c.is(text) {
		return 0
	}
	d, err := time.ParseDuration(c.v.text)
	if err != nil || d <= 0 || d > most || d%time.Second != 0 {
		c.fault("is %q, want whole seconds such as 5m, at most %s", c.v.text, most)
		return 0
	}
	return d
}
