package participant

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/attest/collateral"
	"consilium.dev/internal/control"
	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

// Status is what a participant says of itself to its administrator. Its JSON names are stable.
type Status struct {
	Name       string            `json:"name"`
	Heard      time.Time         `json:"heard,omitzero"` // of the coordinator; zero: not since the start
	Doing      string            `json:"doing"`          // "idle", "answering", "training", "offering", "evaluating", "leaving", "paused"
	Run        string            `json:"run,omitempty"`
	Round      int32             `json:"round,omitempty"`
	Since      time.Time         `json:"since"` // it does that
	Steps      int64             `json:"steps,omitempty"`
	Of         int64             `json:"of,omitempty"`
	Progress   time.Time         `json:"progress,omitzero"` // of the training
	Paused     bool              `json:"paused"`
	PausedAt   time.Time         `json:"paused_at,omitzero"`
	Reason     string            `json:"reason,omitempty"`        // of the pause
	Epoch      uint64            `json:"epoch"`                   // of the manifest that it goes by
	Waits      []Waiting         `json:"waits,omitempty"`         // newer manifests, until their owner accepts them
	Platform   string            `json:"platform,omitempty"`      // what the machine attests by, in words
	Unwraps    string            `json:"unwraps,omitempty"`       // who can open the key-encryption key of its store, in words
	Attested   time.Time         `json:"attested_until,omitzero"` // end of the newest connection's appraisals; zero while there is none
	Quotes     int               `json:"quotes_waiting"`          // of handshakes of ours that wait for our own attester
	Oldest     float64           `json:"quotes_oldest_seconds"`   // how long the oldest of them has
	Collateral *collateral.State `json:"collateral,omitempty"`    // what evidence is judged by beside itself
	Runs       []string          `json:"runs"`                    // open ones, as the coordinator last named them
	Left       []string          `json:"left"`
	Now        time.Time         `json:"now"`
}

// Waiting is a manifest that waits for its owner.
type Waiting struct {
	Epoch    uint64       `json:"epoch"`
	Manifest entry.Digest `json:"manifest"`
	File     string       `json:"file"` // to read
}

// told carries out what the administrator says: it has taken effect when it returns.
func (p *Participant) told(ctx context.Context, q control.Question) (any, error) {
	var err error
	left := []string{}
	switch q.Verb {
	case "status":
	case "pause":
		if err = p.standing.pause(ctx, q.Reason); err == nil {
			p.log.Warn("paused by its administrator", zap.String("reason", q.Reason))
		}
	case "resume":
		if err = p.standing.resume(ctx); err == nil {
			p.log.Info("resumed by its administrator")
		}
	case "accept":
		if err = p.epochs.accept(q.Manifest); err == nil {
			p.log.Info("newer manifest accepted by its owner", zap.Uint64("epoch", p.epochs.now().Epoch()))
		}
	case "leave":
		left, err = p.standing.leave(ctx, q.Run, q.Reason)
		for _, run := range left {
			p.log.Warn("run left by its administrator", zap.String("run", run), zap.String("reason", q.Reason))
		}
	default:
		err = fmt.Errorf("a participant knows no %.32q", q.Verb)
	}
	if err != nil {
		return nil, err
	}
	s := p.status()
	if q.Verb == "leave" {
		s.Left = left
	}
	return s, nil
}

func (p *Participant) status() Status {
	now := p.o.Now()
	q, _ := p.desk.read()
	s := Status{
		Name: p.o.Name, Doing: q.Doing, Run: q.Run, Round: q.Round, Since: now.Add(-time.Duration(q.ForUs) * time.Microsecond),
		Steps: q.Steps, Of: q.Of, Runs: []string{}, Left: []string{}, Now: now,
	}
	if q.Doing == "training" {
		s.Progress = now.Add(-time.Duration(q.StillUs) * time.Microsecond)
	}
	s.Epoch, s.Waits = p.epochs.now().Epoch(), p.epochs.waiting()
	queue := p.quotes.Queue()
	s.Quotes, s.Oldest = queue.Waiting, queue.Oldest.Seconds()
	if end := p.attested.Load(); end != nil {
		s.Attested = *end
	}
	s.Platform = p.o.Platform
	if p.o.Unwraps != nil {
		s.Unwraps = p.o.Unwraps()
	}
	if p.o.Collateral != nil {
		kept := p.o.Collateral()
		s.Collateral = &kept
	}
	w := p.standing.wants()
	s.Paused, s.PausedAt, s.Reason = w.Paused, w.Since, w.Reason
	for _, l := range w.Left {
		s.Left = append(s.Left, l.Run)
	}
	p.standing.mu.Lock()
	defer p.standing.mu.Unlock()
	s.Runs, s.Heard = append(s.Runs, p.standing.open...), p.standing.heard
	return s
}

// heed gives up a training that the administrator does not want, and says what this participant does while it does nothing.
func (p *Participant) heed() {
	if t := p.studio.now; t != nil && !p.standing.allows(t.at.run) {
		p.studio.stop()
	}
	p.rest()
}

// rest says that nothing is done, and why.
func (p *Participant) rest() {
	if w := p.standing.wants(); w.Paused {
		p.desk.since("paused", w.Since)
	} else {
		p.desk.set("idle", "", 0)
	}
}

// leave tells the coordinator that this member has left a run, and forgets what was kept for it. That nothing more of the run is
// done does not wait for it.
func (s *session) leave(ctx context.Context, run, reason string) error {
	if s.p.agreed.records(run) > 0 {
		if err := s.p.agreed.drop(context.WithoutCancel(ctx), run); err != nil {
			return err
		}
	}
	_, err := s.rounds.Leave(ctx, &pb.LeaveRequest{Run: run, Reason: reason})
	switch status.Code(err) {
	case codes.OK:
		s.p.log.Info("left", zap.String("run", run))
	case codes.FailedPrecondition, codes.NotFound: // it has ended, or was left before
	case codes.Unimplemented:
		s.p.log.Warn("the coordinator's version knows no leaving: it will miss this member until the run's deadlines pass", zap.String("run", run))
	default:
		return fmt.Errorf("leaving run %s: %w", run, err)
	}
	return nil
}
