// Package dataset turns a member's records, a file of comma-separated values, into numbers to train on, as the schema of a
// run's plan says. Every member applies the same schema to its own file, so that the same column means the same everywhere.
//
//	{"header": false, "missing": "?", "missing_rows": "drop", "columns": [
//	  {"name": "age",   "use": "number"},
//	  {"name": "cp",    "use": "category", "levels": ["1", "2", "3", "4"]},
//	  {"name": "slope", "use": "ignore"},
//	  {"name": "gene",  "use": "number", "count": 300000},
//	  {"name": "num",   "use": "label", "above": 0}]}
//
// [ParseSchema] reads a schema, [Read] a file, [ReadSplit] which of its lines are for training and which for testing, and
// [Set.Split] divides. Errors name file, line and column, and never repeat what stands there: it may be a patient's.
package dataset

import (
	"fmt"
	"slices"
)

// Set is records as numbers. Nobody changes a Set: [Set.Split] shares no memory with it, readers may share it.
type Set struct {
	Names    []string  // of the features, as Schema.Features gives them
	Features []float64 // row by row, len(Labels) times len(Names)
	Labels   []float64 // 0 or 1, one a row
	Lines    []int     // in the file, from 1, one a row, ascending
	name     string    // of the file, for errors
}

// Rows returns the number of records.
func (s *Set) Rows() int { return len(s.Labels) }

// Columns returns the number of features.
func (s *Set) Columns() int { return len(s.Names) }

// Row returns the features of record i, sharing its memory.
func (s *Set) Row(i int) []float64 {
	d := len(s.Names)
	return s.Features[i*d : (i+1)*d : (i+1)*d]
}

// Split divides s into the records for training and those for testing. Every record must stand in split and every line of
// split must be a record: else split belongs to another file or another schema.
func (s *Set) Split(split Split) (train, test *Set, err error) {
	train, test = &Set{Names: s.Names, name: s.name}, &Set{Names: s.Names, name: s.name}
	for i, line := range s.Lines {
		part, ok := split.parts[line]
		if !ok {
			return nil, nil, fmt.Errorf("%s: line %d is a record that %s puts in no set", s.name, line, split.name)
		}
		to := train
		if part == testPart {
			to = test
		}
		to.Features = append(to.Features, s.Row(i)...)
		to.Labels = append(to.Labels, s.Labels[i])
		to.Lines = append(to.Lines, line)
	}
	if len(split.parts) > len(s.Lines) {
		return nil, nil, fmt.Errorf("%s: names line %d, which %s has no record for under this schema", split.name, split.stray(s.Lines), s.name)
	}
	return train, test, nil
}

// Split says of lines of a file whether they are for training or for testing.
type Split struct {
	name  string
	parts map[int]part
}

type part uint8

const (
	trainPart part = iota + 1
	testPart
)

// stray returns the first line of the split that is not among lines, which ascend.
func (s Split) stray(lines []int) int {
	least := 0
	for line := range s.parts {
		if _, ok := slices.BinarySearch(lines, line); !ok && (least == 0 || line < least) {
			least = line
		}
	}
	return least
}
