package coordinator

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/mask"
	"consilium.dev/internal/round"
	pb "consilium.dev/proto/consilium/v1"
)

// veil is what members have said of the masks of one try. A crash erases it, and then the try ends. Owned by the loop.
type veil struct {
	keys   map[entry.Member]announced
	among  []entry.Member                           // between whom the masks are; nil before that is fixed
	graph  *mask.Graph                              // of among
	sealed map[entry.Member]map[entry.Member][]byte // to whom, from whom
	shared map[entry.Member]bool
	shown  map[entry.Member]map[entry.Member]mask.Secret // by whom, of whom: the share
	tried  int                                           // how many had shown theirs when the mean was last begun with
	wrong  int                                           // tried, where the masks did not come off then
	why    string                                        // likewise
}

// announced are a member's keys for a try, and their signature.
type announced struct {
	public    mask.Public
	signature []byte
}

func newVeil() *veil {
	return &veil{
		keys: map[entry.Member]announced{}, sealed: map[entry.Member]map[entry.Member][]byte{}, shared: map[entry.Member]bool{},
		shown: map[entry.Member]map[entry.Member]mask.Secret{},
	}
}

// veil returns what is known of the masks of a try, for the rules. Called by the loop.
func (h *hold) veil(run string, number, try int) round.Veil {
	s := h.sums[attempt{run, number, try}]
	if s == nil || s.veil == nil {
		return round.Veil{}
	}
	return round.Veil{
		Announced: slices.Sorted(maps.Keys(s.veil.keys)), Among: s.veil.among, Shared: slices.Sorted(maps.Keys(s.veil.shared)),
		Shown: slices.Sorted(maps.Keys(s.veil.shown)), Wrong: s.veil.wrong, Why: s.veil.why,
	}
}

// fix says between whom the masks of a try are, once. Called by the loop.
func (l *loop) fix(a round.Mask) error {
	s := l.hold.sums[attempt{a.Run, a.Round, a.Try}]
	if a.Stage != round.Share || s.veil.among != nil {
		return nil
	}
	g, err := mask.NewGraph(len(a.Among), a.Plan.Quorum, l.maskTry(a.Run, a.Round, a.Try).GraphSeed())
	if err != nil {
		return fmt.Errorf("masks of round %d of run %s: %w", a.Round, a.Run, err)
	}
	s.veil.among, s.veil.graph = a.Among, g
	return nil
}

// maskTry names a try as its masks do.
func (l *loop) maskTry(run string, number, try int) mask.Try {
	return mask.Try{Manifest: l.adopted[len(l.adopted)-1].Manifest, Run: run, Round: number, Try: try}
}

// asked words what a member is asked for about the masks of a try. Called by the loop.
func (l *loop) maskAsked(a round.Mask, plan []byte) *pb.MaskAsked {
	v := l.hold.sums[attempt{a.Run, a.Round, a.Try}].veil
	out := &pb.MaskAsked{
		Run: a.Run, Round: number(a.Round), Try: number(a.Try), Stage: pb.MaskAsked_Stage(a.Stage), Lead: a.Lead, Plan: plan,
	}
	if a.Stage == round.Announce {
		return out
	}
	if a.Stage == round.Share {
		for _, m := range v.among {
			k := v.keys[m]
			out.Keys = append(out.Keys, &pb.MaskKeys{Member: string(m), Keys: k.public.Bytes(), Signature: k.signature})
		}
	}
	if a.Stage == round.Show {
		for _, from := range slices.Sorted(maps.Keys(v.sealed[a.Member])) {
			out.Shares = append(out.Shares, &pb.SealedShare{Member: string(from), Sealed: v.sealed[a.Member][from]})
		}
		for _, m := range a.In {
			out.In = append(out.In, string(m))
		}
	}
	return out
}

// Mask takes what the masks of a try need of the calling member.
func (r *rounds) Mask(ctx context.Context, q *pb.MaskRequest) (*pb.MaskReply, error) {
	peer := caller(ctx)
	m := entry.Member(peer.Name)
	r.presence.seen(m)
	in := round.Veiled{Run: q.Run, Round: int(q.Round), Try: int(q.Try), Member: m}
	given := 0
	var take func(*veil) error
	if q.Keys != nil {
		given, in.Stage = given+1, round.Announce
		take = func(v *veil) error {
			return v.announce(r.loop.maskTry(in.Run, in.Round, in.Try), m, r.identity, q.Keys)
		}
	}
	if len(q.Shares) > 0 {
		given, in.Stage = given+1, round.Share
		take = func(v *veil) error { return v.share(m, q.Shares) }
	}
	if len(q.Shown) > 0 {
		given, in.Stage = given+1, round.Show
		take = func(v *veil) error { return v.show(m, q.Shown) }
	}
	if given != 1 {
		return nil, status.Error(codes.InvalidArgument, "masks: want one of keys, shares and shown shares")
	}
	err := r.loop.send(ctx, message{in: in, first: func() error {
		s := r.loop.hold.sums[attempt{in.Run, in.Round, in.Try}]
		if s == nil || s.veil == nil {
			return round.ErrClosed
		}
		if _, err := r.loop.state.Decide(r.loop.time(r.loop.now()), in); err != nil {
			return err
		}
		r.loop.stale = true
		return take(s.veil)
	}})
	if err != nil {
		return nil, answer(r.log, err)
	}
	return &pb.MaskReply{}, nil
}

// announce takes a member's keys. The first that are signed by it count.
func (v *veil) announce(t mask.Try, m entry.Member, identity func(string) (ed25519.PublicKey, bool), k *pb.MaskKeys) error {
	key, _ := identity(string(m))
	public, err := mask.OpenAnnouncement(t, string(m), key, k.Keys, k.Signature)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "masks: %v", err)
	}
	if _, known := v.keys[m]; known || v.among != nil {
		return nil
	}
	v.keys[m] = announced{public, slices.Clone(k.Signature)}
	return nil
}

// share takes what a member hands its neighbours. The first counts, and it is for all of them or for none.
func (v *veil) share(m entry.Member, shares []*pb.SealedShare) error {
	i, ok := slices.BinarySearch(v.among, m)
	if !ok {
		return round.ErrClosed
	}
	if v.shared[m] {
		return nil
	}
	neighbours := v.graph.Neighbours(i)
	if len(shares) != len(neighbours) {
		return status.Errorf(codes.InvalidArgument, "masks: %d shares, want one for each of %d neighbours", len(shares), len(neighbours))
	}
	for k, j := range neighbours {
		if s := shares[k]; entry.Member(s.Member) != v.among[j] || len(s.Sealed) != mask.SealedSize {
			return status.Error(codes.InvalidArgument, "masks: shares that are not for the neighbours, ascending, or not of the length of sealed ones")
		}
	}
	for k, j := range neighbours {
		to := v.among[j]
		if v.sealed[to] == nil {
			v.sealed[to] = map[entry.Member][]byte{}
		}
		v.sealed[to][m] = slices.Clone(shares[k].Sealed)
	}
	v.shared[m] = true
	return nil
}

// show takes the shares that a member was handed. Whether they are right, what they give shows.
func (v *veil) show(m entry.Member, shown []*pb.ShownShare) error {
	if v.shown[m] != nil {
		return nil
	}
	i, ok := slices.BinarySearch(v.among, m)
	if !ok {
		return round.ErrClosed
	}
	of := map[entry.Member]mask.Secret{}
	for _, s := range shown {
		j, ok := slices.BinarySearch(v.among, entry.Member(s.Member))
		if !ok || v.graph.X(j, i) == 0 || len(s.Share) != len(mask.Secret{}) || len(of) == len(v.among) {
			return status.Error(codes.InvalidArgument, "masks: a share of somebody of whom there is none, or not of 32 bytes")
		}
		of[entry.Member(s.Member)] = mask.Secret(s.Share)
	}
	v.shown[m] = of
	return nil
}

// again has a mean taken again when more have shown their shares, if some of those that were there are wrong: one member's do no harm then. It
// reports whether that is what err says. Called by the loop.
func (h *hold) again(a attempt, err error) bool {
	s := h.sums[a]
	if s == nil || !errors.Is(err, mask.ErrShares) {
		return false
	}
	s.combined, s.terms = false, nil
	s.veil.wrong, s.veil.why = s.veil.tried, err.Error()
	return true
}

// maskError says that the masks of a try do not come off its sum. The try ends with it, if no more is shown that helps, and nothing else does.
type maskError struct{ err error }

func (e *maskError) Error() string { return e.err.Error() }
func (e *maskError) Unwrap() error { return e.err }

// terms returns what takes the masks off the sum of the members in: the self masks of these, and the pairwise masks of these with those of
// masked who are not in. The loop calls it when enough is shown; what it returns computes for a while, beside the loop.
func (v *veil) terms(t mask.Try, masked []entry.Member, in []entry.Contribution) func() ([]mask.Term, error) {
	all := make([]mask.Member, len(v.among))
	for i, m := range v.among {
		one := mask.Member{Name: string(m), Public: v.keys[m].public, Status: mask.Left}
		switch {
		case slices.ContainsFunc(in, func(c entry.Contribution) bool { return c.Member == m }):
			one.Status = mask.Answered
		case slices.Contains(masked, m):
			one.Status = mask.Missing
		}
		for _, j := range v.graph.Holders(i) {
			if y, ok := v.shown[v.among[j]][m]; ok {
				one.Shares = append(one.Shares, mask.Share{X: v.graph.X(i, j), Y: y[:]})
			}
		}
		all[i] = one
	}
	graph := v.graph
	v.tried = len(v.shown)
	return func() ([]mask.Term, error) {
		terms, err := graph.Unmask(t, all)
		if err != nil {
			return nil, &maskError{err}
		}
		return terms, nil
	}
}

// addMasked adds a masked update's words, each of which lies in two values, the low half first.
func (s *sum) addMasked(u *update) {
	s.added++
	s.weight += float64(u.weight)
	inBlocks(len(s.words), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			s.words[i] += uint64(math.Float32bits(u.values[2*i])) | uint64(math.Float32bits(u.values[2*i+1]))<<32
		}
	})
}

// grain is the noise of a private round: how it is drawn, in steps of the grid, how many it has at most, and what the noised sum is divided by.
type grain struct {
	draw   func() (int64, error)
	spread int64
	over   int
}

// unmasked returns what fills a block, of stepLen values at most, with the mean of a masked sum; or, where noise is not nil, of the noised one, and then
// whatever the sum is: a refusal would tell of it without noise. The masks come off block by block, and the sum itself stays masked.
func (s *sum) unmasked(ctx context.Context, noise *grain) (func(lo int, mean []float64) error, error) {
	terms, err := s.terms()
	if err != nil {
		return nil, err
	}
	grid, err := aggregate.NewGrid(s.spec)
	if err != nil {
		return nil, err
	}
	block := make([]uint64, min(stepLen, len(s.words)))
	return func(lo int, mean []float64) error {
		bare := block[:copy(block[:len(mean)], s.words[lo:])]
		defer clear(bare)
		const part = stepLen / 8
		var mu sync.Mutex
		var wrong error
		err := inParts(ctx, (len(mean)+part-1)/part, func(k int) {
			from, to := k*part, min((k+1)*part, len(mean))
			mask.Apply(bare[from:to], lo+from, terms...)
			if noise != nil {
				return
			}
			if err := grid.Mean(mean[from:to], lo+from, bare[from:to], s.added, s.weight); err != nil {
				mu.Lock()
				defer mu.Unlock()
				wrong = &maskError{fmt.Errorf("an update was not made as the plan says: %w", err)}
			}
		})
		if wrong != nil || err != nil || noise == nil {
			return cmp.Or(wrong, err)
		}
		return grid.Noisy(mean, lo, bare, noise.over, noise.spread, noise.draw)
	}, nil
}
