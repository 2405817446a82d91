package dataset

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

const (
	// MaxRows is the most records of a set: the largest weight that a round allows.
	MaxRows = 1 << 29

	maxCells = 1 << 32 // features of all records together: 32 GiB
	maxSplit = 1 << 26 // lines of a split
)

// Read reads a file of records under a schema: comma-separated values (RFC 4180, either line ending) in UTF-8, with or without a
// byte order mark; empty lines do not count as records. name is the file's, for errors, which say file, line and column but
// never what stands there. It reads until r ends; the caller limits r.
func Read(r io.Reader, name string, s Schema) (*Set, error) {
	if len(s.columns) == 0 {
		return nil, fmt.Errorf("%s: no schema", name)
	}
	set := &Set{Names: s.features, name: name}
	lines, err := newLines(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	first := s.spec.Header
	for {
		fields, err := lines.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, place(name, err)
		}
		line, _ := lines.FieldPos(0)
		if first {
			err = s.checkHeader(fields)
		} else {
			err = set.add(s, fields, line)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", name, line, err)
		}
		first = false
	}
	if set.Rows() == 0 {
		return nil, fmt.Errorf("%s: has no record that the schema lets in", name)
	}
	return set, nil
}

// newLines returns a reader of comma-separated values that checks no widths by itself and begins behind a byte order mark.
func newLines(r io.Reader) (*csv.Reader, error) {
	b := bufio.NewReader(r)
	mark, _ := b.Peek(3) // what goes wrong here does so again when lines are read
	switch {
	case string(mark) == "\ufeff":
		_, _ = b.Discard(3)
	case bytes.HasPrefix(mark, []byte("\xff\xfe")), bytes.HasPrefix(mark, []byte("\xfe\xff")):
		return nil, errors.New("is UTF-16 text: save it as UTF-8")
	}
	c := csv.NewReader(b)
	c.FieldsPerRecord = -1
	c.ReuseRecord = true
	return c, nil
}

// place puts the file's name and the place before a fault of the file's syntax, which encoding/csv words without the text.
func place(name string, err error) error {
	var p *csv.ParseError
	if errors.As(err, &p) {
		return fmt.Errorf("%s: line %d, byte %d of the line: %w", name, p.Line, p.Column, p.Err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// checkWidth says which column a row has too few or too many.
func (s Schema) checkWidth(n int) error {
	if n < len(s.columns) {
		return fmt.Errorf("%d columns, want %d: column %d (%s) is missing", n, len(s.columns), n+1, s.columns[n].name)
	}
	if n > len(s.columns) {
		return fmt.Errorf("%d columns, want %d: the schema knows none behind %s", n, len(s.columns), s.columns[len(s.columns)-1].name)
	}
	return nil
}

// checkHeader compares the first line with the schema's names.
func (s Schema) checkHeader(fields []string) error {
	for i, f := range fields[:min(len(fields), len(s.columns))] {
		if strings.TrimSpace(f) != s.columns[i].name {
			return fmt.Errorf("column %d of the header is not %s, as the schema has it", i+1, s.columns[i].name)
		}
	}
	return s.checkWidth(len(fields))
}

// add appends a row, unless it misses a value and the schema drops such rows.
func (s *Set) add(schema Schema, fields []string, line int) error {
	if err := schema.checkWidth(len(fields)); err != nil {
		return err
	}
	if i := schema.missing(fields); i >= 0 {
		if schema.spec.MissingRows == "drop" {
			return nil
		}
		return fmt.Errorf("column %d (%s): value is missing: fill it in, or let the schema drop such rows", i+1, schema.columns[i].name)
	}
	d := len(schema.features)
	if s.Rows() == MaxRows || len(s.Features) > maxCells-d {
		return fmt.Errorf("more than %d records or %d numbers", MaxRows, maxCells)
	}
	s.Features = append(s.Features, make([]float64, d)...)
	row, label := s.Features[len(s.Features)-d:], 0.0
	for i, f := range fields {
		c := &schema.columns[i]
		if c.use == useIgnore {
			continue
		}
		v, ok := parseNumber(strings.TrimSpace(f))
		if !ok {
			return fmt.Errorf("column %d (%s): not a number: want digits, with a point if need be", i+1, c.name)
		}
		switch c.use {
		case useNumber:
			row[c.feature] = v
		case useCategory:
			at := slices.Index(c.levels, v)
			if at < 0 {
				return fmt.Errorf("column %d (%s): none of the schema's levels", i+1, c.name)
			}
			if at > 0 {
				row[c.feature+at-1] = 1
			}
		case useLabel:
			if v > c.above {
				label = 1
			}
		}
	}
	s.Labels = append(s.Labels, label)
	s.Lines = append(s.Lines, line)
	return nil
}

// missing returns the first column in use whose value is missing, -1 if there is none.
func (s Schema) missing(fields []string) int {
	for i, f := range fields {
		if s.columns[i].use == useIgnore {
			continue
		}
		if f = strings.TrimSpace(f); f == "" || f == s.spec.Missing {
			return i
		}
	}
	return -1
}

// ReadSplit reads which lines of a file are for training and which for testing: comma-separated values with the header
// "line,set", lines counted from 1, sets "train" and "test", no line twice. name is the split's file, for errors.
func ReadSplit(r io.Reader, name string) (Split, error) {
	s := Split{name: name, parts: map[int]part{}}
	lines, err := newLines(r)
	if err != nil {
		return Split{}, fmt.Errorf("%s: %w", name, err)
	}
	for first := true; ; first = false {
		fields, err := lines.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return Split{}, place(name, err)
		}
		at, _ := lines.FieldPos(0)
		if first {
			if !slices.Equal(fields, []string{"line", "set"}) {
				return Split{}, fmt.Errorf("%s: line %d: want the header line,set", name, at)
			}
			continue
		}
		if err := s.add(fields); err != nil {
			return Split{}, fmt.Errorf("%s: line %d: %w", name, at, err)
		}
	}
	if len(s.parts) == 0 {
		return Split{}, fmt.Errorf("%s: names no line", name)
	}
	return s, nil
}

// add takes one line of a split.
func (s Split) add(fields []string) error {
	if len(fields) != 2 {
		return fmt.Errorf("%d columns, want line and set", len(fields))
	}
	line, err := strconv.Atoi(fields[0])
	if err != nil || line < 1 {
		return errors.New("column 1 (line): want a number from 1")
	}
	if _, twice := s.parts[line]; twice {
		return fmt.Errorf("names line %d a second time", line)
	}
	if len(s.parts) == maxSplit {
		return fmt.Errorf("names more than %d lines", maxSplit)
	}
	switch fields[1] {
	case "train":
		s.parts[line] = trainPart
	case "test":
		s.parts[line] = testPart
	default:
		return errors.New("column 2 (set): want train or test")
	}
	return nil
}
