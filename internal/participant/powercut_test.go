package participant_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"consilium.dev/internal/durable/powercut"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/store/dir"
	pb "consilium.dev/proto/consilium/v1"
)

var cutAll = flag.Bool("powercut", false, "TestPowerCut kills the participant at each of its calls before another one meets the power failure")

// process is one process of a participant on its folder, as far as it stores something.
type process struct {
	*dir.Dir
	memory   participant.Memory
	standing participant.Standing
	consents participant.Consents
	kept     participant.Keeper
}

// startProcess opens the folder and loads all that an earlier process kept.
func startProcess(ctx context.Context, kek *sealer, open func() (*dir.Dir, error)) (m *process, err error) {
	d, err := open()
	if err != nil {
		return nil, err
	}
	m = &process{Dir: d}
	if m.memory, err = participant.OpenMemory(ctx, "hearts", participant.Options{
		Name: "cleveland", Objects: d, KEK: kek, Identity: identityKey, Log: zap.NewNop(),
	}); err == nil {
		m.standing, err = participant.OpenStanding(ctx, d, kek)
	}
	if err == nil {
		m.consents, err = participant.OpenConsents(ctx, d, kek, 10)
	}
	if err == nil {
		m.kept, err = participant.OpenKeeper(ctx, d, kek)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return m, nil
}

// TestPowerCut cuts the power at each call by which a participant changes its disk, while a witness cosigns, an administrator pauses
// and leaves, the owner's policy consents and an update is kept. On each disk that POSIX then allows another process starts and
// knows all that was promised: a witness never forgets what it has cosigned, nor a member that it left.
func TestPowerCut(t *testing.T) {
	book := newScribe(t, "consilium.dev/hearts", "one")
	first := book.ask(t, 0)
	book.write(t, "two")
	second := book.ask(t, 1)
	kek := newSealer(t, 1)
	update := participant.Finished{Weight: 3, Values: []float32{1, 2, 3}}
	works := map[string][]func(*process) (string, error){
		"witness": {cosigned(t.Context(), first, 1), cosigned(t.Context(), second, 2)},
		"standing": {
			func(m *process) (string, error) { return "left", m.standing.Leave(t.Context(), runA, "") },
			func(m *process) (string, error) { return "paused", m.standing.Pause(t.Context(), "why") },
		},
		"consent and update": {
			func(m *process) (string, error) {
				return "consented", m.consents.Put(t.Context(), participant.Consented{Run: runA, Lead: "ada", Records: 30})
			},
			func(m *process) (string, error) {
				if _, ok, err := m.kept.Get(t.Context(), runA, 1); ok || err != nil {
					return "kept", err
				}
				return "kept", m.kept.Put(t.Context(), runA, 1, update)
			},
		},
	}
	points, survived := 0, 0
	for name, work := range works {
		t.Run(name, func(t *testing.T) {
			p, s := powercut.Trial{
				Twice: *cutAll || name == "witness",
				Work: func(d *powercut.Disk, base string) error {
					m, err := startProcess(t.Context(), kek, func() (*dir.Dir, error) { return dir.OpenOn(filepath.Join(base, "store"), d.At) })
					if err != nil {
						return err
					}
					defer m.Close()
					for _, step := range work {
						what, err := step(m)
						if err != nil {
							return err
						}
						d.Acknowledge(what)
					}
					return nil
				},
				Judge: func(base string, acknowledged []string) error {
					m, err := startProcess(t.Context(), kek, func() (*dir.Dir, error) { return dir.Open(filepath.Join(base, "store")) })
					if err != nil {
						return err
					}
					defer m.Close()
					for _, what := range acknowledged {
						if err := m.knows(t.Context(), what); err != nil {
							return err
						}
					}
					return nil
				},
			}.Run(t)
			points, survived = points+p, survived+s
		})
	}
	t.Logf("crash points %d survived %d", points, survived)
}

// cosigned lets the witness cosign a log of so many lines, or find that it has seen more.
func cosigned(ctx context.Context, q *pb.CosignAsked, size int64) func(*process) (string, error) {
	return func(m *process) (string, error) {
		a, err := m.memory.Answer(ctx, q, noon)
		if err == nil && a.State != pb.CosignAnswer_STATE_COSIGNED && a.State != pb.CosignAnswer_STATE_STALE {
			err = fmt.Errorf("not cosigned: %v %s", a.State, a.Reason)
		}
		return fmt.Sprint("cosigned ", max(size, m.memory.Kept())), err
	}
}

// knows reports what of a promise is forgotten.
func (m *process) knows(ctx context.Context, what string) error {
	var size int64
	holds := false
	switch kind, _, _ := strings.Cut(what, " "); kind {
	case "cosigned":
		_, err := fmt.Sscanf(what, "cosigned %d", &size)
		holds = err == nil && m.memory.Kept() >= size
	case "left":
		holds = !m.standing.Allows(runA)
	case "paused":
		holds = m.standing.Reason() == "why"
	case "consented":
		holds = m.consents.Has(runA)
	case "kept":
		f, ok, err := m.kept.Get(ctx, runA, 1)
		holds = err == nil && ok && len(f.Values) == 3
	}
	if !holds {
		return fmt.Errorf("%q was promised, and is forgotten", what)
	}
	return nil
}
