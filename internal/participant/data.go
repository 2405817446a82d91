package participant

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
)

// Data names the member's own files. Nothing of them leaves the process but updates and figures.
type Data struct {
	Records string `yaml:"records"` // CSV; the plan's schema says how it is read
	Split   string `yaml:"split"`   // CSV; which rows are for training and which for testing
}

// rows are a run's records as numbers.
type rows struct {
	train, test *dataset.Set
}

// dataCache holds the rows of the runs that are under way, each read by its own plan's schema. It is used by one goroutine
// at a time.
type dataCache struct {
	files Data
	of    map[string]rows
}

// read returns the rows for a run.
func (c *dataCache) read(run string, plan entry.Plan) (rows, error) {
	if r, ok := c.of[run]; ok {
		return r, nil
	}
	r, err := c.files.read(plan)
	if err != nil {
		return rows{}, err
	}
	if c.of == nil {
		c.of = map[string]rows{}
	}
	c.of[run] = r
	return r, nil
}

// forget drops the rows of runs that closed does not hold.
func (c *dataCache) forget(closed map[string]int) {
	for run := range c.of {
		if _, open := closed[run]; !open {
			delete(c.of, run)
		}
	}
}

// Check reads both files as far as that needs no plan, so that a wrong path is found at start.
func (d Data) Check() error {
	if d.Records == "" || d.Split == "" {
		return errors.New("data: name both records and split")
	}
	f, err := os.Open(d.Records)
	if err != nil {
		return fmt.Errorf("data: records: %w", err)
	}
	f.Close()
	_, err = d.split()
	return err
}

func (d Data) split() (dataset.Split, error) {
	f, err := os.Open(d.Split)
	if err != nil {
		return dataset.Split{}, fmt.Errorf("data: split: %w", err)
	}
	defer f.Close()
	return dataset.ReadSplit(f, filepath.Base(d.Split))
}

func (d Data) read(plan entry.Plan) (rows, error) {
	schema, err := dataset.ParseSchema(plan.Schema)
	if err != nil {
		return rows{}, err
	}
	split, err := d.split()
	if err != nil {
		return rows{}, err
	}
	f, err := os.Open(d.Records)
	if err != nil {
		return rows{}, fmt.Errorf("data: records: %w", err)
	}
	defer f.Close()
	all, err := dataset.Read(f, filepath.Base(d.Records), schema)
	if err != nil {
		return rows{}, err
	}
	train, test, err := all.Split(split)
	return rows{train, test}, err
}

// Tally is what a plan's schema finds in the member's files.
type Tally struct {
	Train, Test int // rows
	Columns     int // numbers a row
}

// Count reads both files as a run of that plan would. Its errors say file, line and column, and nothing that stands there.
func (d Data) Count(plan entry.Plan) (Tally, error) {
	r, err := d.read(plan)
	if err != nil {
		return Tally{}, err
	}
	return Tally{r.train.Rows(), r.test.Rows(), r.train.Columns()}, nil
}
