package participant_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/participant"
	pb "consilium.dev/proto/consilium/v1"
)

// buffered makes a plan asynchronous: an update may be two rounds late.
func buffered(p *entry.Plan) {
	p.Standardize = nil
	p.Strategy = entry.Strategy{Name: "fedbuff", Params: map[string]any{"buffer_size": 2.0, "max_staleness": 2.0}}
	p.Members, p.Quorum = []entry.Member{"cleveland", "budapest", "longbeach"}, 2
}

// desk is a member under an asynchronous plan whose coordinator the test plays.
type desk struct {
	*member
	plan    []byte
	base    *model.Model
	fetched int
	queries []*pb.QueryRequest
	offers  []*pb.OfferHeader
	reply   *pb.QueryReply
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	m, file := base(t)
	d := &desk{member: newMember(t), plan: plan(t, buffered), base: m, reply: &pb.QueryReply{State: pb.QueryReply_STATE_SEND}}
	d.rules.Strategies = []string{"fedbuff"}
	d.fetch = func(_ *pb.FetchRequest, s grpc.ServerStreamingServer[pb.Chunk]) error {
		d.fetched++
		return s.Send(&pb.Chunk{Size: uint32(len(file)), Data: file})
	}
	d.query = func(q *pb.QueryRequest) *pb.QueryReply {
		d.queries = append(d.queries, q)
		return d.reply
	}
	d.offer = func(s pb.Rounds_OfferServer) error {
		h, _ := receive(t, s)
		d.offers = append(d.offers, h)
		return s.Send(&pb.OfferReply{State: pb.OfferReply_STATE_ACCEPTED})
	}
	return d
}

// round is what is wanted while a round is open, whose base and those of two rounds before updates may be of.
func (d *desk) round(n int32, change ...func(*pb.Train)) *pb.Wanted {
	id := d.base.Digest()
	t := &pb.Train{Run: run, Lead: "ada", Round: n, Try: 1, Kind: "training", Weight: 199, Model: id[:], BaseSize: d.base.Size(), Plan: d.plan}
	for _, f := range change {
		f(t)
	}
	return &pb.Wanted{Train: []*pb.Train{t}, Progress: []*pb.Progress{{Run: run, Closed: n - 1, Oldest: max(n-2, 1)}}}
}

// agrees has the member consent to the run.
func (d *desk) agrees() {
	d.t.Helper()
	end := d.follow()
	d.agree(run, d.plan)
	_ = end() // the process has been told to end
}

// begins begins a process. The function that it returns ends it.
func (d *desk) begins(p *participant.Participant) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Over(ctx, d.conn) // that it was told to end
	}()
	end = func() { cancel(); <-done; synctest.Wait() }
	d.t.Cleanup(end)
	return end
}

// kept returns the rounds of which updates are kept.
func (d *desk) kept() (all []string) {
	for name, err := range d.disk.List(d.t.Context(), "kept/") {
		if err != nil {
			d.t.Error(err)
		}
		all = append(all, strings.TrimPrefix(name, "kept/"+run+"/"))
	}
	return all
}

// says checks what was logged since it was last asked.
func (d *desk) says(want string, not ...string) {
	d.t.Helper()
	text := d.book.take()
	if !strings.Contains(text, want) {
		d.t.Errorf("the log says %s, want %q", text, want)
	}
	for _, n := range not {
		if strings.Contains(text, n) {
			d.t.Errorf("the log says %s, and not %q", text, n)
		}
	}
}

// TestLate: a training goes on over rounds that are closed meanwhile, beside what else is wanted; its update is offered for the round that is open when it
// is finished, and says of which round's base it is. A process that begins then offers the same bytes, until they count or cannot any more.
func TestLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.agrees()
		until, p, older := make(chan struct{}), d.process(), entry.Digest{7}
		p.Occupy(run, 1, older, 199, make([]float32, 14), until)
		end := d.begins(p)
		d.wants(d.round(1, func(q *pb.Train) { q.Model = older[:] }))
		d.wants(&pb.Wanted{Progress: []*pb.Progress{{Run: run, Closed: 0, Oldest: 1}}}) // closed, and not yet released
		d.says("training goes on, for a later round", "stopped")
		d.wants(d.round(2))
		w, id := d.round(3), d.base.Digest()
		w.Evaluate = []*pb.Evaluate{{Run: run, Lead: "ada", Round: 2, Model: id[:], Size: d.base.Size(), Plan: d.plan}}
		d.wants(w)
		select {
		case q := <-d.reports:
			if q.Round != 2 {
				t.Errorf("figures of round %d, want 2", q.Round)
			}
		default:
			t.Error("no figures are handed in while it trains")
		}
		d.says("training goes on, for a later round", "stopped", `"msg":"training"`)
		if len(d.queries) != 0 || d.fetched != 1 {
			t.Errorf("%d updates are offered and %d models fetched while it trains, want none and that which was evaluated", len(d.queries), d.fetched)
		}
		d.reply = &pb.QueryReply{State: pb.QueryReply_STATE_CLOSED} // the round was closed that moment
		close(until)
		synctest.Wait()
		if q := d.queries[0]; q.Round != 3 || q.Base != 1 || !bytes.Equal(q.Model, older[:]) {
			t.Errorf("asks for %v, want round 3, and base 1", q)
		}
		if got := d.kept(); !slices.Equal(got, []string{"1"}) {
			t.Errorf("kept are updates of the bases of rounds %v, want 1", got)
		}
		end()

		// It is too late now. Another one is trained, and refused: it is kept, and not trained again.
		d.reply = &pb.QueryReply{State: pb.QueryReply_STATE_REFUSED, Reason: "used"}
		d.queries = nil
		end = d.begins(d.process())
		d.wants(d.round(4))
		if len(d.queries) != 1 || d.queries[0].Base != 4 || !bytes.Equal(d.queries[0].Model, id[:]) {
			t.Errorf("asks for %v, want base 4", d.queries)
		}
		if got := d.kept(); !slices.Equal(got, []string{"4"}) {
			t.Errorf("kept are updates of the bases of rounds %v, want 4", got)
		}
		end()

		// An older one that is refused for good is dropped, and another one trained at once.
		d.queries = nil
		answers := []*pb.QueryReply{d.reply, {State: pb.QueryReply_STATE_SEND}}
		d.query = func(q *pb.QueryRequest) *pb.QueryReply {
			d.queries = append(d.queries, q)
			return answers[min(len(d.queries), len(answers))-1]
		}
		end = d.begins(d.process())
		d.wants(d.round(5))
		if len(d.queries) != 2 || d.queries[0].Base != 4 || d.queries[1].Base != 5 || len(d.offers) != 1 || d.offers[0].Base != 5 || !bytes.Equal(d.offers[0].Model, id[:]) {
			t.Errorf("asks for %v and offers %v, want base 4, then 5", d.queries, d.offers)
		}
		if got := d.kept(); !slices.Equal(got, []string{"5"}) {
			t.Errorf("kept are updates of the bases of rounds %v, want 5", got)
		}

		// What is part of a closed round is not offered again, and is dropped.
		d.wants(d.round(6, func(q *pb.Train) { q.Contributed = d.offers[0].Update }))
		if n := len(d.queries); n != 3 || d.queries[2].Base != 6 || bytes.Equal(d.queries[2].Update, d.offers[0].Update) {
			t.Errorf("asks for %v, want a new update of base 6 at last", d.queries)
		}
		if got := d.kept(); !slices.Equal(got, []string{"6"}) {
			t.Errorf("kept are updates of the bases of rounds %v, want 6", got)
		}
		d.wants(&pb.Wanted{Progress: []*pb.Progress{{Run: run, Closed: 8, Oldest: 7}}})
		if got := d.kept(); len(got) != 0 {
			t.Errorf("kept are updates of the bases of rounds %v, want none", got)
		}
		end()
	})
}

// TestLateDownload: a model that is fetched for a round is fetched to its end though the round is closed meanwhile, and trained from.
func TestLateDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		_, file := base(t)
		until := make(chan struct{})
		d.fetch = func(_ *pb.FetchRequest, s grpc.ServerStreamingServer[pb.Chunk]) error {
			d.fetched++
			<-until
			return s.Send(&pb.Chunk{Size: uint32(len(file)), Data: file})
		}
		d.agrees()
		d.begins(d.process())
		d.wants(d.round(1))
		d.wants(d.round(2))
		close(until)
		synctest.Wait()
		if d.fetched != 1 || len(d.offers) != 1 || d.offers[0].Round != 2 || d.offers[0].Base != 1 {
			t.Errorf("%d downloads, offers %v, want one of each, for round 2 of base 1", d.fetched, d.offers)
		}
	})
}

// TestOtherRun: another run waits for a training that goes on, and does not put an end to it.
func TestOtherRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const other = "1122334455667788"
		d := newDesk(t)
		d.rules.Strategies = []string{"fedbuff", "fedavg"}
		end := d.follow()
		d.agree(run, d.plan)
		d.agree(other, plan(t))
		_ = end() // the process has been told to end
		p, until := d.process(), make(chan struct{})
		over := p.Occupy(run, 1, entry.Digest{7}, 199, make([]float32, 14), until)
		d.begins(p)
		w := d.round(2)
		second := statistics(t)
		second.Run = other
		w.Train, w.Progress = []*pb.Train{second, w.Train[0]}, append(w.Progress, &pb.Progress{Run: other, Closed: -1})
		d.wants(w)
		select {
		case <-over:
			t.Fatal("the training was stopped")
		default:
		}
		close(until)
		synctest.Wait()
		if n := len(d.offers); n != 2 || d.offers[0].Run != other || d.offers[0].Base != 0 || d.offers[1].Run != run || d.offers[1].Base != 1 {
			t.Errorf("offers %v, want that of the other run, and then that which went on", d.offers)
		}
	})
}

// TestGivenUp: what cannot count any more is given up: it is too late, the run has ended, or its last round is closed.
func TestGivenUp(t *testing.T) {
	for name, w := range map[string]*pb.Wanted{
		"too late":   {Progress: []*pb.Progress{{Run: run, Closed: 3, Oldest: 2}}},
		"ended":      {Progress: []*pb.Progress{{Run: run, Closed: 1, Oldest: 1, Ended: true, Outcome: "cancelled"}}},
		"last round": {Progress: []*pb.Progress{{Run: run, Closed: 1}}},
		"not its":    {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t)
				d.agrees()
				p := d.process()
				stopped := p.Occupy(run, 1, entry.Digest{7}, 199, nil, nil)
				d.begins(p)
				d.wants(d.round(2))
				select {
				case <-stopped:
					t.Fatal("the training was stopped")
				default:
				}
				d.wants(w)
				select {
				case <-stopped:
				default:
					t.Error("the training goes on")
				}
			})
		})
	}
}
