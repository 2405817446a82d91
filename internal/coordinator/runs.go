package coordinator

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/round"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
)

// watchEvery is how often a watched run is looked at for what no fact tells: who is connected.
const watchEvery = 5 * time.Second

// watchPace is the least time between two looks at a watched run: in a round of a thousand members each update is news.
const watchPace = 200 * time.Millisecond

// maxReason is the most bytes of a reason that a person gives, for the log.
const maxReason = 200

// runs answers research leads.
type runs struct {
	pb.UnimplementedRunsServer
	loop     *loop
	manifest func() *manifest.Manifest
	combiner *combiner
	view     *viewer
	bounds   Limits
	log      *zap.Logger
}

func (r *runs) Start(ctx context.Context, q *pb.StartRequest) (*pb.StartReply, error) {
	lead := caller(ctx).Name
	if q.Request == "" || len(q.Request) > 64 || clip(q.Request, 64) != q.Request {
		return nil, status.Error(codes.InvalidArgument, "request: want an id of 1 to 64 printable characters")
	}
	plan, err := trainer.DecodePlan(q.Plan)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	asked, err := studyOf(plan) // which judges it; here and once, since a plan may have a million columns and the loop serves everybody
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	f := entry.RunCreated{
		Run: newRun(), Request: q.Request, Lead: lead, Manifest: r.manifest().Digest(), Members: r.invited(plan), Plan: plan,
	}
	var memory int64
	// The same request again may come while the first is under way: the loop decides which of both is the run.
	if known, err := r.known(ctx, lead, q.Request); err != nil {
		return nil, answer(r.log, err)
	} else if known == "" {
		if memory, err = r.allowed(ctx, f, asked); err != nil {
			return nil, answer(r.log, err)
		}
		if err := r.first(ctx, &f); err != nil {
			return nil, answer(r.log, err)
		}
	}
	m := message{in: round.Create{Fact: f, Limits: r.limits()}, first: func() error { return r.loop.afford(f, asked) }}
	if err := r.loop.send(ctx, m); err != nil {
		return nil, answer(r.log, err)
	}
	run, err := r.known(ctx, lead, q.Request)
	if err != nil {
		return nil, answer(r.log, err)
	}
	return &pb.StartReply{Run: run, Memory: memory}, nil
}

// invited returns whom the plan asks, ascending: all members where it names none.
func (r *runs) invited(p entry.Plan) []entry.Member {
	members := slices.Clone(p.Members)
	if len(members) == 0 {
		members = membersOf(r.manifest())
	}
	slices.Sort(members)
	return slices.Compact(members)
}

// allowed asks the rules before anything is stored for a run that they refuse, and returns how many bytes are needed with it.
func (r *runs) allowed(ctx context.Context, f entry.RunCreated, asked study) (memory int64, err error) {
	if !f.Plan.Measured() { // these stand for the model that will be made
		f.Initial, f.Model = &entry.Blob{}, entry.Digest{1}
	}
	err = r.loop.send(ctx, message{first: func() (err error) {
		now := r.loop.now()
		if err := r.loop.clocks.judge(now); err != nil {
			return err
		}
		if _, err := r.loop.state.Decide(r.loop.time(now), round.Create{Fact: f, Limits: r.limits()}); err != nil {
			return err
		}
		if err := r.loop.afford(f, asked); err != nil {
			return err
		}
		memory = r.loop.foretell(f, asked)
		return nil
	}})
	return memory, err
}

// first stores the initial model of a run that begins without a statistics round.
func (r *runs) first(ctx context.Context, f *entry.RunCreated) error {
	if f.Plan.Measured() {
		return nil
	}
	m, err := trainer.Initial(f.Plan, nil, 0)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "plan: %v", err)
	}
	ref, err := r.combiner.putModel(ctx, m)
	if err != nil {
		return err
	}
	f.Initial, f.Model = &ref, ref.Plain
	return nil
}

// known returns the run that the request has started, "" if none.
func (r *runs) known(ctx context.Context, lead, request string) (run string, err error) {
	err = r.loop.read(ctx, func() { run, _ = r.loop.state.RunOf(lead, request) })
	return run, err
}

func (r *runs) limits() round.Limits {
	l := limitsOf(r.manifest())
	l.OpenRuns, l.Starts = r.bounds.OpenRuns, r.bounds.Starts
	return l
}

// newRun draws a run's id.
func newRun() string {
	var id [8]byte
	rand.Read(id[:]) //nolint:errcheck // crypto/rand.Read never fails: it ends the program
	return hex.EncodeToString(id[:])
}

func (r *runs) List(ctx context.Context, _ *pb.ListRequest) (*pb.ListReply, error) {
	var all []round.Run
	if err := r.loop.read(ctx, func() {
		all = r.loop.state.Runs()
		for i := range all {
			all[i] = all[i].Visible(r.loop.released)
		}
	}); err != nil {
		return nil, answer(r.log, err)
	}
	out, size := &pb.ListReply{NowUs: r.view.now().UnixMicro()}, 0
	for _, run := range slices.Backward(all) {
		s := summary(run)
		if size += proto.Size(s) + 8; size > maxView { // the newest come first; older ones are shown by their ids
			break
		}
		out.Runs = append(out.Runs, s)
	}
	return out, nil
}

func (r *runs) Show(ctx context.Context, q *pb.ShowRequest) (*pb.ShowReply, error) {
	out, err := r.show(ctx, q.Run)
	if err != nil {
		return nil, answer(r.log, err)
	}
	return out, nil
}

func (r *runs) Watch(q *pb.ShowRequest, stream grpc.ServerStreamingServer[pb.ShowReply]) error {
	look := time.NewTicker(watchEvery)
	defer look.Stop()
	var last *pb.ShowReply
	var said time.Time // so that who watches knows us alive
	for {
		n := r.loop.wanted.Load()
		v, err := r.show(stream.Context(), q.Run)
		if err != nil {
			return answer(r.log, err)
		}
		if now := r.view.now(); last == nil || changed(last, v) || now.Sub(said) >= heartbeat {
			if err := stream.Send(v); err != nil {
				return err
			}
			last, said = v, now
		}
		if ended(v.Summary.State) {
			return nil
		}
		select {
		case <-n.changed:
			rest := time.NewTimer(watchPace)
			select {
			case <-rest.C:
			case <-r.loop.ending: // what is newest is shown, and then why no more comes
			case <-r.loop.done:
			case <-stream.Context().Done():
			}
			rest.Stop()
		case <-look.C:
		case <-r.loop.ending:
			return status.Error(codes.Unavailable, errStopping.Error())
		case <-r.loop.done:
			return status.Error(codes.Unavailable, errStopping.Error())
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// Cancel ends a run whose lead, or another lead of the federation, wants it no more.
func (r *runs) Cancel(ctx context.Context, q *pb.CancelRequest) (*pb.CancelReply, error) {
	if clip(q.Reason, maxReason) != q.Reason {
		return nil, status.Errorf(codes.InvalidArgument, "reason: want at most %d bytes of printable text", maxReason)
	}
	run, err := r.find(ctx, q.Run)
	if err != nil {
		return nil, answer(r.log, err)
	}
	in := round.Cancel{Run: run.Fact.Run, By: caller(ctx).Name, Reason: q.Reason}
	if err := r.loop.decide(ctx, in); err != nil {
		return nil, answer(r.log, err)
	}
	return &pb.CancelReply{Run: run.Fact.Run}, nil
}

// show returns the view of the run that text names.
func (r *runs) show(ctx context.Context, text string) (*pb.ShowReply, error) {
	run, err := r.find(ctx, text)
	if err != nil {
		return nil, err
	}
	return r.view.run(run, r.manifest().MayReadMetrics(caller(ctx).Name)), nil
}

// find returns the run that text names: by id, by a unique prefix of it, or by a name that one run has.
func (r *runs) find(ctx context.Context, text string) (sighted, error) {
	var found []sighted
	err := r.loop.read(ctx, func() { found = r.named(text) })
	switch {
	case err != nil:
		return sighted{}, err
	case len(found) == 0:
		return sighted{}, status.Errorf(codes.NotFound, "no run %q", clip(text, 64))
	case len(found) > 1:
		ids := make([]string, 0, 8)
		for _, s := range found[:min(len(found), 8)] {
			ids = append(ids, s.Fact.Run)
		}
		return sighted{}, status.Errorf(codes.InvalidArgument, "%d runs are called %q: use an id: %s", len(found), clip(text, 64), strings.Join(ids, ", "))
	}
	return found[0], nil
}

// sighted is a run as it may be seen, and what its newest closing waits for before more of it may.
type sighted struct {
	round.Run
	lack *lack
	veil round.Veil // of its newest try
}

// named returns the runs that text may name. Called by the loop.
func (r *runs) named(text string) []sighted {
	state := r.loop.state
	see := func(run round.Run) sighted {
		out := sighted{Run: run.Visible(r.loop.released), lack: r.loop.lacks(run)}
		if n := len(run.Rounds); n > 0 {
			out.veil = r.loop.hold.veil(run.Fact.Run, run.Rounds[n-1].Round, run.Rounds[n-1].Try)
		}
		return out
	}
	if run, ok := state.Run(text); ok {
		return []sighted{see(run)}
	}
	var found []sighted
	for _, run := range state.Runs() {
		if len(text) >= 4 && strings.HasPrefix(run.Fact.Run, text) || text != "" && run.Fact.Plan.Name == text {
			found = append(found, see(run))
		}
	}
	return found
}

// changed reports whether b says something that a did not, but for the time.
func changed(a, b *pb.ShowReply) bool {
	c := proto.CloneOf(b)
	c.NowUs = a.NowUs
	return !proto.Equal(a, c)
}

func ended(state string) bool {
	return state == "completed" || state == "failed" || state == "cancelled"
}
