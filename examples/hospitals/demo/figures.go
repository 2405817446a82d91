package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"

	"consilium.dev/internal/dataset"
	"consilium.dev/internal/model"
)

// The figures that a right implementation of examples/hospitals/plan.yaml reaches, see data/README.md.
const (
	wantRight   = 201 // test patients
	rightWithin = 1
	testRows    = 254
	wantLoss    = 0.418835 // mean log loss of the 486 training patients
	lossWithin  = 1e-4
)

// report is what we read of consilium run watch -o json.
type report struct {
	Data struct {
		ID    string `json:"id"`
		State string `json:"state"`
		Plan  struct {
			Rounds int             `json:"rounds"`
			Schema json.RawMessage `json:"schema"`
		} `json:"plan"`
		History []struct {
			Round   int    `json:"round"`
			Model   string `json:"model"`
			Figures []struct {
				Member  string `json:"member"`
				Metrics []struct {
					Set   string  `json:"set"`
					Name  string  `json:"name"`
					Value float64 `json:"value"`
					Count int64   `json:"count"`
				} `json:"metrics"`
			} `json:"figures"`
		} `json:"history"`
	} `json:"data"`
}

// model returns the id of the newest model version, "" if there is none.
func (r report) model() string {
	if n := len(r.Data.History); n > 0 {
		return r.Data.History[n-1].Model
	}
	return ""
}

// over returns the mean of a figure of the last round over all hospitals' rows, and how many rows these are.
func (r report) over(set, name string) (mean float64, rows int64) {
	sum := 0.0
	for _, f := range r.Data.History[len(r.Data.History)-1].Figures {
		for _, m := range f.Metrics {
			if m.Set == set && m.Name == name {
				sum += m.Value * float64(m.Count)
				rows += m.Count
			}
		}
	}
	return sum / float64(rows), rows
}

// train has the lead start the run and watch it, shows its rounds and fetches the model.
func (d *demo) train(ctx context.Context) (report, error) {
	var r report
	out, err := d.typed(ctx, "run", "start", d.path("plan.yaml"), "--watch", "-o", "json")
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("what consilium printed is not its JSON: %w", err)
	}
	if r.Data.State != "completed" || len(r.model()) != 64 {
		return r, fmt.Errorf("the run is %s after %d rounds, and its model is %q", r.Data.State, len(r.Data.History), r.model())
	}
	table, err := d.typed(ctx, "run", "show", r.Data.ID)
	if err != nil {
		return r, err
	}
	fmt.Print(string(table))
	if _, err = d.typed(ctx, "model", "export", r.model(), "--out", d.path("model.safetensors")); err != nil {
		return r, err
	}
	fmt.Println()
	return r, d.features(r)
}

// features writes the names of the model's inputs, one a line, in the order of its tensors.
func (d *demo) features(r report) error {
	schema, err := dataset.ParseSchema(r.Data.Plan.Schema)
	if err != nil {
		return fmt.Errorf("the run's plan: %w", err)
	}
	text := strings.Join(schema.Features(), "\n") + "\n"
	return os.WriteFile(d.path("features.txt"), []byte(text), 0o600)
}

// check holds the run's figures to the published ones, and the exported file to the model's id and shape.
func (d *demo) check(r report) error {
	last := r.Data.History[len(r.Data.History)-1]
	loss, train := r.over("train", "loss")
	accuracy, test := r.over("test", "accuracy")
	right := math.Round(accuracy * float64(test))
	err := errors.Join(
		holds(last.Round == r.Data.Plan.Rounds, "the last round is %d of %d", last.Round, r.Data.Plan.Rounds),
		holds(len(last.Figures) == len(members), "%d of %d hospitals have reported on the last round", len(last.Figures), len(members)),
		holds(math.Abs(loss-wantLoss) <= lossWithin, "the loss of %d training patients is %.6f, want %.6f within %g", train, loss, wantLoss, lossWithin),
		holds(test == testRows, "%d test patients, want %d", test, testRows),
		holds(math.Abs(right-wantRight) <= rightWithin, "%.0f of %d test patients are right, want %d within %d", right, test, wantRight, rightWithin),
		d.checkModel(r.model()))
	if err != nil {
		return fmt.Errorf("the outcome is not the published one:\n%w", err)
	}
	d.step("as published: %.0f of %d test patients right (want %d within %d), training loss %.6f (want %.6f within %g)",
		right, test, wantRight, rightWithin, loss, wantLoss, lossWithin)
	return nil
}

// holds is an error unless the statement is true.
func holds(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// checkModel reads the exported file as its user would.
func (d *demo) checkModel(id string) error {
	text, err := os.ReadFile(d.path("model.safetensors"))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	m, err := model.Read(strings.NewReader(string(text)), int64(len(text)))
	if err != nil {
		return fmt.Errorf("reading the exported model: %w", err)
	}
	var got strings.Builder
	for _, t := range m.Layout {
		fmt.Fprintf(&got, "%s%v ", t.Name, t.Shape)
	}
	const want = "linear.bias[1] linear.weight[1 13] standardize.mean[13] standardize.scale[13] "
	return errors.Join(
		holds(hex.EncodeToString(sum[:]) == id, "the exported file's SHA-256 is %x, the model's id %s", sum, id),
		holds(got.String() == want, "the model's tensors are %s, want %s", got.String(), want))
}
