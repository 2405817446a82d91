package coordinator

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/round"
	"consilium.dev/internal/trainer"
)

// maxModel is the most bytes of a model or an optimiser's state that are read back.
const maxModel = 1 << 36

// stepLen is how many values of a model are combined at a time.
const stepLen = 1 << 15

// combiner turns the sum of a try into the next model version, and makes both blobs durable before anybody hears of them. What it
// holds beside the sum does not grow with the model: base, state, next model and next state pass through it block by block.
type combiner struct {
	blobs  *blob.Blobs
	chance io.Reader // of noise, cryptographic
}

// combine takes the mean of s and applies the plan's strategy to it. It does the same to the same bits after any crash; where the plan asks
// for noise, this is drawn anew each time, and what was made with noise before is a blob that no fact names and nobody but this enclave
// can read.
func (c *combiner) combine(ctx context.Context, a round.Combine, s *sum) (round.Combined, error) {
	in := round.Combined{Run: a.Run, Round: a.Round, Try: a.Try, Members: slices.Clone(a.Members), Early: a.Early}
	var err error
	if a.Kind == entry.Statistics {
		mean := make([]float64, s.spec.Len()) // four values a column, and a plan's text bounds the columns
		var meanOf func(lo int, mean []float64) error
		meanOf, err = c.mean(ctx, a, s)
		for lo := 0; err == nil && lo < len(mean); lo += stepLen {
			err = meanOf(lo, mean[lo:min(lo+stepLen, len(mean))])
		}
		if err != nil {
			return in, err
		}
		var first *model.Model
		if first, err = trainer.Initial(a.Plan, mean, rows(a.Members)); err == nil {
			in.Blob, err = c.putModel(ctx, first)
		}
	} else {
		in.Blob, in.State, err = c.step(ctx, a, s, in.Members)
		if recipe, private := round.Recipe(a.Plan); err == nil && private && recipe.Adaptive != nil {
			in.Clip, err = recipe.Next(a.Clip, a.Selected, len(a.Members), s.unclipped(), c.chance)
		}
	}
	in.Model = in.Blob.Plain // a model's file names it
	return in, err
}

// step applies the server optimiser to the base model, and stores the next one and the optimiser's state, nil where it has none. Each
// block is read, stepped and handed to both of them. If one of the four fails, all end, and nothing that was stored is named. It says in members
// what became of their updates.
func (c *combiner) step(ctx context.Context, a round.Combine, s *sum, members []entry.Contribution) (next entry.Blob, state *entry.Blob, err error) {
	strategy, err := aggregate.NewStrategy(a.Plan.Strategy.Name, a.Plan.Strategy.Params)
	if err != nil {
		return next, nil, err
	}
	rule := strategy.Optimizer(a.Round)
	scale, err := trainer.Scale(a.Plan, weights(a.Members), len(s.spec.Weights))
	if err != nil {
		return next, nil, err
	}
	n := s.spec.Len()
	meanOf, err := c.mean(ctx, a, s)
	if err != nil {
		return next, nil, err
	}
	base, err := c.openModel(ctx, *a.Base, n)
	if err != nil {
		return next, nil, err
	}
	defer base.Close()
	if s.spool != nil {
		if meanOf, err = c.gather(ctx, a, strategy, s, members); err != nil {
			return next, nil, err
		}
	}
	for i, m := range members {
		if s.clipped[m.Member] && a.Plan.Privacy == nil { // with noise nobody may know whose was
			members[i].Effect = entry.Effect(aggregate.Clipped)
		}
	}
	old, err := c.openState(ctx, a.State, a.Plan.Strategy.Name, rule.StateLen(n))
	if err != nil {
		return next, nil, err
	}
	defer old.Close()

	g, ctx := errgroup.WithContext(ctx)
	models := c.put(ctx, g, "storing the model", &next)
	states := discard
	if rule.StateLen(n) > 0 {
		state = &entry.Blob{}
		states = c.put(ctx, g, "storing the optimiser's state", state)
	}
	g.Go(func() error {
		err := transform(rule, a.Plan.Strategy.Name, func(lo int, mean []float64) error {
			if err := meanOf(lo, mean); err != nil {
				return err
			}
			scale(lo, mean)
			return nil
		}, n, base, old, models, states)
		models.CloseWithError(err) // nil: it is whole
		states.CloseWithError(err)
		return err
	})
	err = g.Wait() // which sets the other two
	return next, state, err
}

// gather goes over all updates of a try by a strategy that needs them at once, and returns what takes the mean's place. It says in members what
// became of their updates.
func (c *combiner) gather(ctx context.Context, a round.Combine, strategy aggregate.Strategy, s *sum, members []entry.Contribution) (func(lo int, dst []float64) error, error) {
	var updates []aggregate.Update
	for _, m := range members {
		updates = append(updates, aggregate.Update{Member: string(m.Member), Weight: m.Weight, Values: s.spool[m.Member].values})
	}
	state, err := c.wholeState(ctx, a.State, strategy, s.spec.Len())
	if err != nil {
		return nil, err
	}
	g, err := strategy.Gather(updates, state)
	if err != nil {
		return nil, fmt.Errorf("making a model of %d updates: %w", len(updates), err)
	}
	for g.Pass() {
		if err := inParts(ctx, g.Blocks(), g.Scan); err != nil {
			return nil, err
		}
	}
	for i, e := range g.Effects() {
		members[i].Effect = entry.Effect(e) // both are in the order of names
	}
	return func(lo int, dst []float64) error {
		const part = stepLen / 16
		// Nothing ends it: a part is done in no time.
		return inParts(context.WithoutCancel(ctx), (len(dst)+part-1)/part, func(k int) {
			g.Mean(lo+k*part, dst[k*part:min((k+1)*part, len(dst))])
		})
	}, nil
}

// inParts calls f for 0 up to n, by as many workers as there are cores, until ctx ends.
func inParts(ctx context.Context, n int, f func(k int)) error {
	var next atomic.Int64
	var g sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), n) {
		g.Go(func() {
			for ctx.Err() == nil {
				k := int(next.Add(1)) - 1
				if k >= n {
					return
				}
				f(k)
			}
		})
	}
	g.Wait()
	return ctx.Err()
}

// wholeState returns the optimiser's state of n parameters, as a strategy that gathers goes over it again and again; nil where it has none.
func (c *combiner) wholeState(ctx context.Context, ref *entry.Blob, strategy aggregate.Strategy, n int) ([]float64, error) {
	state := make([]float64, strategy.Optimizer(1).StateLen(n))
	if len(state) == 0 || ref == nil {
		return state, nil
	}
	old, err := c.openState(ctx, ref, strategy.Name(), len(state))
	if err != nil {
		return nil, err
	}
	defer old.Close()
	text := make([]byte, 8*min(stepLen, len(state)))
	for lo := 0; lo < len(state); lo += stepLen {
		if err := old.next(state[lo:min(lo+stepLen, len(state))], text); err != nil {
			return nil, err
		}
	}
	return state, old.end()
}

// mean returns what fills a block with the mean of a try's sum, with noise where the plan asks for it. Each block is to be asked for once: a
// second answer would have other noise.
func (c *combiner) mean(ctx context.Context, a round.Combine, s *sum) (func(lo int, mean []float64) error, error) {
	recipe, private := round.Recipe(a.Plan)
	if !private && s.veil != nil {
		return s.unmasked(ctx, nil)
	}
	if !private {
		return func(lo int, mean []float64) error {
			s.acc.Mean(lo, mean)
			return nil
		}, nil
	}
	noise, err := recipe.Sampler(a.Clip, s.spec.Ranges[0].Step, s.spec.Len(), c.chance)
	if err != nil {
		return nil, fmt.Errorf("noise for round %d of run %s: %w", a.Round, a.Run, err)
	}
	over := round.Over(a.Plan, a.Selected)
	if s.veil != nil {
		return s.unmasked(ctx, &grain{draw: noise.Draw, spread: int64(manySigmas * noise.Sigma()), over: over})
	}
	return func(lo int, mean []float64) error { return s.acc.Noisy(lo, mean, over, noise.Draw) }, nil
}

// manySigmas is how many standard deviations no noise has: with a chance of less than 2^-2900 for a value.
const manySigmas = 64

// sink takes the bytes of a blob; closed without an error it is whole.
type sink interface {
	io.Writer
	CloseWithError(error) error
}

// nowhere is the sink of what is not kept.
type nowhere struct{ io.Writer }

func (nowhere) CloseWithError(error) error { return nil }

var discard sink = nowhere{io.Discard}

// put begins to store a blob, in g, and returns where its bytes go. ref is set when g is done.
func (c *combiner) put(ctx context.Context, g *errgroup.Group, doing string, ref *entry.Blob) sink {
	r, w := io.Pipe()
	g.Go(func() (err error) {
		*ref, err = c.blobs.Put(ctx, r)
		if err != nil {
			err = fmt.Errorf("%s: %w", doing, err)
		}
		r.CloseWithError(err) // ends a writer that nobody reads from any more
		return err
	})
	return w
}

// transform takes n parameters, block by block, from base, old state and mean to the next model and its state. It returns nil
// when both are written and what they were made of was read to its checked end.
func transform(rule aggregate.Optimizer, name string, meanOf func(lo int, dst []float64) error, n int, base *oldModel, old *oldState, models, states io.Writer) error {
	out, err := model.NewEncoder(models, base.Layout())
	if err != nil {
		return err
	}
	m := min(stepLen, n)
	params, mean, state := make([]float32, m), make([]float64, m), make([]float64, rule.StateLen(m))
	text := make([]byte, 8*len(state))
	if len(state) > 0 {
		if _, err := io.WriteString(states, stateHead(name, rule.StateLen(n))); err != nil {
			return err
		}
	}
	for lo := 0; lo < n; lo += m {
		k := min(m, n-lo)
		params, mean, state := params[:k], mean[:k], state[:rule.StateLen(k)]
		if err := base.Next(params); err != nil {
			return fmt.Errorf("reading the base model: %w", err)
		}
		if err := old.next(state, text); err != nil {
			return err
		}
		if err := meanOf(lo, mean); err != nil {
			return err
		}
		rule.Step(params, params, mean, state)
		if err := out.Next(params); err != nil {
			return err
		}
		if _, err := states.Write(putState(text, state)); err != nil {
			return err
		}
	}
	if err := base.Decoder.Close(); err != nil {
		return fmt.Errorf("reading the base model: %w", err)
	}
	if err := old.end(); err != nil {
		return err
	}
	return out.Close()
}

// oldModel is a model version that is being read back.
type oldModel struct {
	*model.Decoder
	blob io.Closer
}

func (m *oldModel) Close() error { return m.blob.Close() }

// openModel begins to read a model of n parameters.
func (c *combiner) openModel(ctx context.Context, ref entry.Blob, n int) (*oldModel, error) {
	r, err := c.blobs.Open(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("opening model %s: %w", ref.Plain.Short(), err)
	}
	d, err := model.NewDecoder(r, maxModel)
	if err == nil && d.Layout().Len() != n {
		err = fmt.Errorf("base model has %d parameters, the sum %d", d.Layout().Len(), n)
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("reading model %s: %w", ref.Plain.Short(), err)
	}
	return &oldModel{d, r}, nil
}

// putModel stores a model as safetensors.
func (c *combiner) putModel(ctx context.Context, m *model.Model) (ref entry.Blob, err error) {
	g, ctx := errgroup.WithContext(ctx)
	w := c.put(ctx, g, "storing the model", &ref)
	g.Go(func() error {
		err := m.Write(w)
		w.CloseWithError(err)
		return err
	})
	err = g.Wait() // which sets the other
	return ref, err
}

// weights returns the weights of a round's members.
func weights(members []entry.Contribution) []int64 {
	var all []int64
	for _, m := range members {
		all = append(all, m.Weight)
	}
	return all
}

// rows returns how many records stand behind a round.
func rows(members []entry.Contribution) (n int64) {
	for _, w := range weights(members) {
		n += w
	}
	return n
}

// An optimiser's state at rest is a line "consilium.optimiser/1 STRATEGY N\n" and N float64s, little endian, in the order
// that the strategy's doc comment gives.
func stateHead(strategy string, n int) string {
	return fmt.Sprintf("consilium.optimiser/1 %s %d\n", strategy, n)
}

// putState writes state's text into dst, which has room for it, and returns it.
func putState(dst []byte, state []float64) []byte {
	dst = dst[:8*len(state)]
	for i, v := range state {
		binary.LittleEndian.PutUint64(dst[8*i:], math.Float64bits(v))
	}
	return dst
}

// oldState is an optimiser's state that is being read back.
type oldState struct {
	blob io.ReadCloser // nil before the first round: all zeros
}

// openState begins to read the state of n values that a strategy has left; the strategy and the model say how many they must be.
func (c *combiner) openState(ctx context.Context, ref *entry.Blob, strategy string, n int) (*oldState, error) {
	if ref == nil {
		return &oldState{}, nil
	}
	b, err := c.blobs.Open(ctx, *ref)
	if err != nil {
		return nil, fmt.Errorf("opening the optimiser's state: %w", err)
	}
	want := []byte(stateHead(strategy, n))
	head := make([]byte, len(want))
	_, err = io.ReadFull(b, head)
	switch {
	case err != nil && err != io.EOF && err != io.ErrUnexpectedEOF:
		err = fmt.Errorf("reading the optimiser's state: %w", err)
	case !bytes.Equal(head, want) || ref.Size != int64(len(want)+8*n):
		err = fmt.Errorf("optimiser's state is not that of %s over %d values", strategy, n)
	}
	if err != nil {
		b.Close()
		return nil, err
	}
	return &oldState{b}, nil
}

// next fills dst with the next values. It needs 8 bytes a value in text for a while.
func (s *oldState) next(dst []float64, text []byte) error {
	if s.blob == nil {
		clear(dst)
		return nil
	}
	text = text[:8*len(dst)]
	if _, err := io.ReadFull(s.blob, text); err != nil {
		return fmt.Errorf("reading the optimiser's state: %w", err)
	}
	for i := range dst {
		dst[i] = math.Float64frombits(binary.LittleEndian.Uint64(text[8*i:]))
	}
	return nil
}

// end returns nil if what was read is the blob.
func (s *oldState) end() error {
	if s.blob == nil {
		return nil
	}
	if _, err := io.Copy(io.Discard, s.blob); err != nil { // its length is known: what comes is its verdict
		return fmt.Errorf("reading the optimiser's state: %w", err)
	}
	return nil
}

func (s *oldState) Close() error {
	if s.blob == nil {
		return nil
	}
	return s.blob.Close()
}
