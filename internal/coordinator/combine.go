package coordinator

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"sync"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/round"
	"consilium.dev/internal/trainer"
)

// maxModel is the most bytes of a model or an optimiser's state that are read back.
const maxModel = 1 << 36

// combiner turns the sum of a try into the next model version, and makes both blobs durable before anybody hears of them.
type combiner struct {
	blobs *blob.Blobs
}

// combine takes the mean of s and applies the plan's strategy to it. It does the same to the same bits after any crash.
func (c *combiner) combine(ctx context.Context, a round.Combine, s *sum) (round.Combined, error) {
	in := round.Combined{Run: a.Run, Round: a.Round, Try: a.Try, Members: a.Members, Early: a.Early}
	mean := make([]float64, s.spec.Len())
	s.acc.Mean(0, mean)
	var err error
	var next *model.Model
	var state []float64
	if a.Kind == entry.Statistics {
		next, err = trainer.Initial(a.Plan, mean, rows(a.Members))
	} else {
		next, state, err = c.step(ctx, a, mean)
	}
	if err != nil {
		return in, err
	}
	in.Model = next.Digest()
	if in.Blob, err = c.putModel(ctx, next); err != nil {
		return in, err
	}
	if len(state) > 0 {
		b, err := c.blobs.Put(ctx, bytes.NewReader(encodeState(a.Plan.Strategy.Name, state)))
		if err != nil {
			return in, fmt.Errorf("storing the optimiser's state: %w", err)
		}
		in.State = &b
	}
	return in, nil
}

// step applies the server optimiser to the base model.
func (c *combiner) step(ctx context.Context, a round.Combine, mean []float64) (*model.Model, []float64, error) {
	base, err := c.model(ctx, *a.Base)
	if err != nil {
		return nil, nil, err
	}
	if len(base.Params) != len(mean) {
		return nil, nil, fmt.Errorf("base model has %d parameters, the sum %d", len(base.Params), len(mean))
	}
	strategy, err := aggregate.NewStrategy(a.Plan.Strategy.Name, a.Plan.Strategy.Params)
	if err != nil {
		return nil, nil, err
	}
	rule := strategy.Optimizer(a.Round)
	state := make([]float64, rule.StateLen(len(mean)))
	if a.State != nil {
		text, err := c.blobs.ReadAll(ctx, *a.State, maxModel)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the optimiser's state: %w", err)
		}
		if err := decodeState(state, a.Plan.Strategy.Name, text); err != nil {
			return nil, nil, err
		}
	}
	next := &model.Model{Layout: base.Layout, Params: make([]float32, len(base.Params))}
	rule.Step(next.Params, base.Params, mean, state)
	return next, state, nil
}

// model reads a model version back.
func (c *combiner) model(ctx context.Context, ref entry.Blob) (*model.Model, error) {
	r, err := c.blobs.Open(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("opening model %s: %w", ref.Plain.Short(), err)
	}
	defer r.Close()
	m, err := model.Read(r, maxModel)
	if err != nil {
		return nil, fmt.Errorf("reading model %s: %w", ref.Plain.Short(), err)
	}
	return m, nil
}

// putModel stores a model as safetensors.
func (c *combiner) putModel(ctx context.Context, m *model.Model) (entry.Blob, error) {
	r, w := io.Pipe()
	var writer sync.WaitGroup
	writer.Go(func() { w.CloseWithError(m.Write(w)) })
	ref, err := c.blobs.Put(ctx, r)
	r.Close() // ends a writer that nobody reads from any more
	writer.Wait()
	if err != nil {
		return entry.Blob{}, fmt.Errorf("storing the model: %w", err)
	}
	return ref, nil
}

// rows returns how many records stand behind a round.
func rows(members []entry.Contribution) int64 {
	var n int64
	for _, m := range members {
		n += m.Weight
	}
	return n
}

// An optimiser's state at rest is a line "consilium.optimiser/1 STRATEGY N\n" and N float64s, little endian, in the order
// that the strategy's doc comment gives.
func stateHead(strategy string, n int) string {
	return fmt.Sprintf("consilium.optimiser/1 %s %d\n", strategy, n)
}

func encodeState(strategy string, state []float64) []byte {
	text := append(make([]byte, 0, 64+8*len(state)), stateHead(strategy, len(state))...)
	for _, v := range state {
		text = binary.LittleEndian.AppendUint64(text, math.Float64bits(v))
	}
	return text
}

// decodeState fills dst, whose length the strategy and the model give.
func decodeState(dst []float64, strategy string, text []byte) error {
	body, ok := bytes.CutPrefix(text, []byte(stateHead(strategy, len(dst))))
	if !ok || len(body) != 8*len(dst) {
		return fmt.Errorf("optimiser's state is not that of %s over %d values", strategy, len(dst))
	}
	for i := range dst {
		dst[i] = math.Float64frombits(binary.LittleEndian.Uint64(body[8*i:]))
	}
	return nil
}
