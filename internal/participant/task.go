package participant

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
)

// errNotOurs marks what the coordinator asked for and this participant will not do. The session goes on without it.
var errNotOurs = errors.New("not done")

// consent answers an invitation by the owner's policy and the number of records at hand. What it agrees to is on the disk before
// the coordinator learns of it.
func (s *session) consent(ctx context.Context, i *pb.Invitation) error {
	log := s.p.log.With(zap.String("run", i.Run), zap.String("lead", i.Lead))
	reply := &pb.ConsentRequest{Run: i.Run}
	study, declined := s.judge(log, i)
	if study != nil {
		log = log.With(zap.Stringer("schema", study.schema))
	}
	if declined == "" {
		reply.Records, declined = s.count(log, i.Run, study.plan)
	}
	reply.Declined = declined
	if declined == "" {
		agreed := consented{Run: i.Run, Lead: i.Lead, Plan: sha256.Sum256(i.Plan), Records: reply.Records}
		if err := s.p.agreed.put(ctx, agreed); err != nil {
			return err
		}
	}
	if _, err := s.rounds.Consent(ctx, reply); status.Code(err) == codes.FailedPrecondition {
		log.Info("answer not taken", zap.String("reason", status.Convert(err).Message()))
		return nil
	} else if err != nil {
		return fmt.Errorf("answering the invitation to run %s: %w", i.Run, err)
	}
	if reply.Declined != "" {
		log.Warn("declined", zap.String("rule", reply.Declined))
	} else {
		log.Info("consented", zap.String("name", study.plan.Name), zap.Int64("records", reply.Records))
	}
	return nil
}

// judge asks the owner's policy, and whether another plan of this run was consented to. The study is nil where no plan was read.
func (s *session) judge(log *zap.Logger, i *pb.Invitation) (study *study, declined string) {
	if !isRun(i.Run) {
		return nil, "run: it has no id"
	}
	if _, err := s.p.agreed.match(i.Run, i.Lead, i.Plan); err != nil {
		log.Error("the coordinator has changed a run after this member's consent", zap.Error(err))
		return nil, err.Error()
	}
	study, err := s.p.plans.read(i.Run, i.Plan)
	if err != nil {
		return nil, err.Error()
	}
	return study, s.p.o.Policy.Refuses(i.Lead, study.plan)
}

// count returns how many rows there are to train on, or why this member takes no part with them. What the records hold is told
// to the owner's own log only, and so is how many a few are.
func (s *session) count(log *zap.Logger, run string, plan entry.Plan) (rows int64, declined string) {
	r, err := s.p.data.read(run, plan)
	if err != nil {
		log.Error("the data do not fit the plan's schema", zap.Error(err))
		return 0, "data: the records do not fit the plan's schema"
	}
	n, least := r.train.Rows(), s.p.o.Policy.leastRecords()
	switch {
	case n == 0:
		return 0, "data: no record to train on is left"
	case n < least:
		log.Warn("too few records to train on", zap.Int("records", n))
		return 0, fmt.Sprintf("least_records: fewer than %d records to train on are left", least)
	}
	if most := s.p.epochs.limits().Records(); declared(plan, n) > most {
		log.Warn("more records than the manifest lets a member declare", zap.Int("records", n), zap.Int64("most", most))
		return 0, fmt.Sprintf("records_max: there are more than the %d records that the manifest lets a member declare", most)
	}
	return declared(plan, n), ""
}

// declared returns what a member with so many rows declares. Under a plan with privacy each counts as one, and how many records a member has
// it tells nobody.
func declared(plan entry.Plan, rows int) int64 {
	if plan.Privacy != nil {
		return 1
	}
	return int64(rows)
}

// stepsTold returns what is told of a training of which so many steps are done, and of how many. Under a plan with privacy it is nothing: where a
// round is some passes over the records, the steps would tell how many records there are.
func stepsTold(plan entry.Plan, weight int64, n int) (done, of int) {
	if plan.Privacy != nil {
		return 0, 0
	}
	return n, trainer.Steps(plan, weight)
}

// train makes, keeps and offers this member's update of a round.
func (s *session) train(ctx context.Context, t *pb.Train) error {
	log := s.p.log.With(zap.String("run", t.Run), zap.Int32("round", t.Round), zap.Int32("try", t.Try))
	for {
		u, err := s.update(ctx, log, t)
		if errors.Is(err, errNotOurs) {
			log.Warn("out of this round", zap.Error(err))
			return nil
		}
		if err != nil {
			return err
		}
		s.p.desk.set("offering", t.Run, t.Round)
		study, err := s.p.plans.read(t.Run, t.Plan)
		if err == nil && study.plan.Masks {
			if u, err = s.mask(ctx, t, study, u); errors.Is(err, errNotOurs) {
				log.Warn("out of this try", zap.Error(err))
				return nil
			}
		}
		if err != nil {
			return err
		}
		state, err := s.offer(ctx, t, u, study.plan.Privacy != nil)
		if err != nil {
			return fmt.Errorf("offering the update of round %d of run %s: %w", t.Round, t.Run, err)
		}
		if state == "" {
			log.Info("update accepted", zap.Stringer("update", u.digest()))
			return nil
		}
		notTaken := log.Warn
		if state == "closed" { // nobody's fault: the round was over first, and where late updates count this one is offered again
			notTaken = log.Info
		}
		notTaken("update not taken", zap.String("reason", state))
		if !u.spent(t, state) {
			return nil
		}
		if err := s.p.kept.drop(ctx, key{t.Run, u.round}); err != nil {
			return err
		}
	}
}

// update returns the update that was kept for the round, or trains and keeps it.
func (s *session) update(ctx context.Context, log *zap.Logger, t *pb.Train) (finished, error) {
	at, err := keyOf(t)
	if err != nil {
		return finished{}, err
	}
	study, err := s.allowed(t.Run, t.Lead, t.Plan)
	if err == nil {
		err = s.inPlan(t, study.plan)
	}
	if err != nil {
		return finished{}, err
	}
	what, u, ok, err := s.begun(ctx, subjectOf(at, t), t, lateness(t, study.plan))
	if err != nil {
		return finished{}, err
	}
	if ok && u.base == what.base && u.weight == what.weight {
		if len(t.Accepted) > 0 && entry.Digest(t.Accepted) != u.digest() {
			return finished{}, fmt.Errorf("%w: another update was accepted than the one that is kept here", errNotOurs)
		}
		log.Info("offering the kept update again")
		return u, nil
	}
	if len(t.Accepted) > 0 {
		return finished{}, fmt.Errorf("%w: the accepted update is lost here, and another one is not taken", errNotOurs)
	}
	if ok {
		if err := s.p.kept.drop(ctx, what.at); err != nil {
			return finished{}, err
		}
	}
	data, err := s.p.data.read(t.Run, study.plan)
	if err != nil {
		return finished{}, fmt.Errorf("%w: %w", errNotOurs, err)
	}
	switch n, least := data.train.Rows(), s.p.o.Policy.leastRecords(); {
	case declared(study.plan, n) != t.Weight:
		return finished{}, fmt.Errorf("%w: %d records are here, %d were declared", errNotOurs, n, t.Weight)
	case n < least:
		return finished{}, fmt.Errorf("%w: the owner's policy refuses it: least_records: %d of %d", errNotOurs, n, least)
	}
	if err := s.yield(ctx, what); err != nil {
		return finished{}, err
	}
	if !s.p.studio.has(what) {
		work, err := s.prepare(ctx, t, study, data)
		if err != nil {
			return finished{}, err
		}
		log.Info("training", zap.String("kind", t.Kind))
		s.p.studio.begin(what, work)
	}
	s.loosen()
	u, err = s.p.trained(ctx)
	if lateness(t, study.plan) > 0 {
		s.hold(what.at)
		u.round = what.at.round
	}
	return u, err
}

// keyOf checks what names an update, since the names of files are made of it, and what else has a length of its own.
func keyOf(t *pb.Train) (key, error) {
	id, err := hex.DecodeString(t.Run)
	digests := true
	for _, d := range [][]byte{t.Model, t.Accepted, t.Contributed} {
		digests = digests && (len(d) == 0 || len(d) == len(entry.Digest{}))
	}
	if err != nil || len(id) != 8 || t.Round < 0 || !digests {
		return key{}, fmt.Errorf("%w: the coordinator's words make no sense: its version may be another one", errNotOurs)
	}
	return key{hex.EncodeToString(id), int(t.Round)}, nil
}

// inPlan checks that what is asked for is a round of the plan, with the weight that was consented to and that the owner's policy
// still allows.
func (s *session) inPlan(t *pb.Train, plan entry.Plan) error {
	asked := false
	switch entry.RoundKind(t.Kind) {
	case entry.Statistics:
		asked = t.Round == 0 && plan.Measured()
	case entry.Training:
		asked = t.Round >= 1 && int(t.Round) <= plan.Rounds
	}
	switch least := s.p.o.Policy.leastRecords(); {
	case !asked:
		return fmt.Errorf("%w: the plan has no round %d of the kind %.16q", errNotOurs, t.Round, t.Kind)
	case t.Weight != s.p.agreed.records(t.Run):
		return fmt.Errorf("%w: this member declared %d records, not %d", errNotOurs, s.p.agreed.records(t.Run), t.Weight)
	case plan.Privacy == nil && t.Weight < int64(least):
		return fmt.Errorf("%w: the owner's policy refuses it: least_records: %d of %d", errNotOurs, t.Weight, least)
	}
	return nil
}

// allowed looks whether this member consented to just this, and asks the owner's policy again: it may have changed since.
func (s *session) allowed(run, lead string, text []byte) (*study, error) {
	if ok, err := s.p.agreed.match(run, lead, text); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotOurs, err)
	} else if !ok {
		return nil, fmt.Errorf("%w: this member has no consent to it on its disk", errNotOurs)
	}
	study, err := s.p.plans.read(run, text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotOurs, err)
	}
	if rule := s.p.o.Policy.Refuses(lead, study.plan); rule != "" {
		return nil, fmt.Errorf("%w: the owner's policy refuses it: %s", errNotOurs, rule)
	}
	return study, nil
}

// prepare fetches what a training, or a statistics round, begins with. What it returns does the work, without the session, and
// checks the result as the coordinator will.
func (s *session) prepare(ctx context.Context, t *pb.Train, study *study, data rows) (func(context.Context) (made, error), error) {
	plan, d := study.plan, study.shape
	spec := aggregate.Spec{Ranges: d.Training, Weights: []int64{t.Weight}}
	var own trainer.Carried
	work := func(ctx context.Context, base *model.Model) (made, error) {
		progress := func(done int) { s.p.desk.progress(stepsTold(plan, t.Weight, done)) }
		if plan.PerRecord() {
			values, err := trainer.TrainRecords(ctx, plan, base, data.train, rand.Reader, progress)
			return made{values: values}, err
		}
		values, next, err := trainer.TrainCarrying(ctx, plan, base, own, data.train, int(t.Round), s.p.o.Name, progress)
		out := made{values: values}
		if d.Carries() {
			out.next = &next
		}
		return out, err
	}
	var base *model.Model
	if entry.RoundKind(t.Kind) == entry.Statistics {
		spec.Ranges = d.Statistics
		work = func(context.Context, *model.Model) (made, error) {
			values, err := trainer.Statistics(plan, data.train)
			return made{values: values}, err
		}
	} else {
		var err error
		if d.Carries() {
			var contributed entry.Digest
			copy(contributed[:], t.Contributed)
			if own, err = s.p.own.settle(ctx, t.Run, contributed); err != nil {
				return nil, err
			}
		}
		if base, err = s.fetch(ctx, d.Layout, t.Model, t.BaseSize); err != nil {
			return nil, err
		}
	}
	return func(ctx context.Context) (made, error) {
		out, err := work(ctx, base)
		if ctx.Err() != nil {
			return made{}, ctx.Err()
		}
		if err != nil {
			return made{}, fmt.Errorf("%w: training: %w", errNotOurs, err)
		}
		if err := spec.Check(out.values); err != nil {
			return made{}, fmt.Errorf("%w: the update would be refused: %w (a larger max_abs or a smaller learning rate in the plan helps)", errNotOurs, err)
		}
		return out, nil
	}, nil
}

// evaluate takes a model's figures on the own rows and hands them in. Where the link breaks on the way, the next session hands in the
// same figures: the model need not be fetched again for them.
func (s *session) evaluate(ctx context.Context, e *pb.Evaluate) error {
	log := s.p.log.With(zap.String("run", e.Run), zap.Int32("round", e.Round))
	q := s.p.report
	if q == nil || q.Run != e.Run || q.Round != e.Round || !bytes.Equal(q.Model, e.Model) {
		figures, err := s.figures(ctx, e)
		if errors.Is(err, errNotOurs) {
			log.Warn("not evaluated", zap.Error(err))
			return nil
		}
		if err != nil {
			return err
		}
		q = &pb.ReportRequest{Run: e.Run, Round: e.Round, Model: e.Model}
		for _, m := range figures {
			q.Metrics = append(q.Metrics, &pb.Metric{Set: m.Set, Name: m.Name, Value: m.Value, Count: m.Count, Better: m.Better})
		}
		s.p.report = q
	}
	if _, err := s.rounds.Report(ctx, q); status.Code(err) == codes.FailedPrecondition {
		log.Warn("figures not taken", zap.String("reason", status.Convert(err).Message()))
	} else if err != nil {
		return fmt.Errorf("reporting on round %d of run %s: %w", e.Round, e.Run, err)
	}
	s.p.report = nil
	log.Debug("evaluated")
	return nil
}

func (s *session) figures(ctx context.Context, e *pb.Evaluate) ([]entry.Metric, error) {
	study, err := s.allowed(e.Run, e.Lead, e.Plan)
	if err == nil && study.plan.Privacy != nil {
		err = fmt.Errorf("%w: the plan asks for privacy, and figures of the own records have no noise", errNotOurs)
	}
	if err != nil {
		return nil, err
	}
	if e.Round < 0 || int(e.Round) > study.plan.Rounds {
		return nil, fmt.Errorf("%w: the plan has no round %d", errNotOurs, e.Round)
	}
	data, err := s.p.data.read(e.Run, study.plan)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotOurs, err)
	}
	train, test := s.p.o.Policy.large(data.train), s.p.o.Policy.large(data.test)
	if train == nil {
		return nil, fmt.Errorf("%w: the owner's policy refuses it: least_records", errNotOurs)
	}
	m, err := s.fetch(ctx, study.shape.Layout, e.Model, e.Size)
	if err != nil {
		return nil, err
	}
	figures, err := trainer.Evaluate(study.plan, m, train, test)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotOurs, err)
	}
	return figures, nil
}
