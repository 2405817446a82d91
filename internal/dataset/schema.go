package dataset

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxColumns is the most columns of a file and the most features of a set.
	MaxColumns = 1 << 20

	maxSchema = 1 << 20 // bytes of a schema
	maxLevels = 1 << 12
	maxText   = 128 // bytes of a name, a level or the missing marker
)

// Schema says what the columns of a file mean. The zero Schema reads nothing.
type Schema struct {
	spec     schemaSpec
	columns  []column // one for each column of the file
	features []string
}

// schemaSpec is a schema's JSON. The fields are described at [ParseSchema].
type schemaSpec struct {
	Header      bool         `json:"header"`
	Missing     string       `json:"missing"`
	MissingRows string       `json:"missing_rows"`
	Columns     []columnSpec `json:"columns"`
}

type columnSpec struct {
	Name   string   `json:"name"`
	Use    string   `json:"use"`
	Count  *int     `json:"count"`
	Levels []string `json:"levels"`
	Above  *float64 `json:"above"`
}

// column is one column of the file. feature is the index of its (first) feature.
type column struct {
	name    string
	use     string
	feature int
	levels  []float64
	above   float64
}

// The uses of a column.
const (
	useNumber   = "number"
	useCategory = "category"
	useLabel    = "label"
	useIgnore   = "ignore"
)

// ParseSchema reads a schema, a JSON object of at most 1 MiB. Unknown and doubled fields, and fields that do not go with a
// column's use, are errors.
//
//	header        whether the first line holds the columns' names, which must be those of the schema then; default false
//	missing       what stands for a missing value, beside the empty text, e.g. "?"; default none
//	missing_rows  what happens to a row that misses a value of a column in use: "refuse" (default: an error) or "drop"
//	columns       the columns of the file in their order, each with
//	  name        its name; names differ
//	  use         "number": a feature. "category": one feature NAME_LEVEL for each level but the first, 1 in rows of that level,
//	              else 0. "label": 1 where the number is more than above, else 0; one column is the label. "ignore"
//	  count       with number and ignore: so many columns follow each other, named NAME_1, NAME_2, ...; default: one, named NAME
//	  levels      of a category: at least two numbers, as text
//	  above       of a label
//
// The features are the number columns in the order of the file, and behind them the categories' in the order of the file.
func ParseSchema(text []byte) (Schema, error) {
	if len(text) > maxSchema {
		return Schema{}, fmt.Errorf("schema has %d bytes, at most %d are allowed", len(text), maxSchema)
	}
	var s Schema
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s.spec); err != nil {
		return Schema{}, fmt.Errorf("schema: %w", plainly(err))
	}
	if _, err := d.Token(); err != io.EOF {
		return Schema{}, errors.New("schema: goes on behind its end")
	}
	if err := checkKeys(json.NewDecoder(bytes.NewReader(text)), "header", "missing", "missing_rows", "columns"); err != nil {
		return Schema{}, fmt.Errorf("schema: %w", err)
	}
	if err := s.compile(); err != nil {
		return Schema{}, fmt.Errorf("schema: %w", err)
	}
	return s, nil
}

// plainly words a value of the wrong kind without Go's types, which are not the reader's business.
func plainly(err error) error {
	var e *json.UnmarshalTypeError
	if !errors.As(err, &e) {
		return err
	}
	want := map[reflect.Kind]string{
		reflect.Bool: "true or false", reflect.String: "text, as in \"1\"", reflect.Int: "a whole number", reflect.Float64: "a number",
		reflect.Slice: "a list", reflect.Struct: "an object",
	}[e.Type.Kind()]
	return fmt.Errorf("%s: want %s, not a JSON %s", cmp.Or(e.Field, "all of it"), want, strings.Fields(e.Value)[0])
}

// checkKeys refuses what encoding/json lets pass: keys that stand twice, and keys that differ from a field's in case only. known
// are the keys of the next value, if it is an object; objects within it are columns. The text has been decoded before, which
// bounds its depth.
func checkKeys(d *json.Decoder, known ...string) error {
	open, err := d.Token()
	if err != nil || open != json.Delim('{') && open != json.Delim('[') {
		return err
	}
	seen := map[string]bool{}
	for d.More() {
		next := known
		if open == json.Delim('{') {
			key, err := d.Token()
			if err != nil {
				return err
			}
			name, _ := key.(string)
			if !slices.Contains(known, name) || seen[name] {
				return fmt.Errorf("key %.64q is unknown or stands twice", name)
			}
			seen[name] = true
			next = []string{"name", "use", "count", "levels", "above"}
		}
		if err := checkKeys(d, next...); err != nil {
			return err
		}
	}
	_, err = d.Token() // the end of the object or the list
	return err
}

// Features returns the names of the features in their order. The caller does not change them.
func (s Schema) Features() []string { return s.features }

// compile checks the specification and lays the columns out.
func (s *Schema) compile() error {
	switch s.spec.MissingRows {
	case "":
		s.spec.MissingRows = "refuse"
	case "refuse", "drop":
	default:
		return fmt.Errorf("missing_rows is %.32q, want refuse or drop", s.spec.MissingRows)
	}
	if s.spec.Missing != "" {
		if err := checkText(s.spec.Missing); err != nil {
			return fmt.Errorf("missing: %w", err)
		}
	}
	for i, c := range s.spec.Columns {
		cols, err := c.expand()
		if err != nil {
			return fmt.Errorf("column %d of the list: %w", i+1, err)
		}
		if len(cols) > MaxColumns-len(s.columns) {
			return fmt.Errorf("more than %d columns", MaxColumns)
		}
		s.columns = append(s.columns, cols...)
	}
	return s.place()
}

// expand checks a column's specification and returns the columns that it stands for.
func (c columnSpec) expand() ([]column, error) {
	if err := checkText(c.Name); err != nil {
		return nil, fmt.Errorf("name: %w", err)
	}
	col := column{name: c.Name, use: c.Use}
	plain := c.Use == useNumber || c.Use == useIgnore
	switch {
	case !plain && c.Use != useCategory && c.Use != useLabel:
		return nil, fmt.Errorf("%s: use is %.32q, want number, category, label or ignore", c.Name, c.Use)
	case c.Count != nil && !plain:
		return nil, fmt.Errorf("%s: count goes only with number and ignore", c.Name)
	case (c.Levels != nil) != (c.Use == useCategory):
		return nil, fmt.Errorf("%s: levels go with category, and only with it", c.Name)
	case (c.Above != nil) != (c.Use == useLabel):
		return nil, fmt.Errorf("%s: above goes with label, and only with it", c.Name)
	case c.Use == useCategory:
		levels, err := parseLevels(c.Levels)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
		col.levels = levels
	case c.Use == useLabel:
		col.above = *c.Above
	case c.Count != nil:
		return col.repeat(*c.Count)
	}
	return []column{col}, nil
}

// repeat returns n columns like c, numbered from 1.
func (c column) repeat(n int) ([]column, error) {
	if n < 1 || n > MaxColumns {
		return nil, fmt.Errorf("%s: count is %d, want 1 to %d", c.name, n, MaxColumns)
	}
	text := make([]byte, 0, n*(len(c.name)+1+len(strconv.Itoa(n)))) // of all names: a million of them are one piece of memory
	ends := make([]int, n)
	for i := range ends {
		text = append(append(text, c.name...), '_')
		text = strconv.AppendInt(text, int64(i+1), 10)
		ends[i] = len(text)
	}
	cols, all, begin := make([]column, n), string(text), 0
	for i, end := range ends {
		cols[i] = column{name: all[begin:end], use: c.use}
		begin = end
	}
	return cols, nil
}

// parseLevels returns a category's levels as numbers, so that "1" and "1.0" in a file are the same level.
func parseLevels(texts []string) ([]float64, error) {
	if len(texts) < 2 || len(texts) > maxLevels {
		return nil, fmt.Errorf("%d levels, want 2 to %d", len(texts), maxLevels)
	}
	var levels []float64
	seen := map[float64]bool{}
	for _, t := range texts {
		if err := checkText(t); err != nil {
			return nil, fmt.Errorf("level: %w", err)
		}
		v, ok := parseNumber(t)
		if !ok || seen[v] {
			return nil, fmt.Errorf("level %q is no number or stands twice", t)
		}
		seen[v] = true
		levels = append(levels, v)
	}
	return levels, nil
}

// place gives every column its feature, and checks what concerns all columns together.
func (s *Schema) place() error {
	if _, twice := namesOf(s.spec.Columns); twice != "" {
		return fmt.Errorf("two columns have the name %s", twice)
	}
	labels := 0
	s.features = make([]string, 0, len(s.columns))
	for i := range s.columns {
		c := &s.columns[i]
		switch c.use {
		case useLabel:
			labels++
		case useNumber:
			c.feature = len(s.features)
			s.features = append(s.features, c.name)
		}
	}
	if labels != 1 {
		return fmt.Errorf("%d columns are the label, want one", labels)
	}
	return s.placeCategories()
}

// placeCategories appends the features of the categories, and checks the features' names.
func (s *Schema) placeCategories() error {
	next := 0
	for _, spec := range s.spec.Columns { // levels as they are written name the features
		if spec.Use != useCategory {
			continue
		}
		for s.columns[next].use != useCategory {
			next++
		}
		c := &s.columns[next]
		next++
		c.feature = len(s.features)
		for _, level := range spec.Levels[1:] {
			s.features = append(s.features, c.name+"_"+level)
		}
		if len(s.features) > MaxColumns {
			return fmt.Errorf("more than %d features", MaxColumns)
		}
	}
	if len(s.features) == 0 {
		return errors.New("no column is a feature")
	}
	if next == 0 { // the features are columns, whose names differ
		return nil
	}
	first, inUse := len(s.features), []columnSpec(nil) // as features under their own names, which differ
	for _, c := range s.spec.Columns {
		switch c.Use {
		case useNumber:
			inUse = append(inUse, c)
		case useCategory:
			first -= len(c.Levels) - 1
		}
	}
	numbers, _ := namesOf(inUse)
	seen := make(map[string]bool, len(s.features)-first)
	for _, f := range s.features[first:] {
		if seen[f] || numbers.has(f) {
			return fmt.Errorf("two features have the name %s", f)
		}
		seen[f] = true
	}
	return nil
}

// checkText accepts what can stand in one field of a file and in one line of a log.
func checkText(t string) error {
	if t == "" || len(t) > maxText || !utf8.ValidString(t) {
		return fmt.Errorf("want 1 to %d bytes of text", maxText)
	}
	if strings.TrimSpace(t) != t {
		return errors.New("space around it: values are compared without")
	}
	for _, r := range t {
		if !unicode.IsPrint(r) || r == ',' || r == '"' {
			return fmt.Errorf("character %q is not allowed in it", r)
		}
	}
	return nil
}

// parseNumber reads a decimal number; neither hexadecimal, nor infinities, nor words.
func parseNumber(t string) (float64, bool) {
	for i := range len(t) {
		switch c := t[i]; {
		case c >= '0' && c <= '9', c == '.', c == '-', c == '+', c == 'e', c == 'E':
		default:
			return 0, false
		}
	}
	v, err := strconv.ParseFloat(t, 64)
	return v, err == nil // it is one also for numbers beyond float64
}
