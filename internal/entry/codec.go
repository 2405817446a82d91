package entry

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"
)

// instant is how a line writes its instant: RFC 3339, UTC, always with six digits of a second, so that lines sort by it.
const instant = "2006-01-02T15:04:05.000000Z"

// wire is a line as JSON has it.
type wire struct {
	Salt string          `json:"salt"` // 32 lower-case hex digits
	Kind string          `json:"kind"`
	At   string          `json:"at"` // as instant
	Fact json.RawMessage `json:"fact"`
}

// codec knows one kind of fact: its name in lines, whether a fact is of it, and how to read one.
type codec struct {
	name string
	is   func(Fact) bool
	read func([]byte) (Fact, error)
}

// codecs are all kinds of facts. A name is never changed, and never given to another kind.
var codecs = []codec{
	kind[ManifestAdopted]("manifest_adopted"),
	kind[HandedOver]("handed_over"),
	kind[Booted]("booted"),
	kind[Admitted]("admitted"),
	kind[RunCreated]("run_created"),
	kind[Consented]("consented"),
	kind[Declined]("declined"),
	kind[Left]("left"),
	kind[RoundOpened]("round_opened"),
	kind[UpdateAccepted]("update_accepted"),
	kind[UpdateRefused]("update_refused"),
	kind[MasksAgreed]("masks_agreed"),
	kind[Unmasking]("unmasking"),
	kind[RoundFailed]("round_failed"),
	kind[RoundClosed]("round_closed"),
	kind[Evaluated]("evaluated"),
	kind[RunEnded]("run_ended"),
	kind[TagMoved]("tag_moved"),
	kind[Dropped]("dropped"),
}

func kind[F Fact](name string) codec {
	return codec{
		name: name,
		is:   func(f Fact) bool { _, ok := f.(F); return ok },
		read: func(text []byte) (Fact, error) {
			var f F
			err := unmarshal(text, &f)
			return f, err
		},
	}
}

// Encode returns the line, without a newline, that says f was decided at the instant at, whole microseconds. Decode reads it
// back to the same fact.
//
// A fact that cannot be such a line is a broken rule of ours, and Encode panics: whoever puts into a fact what others sent
// asks [Check] first.
func Encode(salt [16]byte, at time.Time, f Fact) []byte {
	if !at.Equal(at.Truncate(time.Microsecond)) {
		panic(fmt.Sprintf("entry: the instant %s of a fact is not of whole microseconds", at.Format(time.RFC3339Nano)))
	}
	text, err := encode(salt, at, f)
	if err == nil {
		err = comesBack(text)
	}
	if err != nil {
		panic(fmt.Sprintf("entry: a fact that nobody checked: %v", err))
	}
	return text
}

// Check reports why f cannot be written down: it would make a line longer than MaxLine, or it holds what does not come back
// from a line as it went in (a number that is not finite, text that is not UTF-8, an instant that is not UTC, JSON with a
// doubled key). The error names no value of f.
func Check(f Fact) error {
	text, err := encode([16]byte{}, time.Unix(0, 0), f)
	if err != nil {
		return err
	}
	return comesBack(text)
}

// comesBack checks that a line just encoded is read as the fact that it was made of. The encoder puts another character in
// the place of bytes that are not UTF-8, and only a second encoding tells it from one that stood there.
func comesBack(text []byte) error {
	l, err := Decode(text)
	if err != nil {
		return err
	}
	again, err := encode(l.Salt, l.At, l.Fact)
	if err == nil && !bytes.Equal(again, text) {
		err = errors.New("a fact with text that is not UTF-8")
	}
	return err
}

func encode(salt [16]byte, at time.Time, f Fact) ([]byte, error) {
	i := slices.IndexFunc(codecs, func(c codec) bool { return c.is(f) })
	if i < 0 {
		return nil, fmt.Errorf("a %T is not one of the facts", f)
	}
	fact, err := marshal(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", codecs[i].name, err)
	}
	text, err := marshal(wire{hex.EncodeToString(salt[:]), codecs[i].name, at.UTC().Format(instant), fact})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", codecs[i].name, err)
	}
	return text, nil
}

// marshal writes JSON in one line. Characters that only HTML minds stay what they are: a line is not to grow by them.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// unmarshal reads one JSON value and refuses fields that v does not have. That nothing else is lost, same sees to.
func unmarshal(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// Decode reads a line. It accepts what Encode writes and nothing else: it refuses an unknown kind, a field that is unknown,
// missing, doubled or out of its place, white space, whatever follows the line, and a line longer than MaxLine. Only other
// spellings of the same characters inside a string pass, since those may differ from one JSON library to the next, and a log
// outlives libraries.
func Decode(text []byte) (Line, error) {
	if len(text) > MaxLine {
		return Line{}, fmt.Errorf("a line of %d bytes, want at most %d", len(text), MaxLine)
	}
	if !utf8.Valid(text) {
		return Line{}, errors.New("a line that is not UTF-8")
	}
	var plain bytes.Buffer
	if err := json.Compact(&plain, text); err != nil {
		return Line{}, fmt.Errorf("a line that is not JSON: %w", err)
	}
	if !bytes.Equal(plain.Bytes(), text) {
		return Line{}, errors.New("a line with white space between its parts")
	}
	var w wire
	if err := unmarshal(text, &w); err != nil {
		return Line{}, err
	}
	l, err := w.line()
	if err != nil {
		return Line{}, err
	}
	again, err := encode(l.Salt, l.At, l.Fact)
	if err != nil {
		return Line{}, err
	}
	if err := same(text, again); err != nil {
		return Line{}, fmt.Errorf("%s: %w", w.Kind, err)
	}
	return l, nil
}

// line reads what w holds.
func (w *wire) line() (Line, error) {
	var l Line
	if n, err := hex.Decode(l.Salt[:], []byte(w.Salt[:min(len(w.Salt), 2*len(l.Salt)+1)])); err != nil || n != len(l.Salt) {
		return Line{}, fmt.Errorf("a salt of %d characters, want %d lower-case hex digits", len(w.Salt), 2*len(l.Salt))
	}
	at, err := time.Parse(instant, w.At)
	if err != nil {
		return Line{}, fmt.Errorf("an instant that is not written as %s", instant)
	}
	l.At = at
	i := slices.IndexFunc(codecs, func(c codec) bool { return c.name == w.Kind })
	if i < 0 {
		return Line{}, fmt.Errorf("the kind %.64q of a fact is unknown: a newer program wrote this log", w.Kind)
	}
	if l.Fact, err = codecs[i].read(w.Fact); err != nil {
		return Line{}, fmt.Errorf("%s: %w", w.Kind, err)
	}
	for _, t := range instants(l.Fact) {
		if t.Location() != time.UTC {
			return Line{}, fmt.Errorf("%s: an instant that is not UTC", w.Kind)
		}
	}
	return l, nil
}

// instants returns the instants in a fact.
func instants(f Fact) []time.Time {
	switch f := f.(type) {
	case Booted:
		return []time.Time{f.Since}
	case Admitted:
		return []time.Time{f.Issued, f.Expires}
	case RoundOpened:
		return []time.Time{f.Deadline}
	}
	return nil
}

// same reports where text, read token by token, differs from again, which was written from what text was read as. In an
// object whose fields are free no name may stand twice, either.
func same(text, again []byte) error {
	got, want := json.NewDecoder(bytes.NewReader(text)), json.NewDecoder(bytes.NewReader(again))
	got.UseNumber()
	want.UseNumber()
	var open []scope
	for {
		token, err := got.Token()
		if err != nil && err != io.EOF {
			return err
		}
		wanted, end := want.Token()
		if token != wanted || err != end {
			return fmt.Errorf("not as it would be written: it differs near byte %d", got.InputOffset())
		}
		if err == io.EOF {
			return nil
		}
		if len(open) > 0 && open[len(open)-1].doubles(token) {
			return fmt.Errorf("a doubled field near byte %d", got.InputOffset())
		}
		switch token {
		case json.Delim('{'):
			open = append(open, scope{names: map[string]bool{}})
		case json.Delim('['):
			open = append(open, scope{})
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
	}
}

// scope is an object or a list that same is inside of.
type scope struct {
	names map[string]bool // seen in the object; nil in a list
	value bool            // a name came, its value is next
}

// doubles takes in the next token of the scope, and reports whether it is a name that stands in it already.
func (s *scope) doubles(token json.Token) bool {
	if s.names == nil || token == json.Delim('}') {
		return false
	}
	if s.value = !s.value; !s.value {
		return false
	}
	name, _ := token.(string)
	seen := s.names[name]
	s.names[name] = true
	return seen
}
