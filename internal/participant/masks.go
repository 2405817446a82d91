package participant

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/mask"
	"consilium.dev/internal/round"
	"consilium.dev/internal/store"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
)

// masker holds what this member's masks are made of, and what it has said of others' masks, sealed on its own disk. Each step of a try is one
// object, written before the coordinator hears of the step and never altered: so neither a restart nor a coordinator that asks twice gets
// another key, another set of shares, an update under other masks, another update under the same, or the second kind of share of anybody. It
// is safe for concurrent use.
type masker struct {
	blobs   *blob.Blobs
	objects store.Objects

	turn chan struct{} // has a token through each step, which waits for the disk, and while steps are forgotten; guards what follows
	have map[maskKey]map[step]bool
}

// take waits for the turn, and returns what ends it.
func (m *masker) take() (done func()) {
	m.turn <- struct{}{}
	return func() { <-m.turn }
}

// maskKey names a try.
type maskKey struct {
	key
	try int
}

// step is a step of a try's masks.
type step string

const (
	stepKeys   step = "keys"   // drawn
	stepShares step = "shares" // of these, for the others, whose keys are known
	stepSent   step = "sent"   // which members' masks the update has, and which update it is
	stepShown  step = "shown"  // whose updates are in the sum, as the coordinator said when it asked for shares
)

// steps are all of them, in their order.
var steps = []step{stepKeys, stepShares, stepSent, stepShown}

// drawn is what stepKeys keeps.
type drawn struct {
	Keys []byte `json:"keys"` // mask.Keys
}

// divided is what stepShares keeps: all that was shown of the others' keys, and what was made for each of them.
type divided struct {
	Members   []string `json:"members"`   // ascending, this one among them
	Keys      [][]byte `json:"keys"`      // mask.Public of each
	Threshold int      `json:"threshold"` // the plan's quorum
	Sealed    [][]byte `json:"sealed"`    // for each neighbour, ascending
	Own       []byte   `json:"own"`       // mask.Shares that stay here
}

// sent is what stepSent keeps.
type sent struct {
	Members []string     `json:"members"` // ascending
	Update  entry.Digest `json:"update"`  // masked
}

// shown is what stepShown keeps.
type shown struct {
	Members []string `json:"members"` // ascending
}

const maskFolder = "mask/"

func newMasker(b *blob.Blobs, o store.Objects) *masker {
	return &masker{blobs: b, objects: o, turn: make(chan struct{}, 1), have: map[maskKey]map[step]bool{}}
}

func (k maskKey) name(s step) string {
	return maskFolder + k.run + "/" + strconv.Itoa(k.round) + "/" + strconv.Itoa(k.try) + "/" + string(s)
}

// load finds what an earlier process kept.
func (m *masker) load(ctx context.Context) error {
	defer m.take()()
	for name, err := range m.objects.List(ctx, maskFolder) {
		if err != nil {
			return &diskError{err}
		}
		parts := strings.Split(strings.TrimPrefix(name, maskFolder), "/")
		if len(parts) != 4 || !isRun(parts[0]) || !slices.Contains(steps, step(parts[3])) {
			return &diskError{fmt.Errorf("object %s is none of ours", name)}
		}
		number, err := strconv.Atoi(parts[1])
		try, err2 := strconv.Atoi(parts[2])
		at := maskKey{key{parts[0], number}, try}
		if err != nil || err2 != nil || at.name(step(parts[3])) != name {
			return &diskError{fmt.Errorf("object %s is none of ours", name)}
		}
		m.note(at, step(parts[3]))
	}
	return nil
}

// note remembers that a step was taken. It is called in the turn, as are get, put and what calls them.
func (m *masker) note(at maskKey, s step) {
	if m.have[at] == nil {
		m.have[at] = map[step]bool{}
	}
	m.have[at][s] = true
}

// A step's plaintext: "consilium.mask/1 STEP\n", then what it keeps as JSON.
func maskMagic(s step) string { return "consilium.mask/1 " + string(s) + "\n" }

// get reads what was kept of a step into v. It reports whether the step was taken.
func (m *masker) get(ctx context.Context, at maskKey, s step, v any) (bool, error) {
	if !m.have[at][s] {
		return false, nil
	}
	// Without the keys nothing more is said of a try's masks. Without a later step alone it could be taken again, in another way.
	advice := fmt.Sprintf("put it back from a copy, or remove %s and then all of its folder: this member is out of the try then", at.name(stepKeys))
	text, err := m.blobs.OpenNamed(context.WithoutCancel(ctx), at.name(s))
	if err != nil {
		return false, &diskError{fmt.Errorf("opening the masks of round %d of run %s: %w (%s)", at.round, at.run, err, advice)}
	}
	body, ok := bytes.CutPrefix(text, []byte(maskMagic(s)))
	if !ok {
		err = errors.New("not what is kept of masks")
	} else {
		err = json.Unmarshal(body, v)
	}
	clear(text)
	if err != nil {
		return false, &diskError{fmt.Errorf("object %s: %w (%s)", at.name(s), err, advice)}
	}
	return true, nil
}

// put makes a step durable. Once begun it is finished: whether the object is there is known.
func (m *masker) put(ctx context.Context, at maskKey, s step, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	text := append([]byte(maskMagic(s)), body...)
	clear(body)
	err = m.blobs.PutNamed(context.WithoutCancel(ctx), at.name(s), text)
	clear(text)
	if err != nil {
		return &diskError{fmt.Errorf("keeping the masks of round %d of run %s: %w", at.round, at.run, err)}
	}
	m.note(at, s)
	return nil
}

// forget drops what is kept of runs that closed does not hold, of rounds up to its value, and of tries of before the newest of a round. Of a
// try the keys go first: without them nothing more is said of its masks, and a crash never leaves them without what was done with them.
func (m *masker) forget(ctx context.Context, closed map[string]int) error {
	defer m.take()()
	newest := map[key]int{}
	for at := range m.have {
		newest[at.key] = max(newest[at.key], at.try)
	}
	var old []maskKey
	for at := range m.have {
		if last, open := closed[at.run]; !open || at.round <= last || at.try < newest[at.key] {
			old = append(old, at)
		}
	}
	for _, at := range old {
		for _, s := range steps {
			if err := m.blobs.DeleteNamed(context.WithoutCancel(ctx), at.name(s)); err != nil {
				return &diskError{err}
			}
		}
		delete(m.have, at)
	}
	return nil
}

// masking is one try as its masks need it: who this member is, and under which manifest.
type masking struct {
	at       maskKey
	try      mask.Try
	own      string
	identity crypto.Signer
	member   func(string) (ed25519.PublicKey, bool) // identity key in the manifest
}

func (p *Participant) masking(at key, try int32) masking {
	m := p.epochs.now()
	return masking{
		at: maskKey{at, int(try)}, try: mask.Try{Manifest: m.Digest(), Run: at.run, Round: at.round, Try: int(try)},
		own: p.o.Name, identity: p.o.Identity,
		member: func(name string) (ed25519.PublicKey, bool) { return m.Key(attest.Participant, name) },
	}
}

// keys returns the keys that were drawn for the try.
func (m *masker) keys(ctx context.Context, t masking) (*mask.Keys, error) {
	var d drawn
	ok, err := m.get(ctx, t.at, stepKeys, &d)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: the keys of its masks in round %d, try %d, of run %s are not here", errNotOurs, t.at.round, t.at.try, t.at.run)
	}
	defer clear(d.Keys)
	k, err := mask.ParseKeys(d.Keys)
	if err != nil {
		return nil, &diskError{fmt.Errorf("object %s: %w", t.at.name(stepKeys), err)}
	}
	return k, nil
}

// announce draws keys for a try, or finds those that were drawn, and signs them.
func (m *masker) announce(ctx context.Context, t masking) (*pb.MaskKeys, error) {
	defer m.take()()
	k, err := m.keys(ctx, t)
	if errors.Is(err, errNotOurs) {
		if k, err = mask.NewKeys(rand.Reader); err != nil {
			return nil, err
		}
		err = m.put(ctx, t.at, stepKeys, drawn{k.Bytes()})
	}
	if err != nil {
		return nil, err
	}
	defer k.Wipe()
	signature, err := t.identity.Sign(rand.Reader, mask.Announcement(t.try, t.own, k.Public()), crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("signing the keys of its masks: %w", err)
	}
	return &pb.MaskKeys{Keys: k.Public().Bytes(), Signature: signature}, nil
}

// share looks at the others' keys and seals a share for each neighbour, or finds what was sealed.
func (m *masker) share(ctx context.Context, t masking, quorum int, all []*pb.MaskKeys) ([]*pb.SealedShare, error) {
	defer m.take()()
	k, err := m.keys(ctx, t)
	if err != nil {
		return nil, err
	}
	defer k.Wipe()
	d := divided{Threshold: quorum}
	if err := t.introduced(k, all, &d); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotOurs, err)
	}
	graph, own, err := t.graph(d)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotOurs, err)
	}
	var before divided
	switch ok, err := m.get(ctx, t.at, stepShares, &before); {
	case err != nil:
		return nil, err
	case ok && !(slices.Equal(before.Members, d.Members) && slices.EqualFunc(before.Keys, d.Keys, bytes.Equal) && before.Threshold == d.Threshold):
		return nil, fmt.Errorf("%w: shares were sealed for others, or for other keys, in this try before", errNotOurs)
	case ok:
		d = before
	default:
		if err := t.divide(k, graph, own, &d); err != nil {
			return nil, err
		}
		if err := m.put(ctx, t.at, stepShares, d); err != nil {
			return nil, err
		}
	}
	neighbours := graph.Neighbours(own)
	if len(d.Sealed) != len(neighbours) {
		return nil, &diskError{fmt.Errorf("object %s is not what was kept", t.at.name(stepShares))}
	}
	out := make([]*pb.SealedShare, len(neighbours))
	for i, j := range neighbours {
		out[i] = &pb.SealedShare{Member: d.Members[j], Sealed: d.Sealed[i]}
	}
	return out, nil
}

// introduced checks who is said to have masks in this try: members of the manifest, each with keys that its identity key has signed for it,
// this member with its own, and as many as the plan's quorum.
func (t masking) introduced(k *mask.Keys, all []*pb.MaskKeys, d *divided) error {
	for i, a := range all {
		key, _ := t.member(a.Member)
		public, err := mask.OpenAnnouncement(t.try, a.Member, key, a.Keys, a.Signature)
		if errors.Is(err, mask.ErrUnsigned) {
			return fmt.Errorf("keys of %.64q, which no member of that name has signed for this try", a.Member)
		} else if err != nil {
			return fmt.Errorf("keys of %.64q: %w", a.Member, err)
		}
		if i > 0 && all[i-1].Member >= a.Member {
			return errors.New("the members whose keys are shown are not in order, or one is there twice")
		}
		if a.Member == t.own && public != k.Public() {
			return errors.New("other keys are shown for this member than it has announced")
		}
		d.Members, d.Keys = append(d.Members, a.Member), append(d.Keys, public.Bytes())
	}
	return nil
}

// graph returns who shares with whom, and the own place.
func (t masking) graph(d divided) (g *mask.Graph, own int, err error) {
	own, ok := slices.BinarySearch(d.Members, t.own)
	if !ok {
		return nil, 0, errors.New("this member is not among those between whom the masks are said to be")
	}
	g, err = mask.NewGraph(len(d.Members), d.Threshold, t.try.GraphSeed())
	return g, own, err
}

// divide splits the secrets and seals each neighbour's shares.
func (t masking) divide(k *mask.Keys, g *mask.Graph, own int, d *divided) error {
	holders := g.Holders(own)
	shares, err := k.Split(g.Threshold(), len(holders), rand.Reader)
	if err != nil {
		return err
	}
	for i, j := range holders {
		if j == own {
			d.Own = shares[i].Bytes()
			continue
		}
		theirs, err := mask.ParsePublic(d.Keys[j])
		if err != nil {
			return err
		}
		sealed, err := k.Seal(t.try, t.own, d.Members[j], theirs, shares[i], rand.Reader)
		if err != nil {
			return err
		}
		d.Sealed = append(d.Sealed, sealed)
	}
	return nil
}

// settled returns what was divided in a try, of which a later step is wanted.
func (m *masker) settled(ctx context.Context, t masking) (d divided, g *mask.Graph, own int, err error) {
	ok, err := m.get(ctx, t.at, stepShares, &d)
	if err != nil {
		return d, nil, 0, err
	}
	if !ok {
		return d, nil, 0, fmt.Errorf("%w: this member has shared no masks in round %d, try %d, of run %s", errNotOurs, t.at.round, t.at.try, t.at.run)
	}
	if g, own, err = t.graph(d); err != nil || len(d.Keys) != len(d.Members) {
		return d, nil, 0, &diskError{fmt.Errorf("object %s is not what was kept: %w", t.at.name(stepShares), err)}
	}
	return d, g, own, nil
}

// within checks that names are ascending, of some members, the own one among them, and as many as the quorum.
func (t masking) within(what string, names, of []string, quorum int) error {
	for i, n := range names {
		if _, ok := slices.BinarySearch(of, n); !ok || i > 0 && names[i-1] >= n {
			return fmt.Errorf("%w: %s are out of order, or others than it has masks with", errNotOurs, what)
		}
	}
	if _, ok := slices.BinarySearch(names, t.own); !ok || len(names) < quorum {
		return fmt.Errorf("%w: %s are fewer than the quorum, or without this member", errNotOurs, what)
	}
	return nil
}

// terms returns what this member adds to its update, whose masks are between members. What they make of it is not to be seen before send.
func (m *masker) terms(ctx context.Context, t masking, members []string) ([]mask.Term, error) {
	defer m.take()()
	d, g, own, err := m.settled(ctx, t)
	if err != nil {
		return nil, err
	}
	if err := t.within("the members whose masks an update is to have", members, d.Members, d.Threshold); err != nil {
		return nil, err
	}
	k, err := m.keys(ctx, t)
	if err != nil {
		return nil, err
	}
	defer k.Wipe()
	terms := []mask.Term{k.SelfMask()}
	for _, j := range g.Neighbours(own) {
		if _, ok := slices.BinarySearch(members, d.Members[j]); !ok {
			continue
		}
		theirs, err := mask.ParsePublic(d.Keys[j])
		if err != nil {
			return nil, &diskError{fmt.Errorf("object %s: %w", t.at.name(stepShares), err)}
		}
		term, err := k.PairMask(t.try, t.own, d.Members[j], theirs)
		if err != nil {
			return nil, err
		}
		terms = append(terms, term)
	}
	return terms, nil
}

// send makes durable that an update was masked with the terms between members, before anybody sees it. Another update, or one with others'
// masks, is refused for the rest of the try: whoever had two with the same masks would have their difference, and the same update rounded by
// another grid is another one.
func (m *masker) send(ctx context.Context, t masking, members []string, update entry.Digest) error {
	defer m.take()()
	var before sent
	ok, err := m.get(ctx, t.at, stepSent, &before)
	switch {
	case err != nil:
		return err
	case ok && !(slices.Equal(before.Members, members) && before.Update == update):
		return fmt.Errorf("%w: another update, or one with other members' masks, was masked in this try before", errNotOurs)
	case ok:
		return nil
	}
	return m.put(ctx, t.at, stepSent, sent{members, update})
}

// show returns, of each member that has masks in this try and whose share is here, one share: of the self mask of those whose updates are in the
// sum, of the mask key of the others. It is asked once: whose updates these are is durable before anything is shown.
func (m *masker) show(ctx context.Context, t masking, in []string, sealed []*pb.SealedShare) ([]*pb.ShownShare, error) {
	defer m.take()()
	d, g, own, err := m.settled(ctx, t)
	if err != nil {
		return nil, err
	}
	var update sent
	switch ok, err := m.get(ctx, t.at, stepSent, &update); {
	case err != nil:
		return nil, err
	case !ok:
		return nil, fmt.Errorf("%w: it is asked to unmask a sum without its update", errNotOurs)
	}
	if err := t.within("the members whose updates are said to be in the sum", in, update.Members, d.Threshold); err != nil {
		return nil, err
	}
	k, err := m.keys(ctx, t)
	if err != nil {
		return nil, err
	}
	defer k.Wipe()
	var before shown
	switch ok, err := m.get(ctx, t.at, stepShown, &before); {
	case err != nil:
		return nil, err
	case ok && !slices.Equal(before.Members, in):
		return nil, fmt.Errorf("%w: the coordinator has said before that other members' updates are in the sum of this try", errNotOurs)
	case !ok:
		if err := m.put(ctx, t.at, stepShown, shown{in}); err != nil {
			return nil, err
		}
	}
	var out []*pb.ShownShare
	add := func(of string, s mask.Shares) {
		share := s.MaskShare()
		if _, ok := slices.BinarySearch(in, of); ok {
			share = s.SelfShare()
		}
		out = append(out, &pb.ShownShare{Member: of, Share: slices.Clone(share.Y)})
	}
	mine, err := mask.ParseShares(d.Own)
	if err != nil {
		return nil, &diskError{fmt.Errorf("object %s: %w", t.at.name(stepShares), err)}
	}
	add(t.own, mine)
	for _, s := range sealed {
		j, ok := slices.BinarySearch(d.Members, s.Member)
		if _, masked := slices.BinarySearch(update.Members, s.Member); !ok || !masked || j == own || len(out) > len(d.Members) {
			continue // of nobody whose masks are in anything
		}
		theirs, err := mask.ParsePublic(d.Keys[j])
		if err != nil {
			return nil, &diskError{fmt.Errorf("object %s: %w", t.at.name(stepShares), err)}
		}
		shares, err := k.Open(t.try, t.own, s.Member, theirs, s.Sealed)
		if err != nil || shares.X != g.X(j, own) {
			continue // what others show may be enough
		}
		add(s.Member, shares)
	}
	return out, nil
}

// mask returns this member's update of a try as it is sent under masks: weighed, rounded to the grid, each value in a word of 64 bits, of which
// two float32s hold the halves, the low one first.
func (s *session) mask(ctx context.Context, t *pb.Train, study *study, u finished) (finished, error) {
	at, err := keyOf(t)
	if err != nil {
		return finished{}, err
	}
	if t.Masking == nil {
		return finished{}, fmt.Errorf("%w: the plan has masks, and the coordinator asks for an update without", errNotOurs)
	}
	spec := aggregate.Spec{Ranges: study.shape.Training, Weights: t.Masking.Weights}
	if entry.RoundKind(t.Kind) == entry.Statistics {
		spec.Ranges = study.shape.Statistics
	}
	if recipe, private := round.Recipe(study.plan); private { // whose clip norm does not adapt where there are masks
		spec = spec.Coarsened(recipe.Step(recipe.Clip))
	}
	grid, err := aggregate.NewGrid(spec)
	if err != nil || !slices.Contains(t.Masking.Weights, u.weight) || len(u.values) != spec.Len() {
		return finished{}, fmt.Errorf("%w: the weights of the round are not what an update can be rounded by", errNotOurs)
	}
	try := s.p.masking(at, t.Try)
	terms, err := s.p.masks.terms(ctx, try, t.Masking.Members)
	if err != nil {
		return finished{}, err
	}
	masked := finished{salt: u.salt, base: u.base, weight: u.weight, values: make([]float32, 2*len(u.values))}
	var words [1 << 13]uint64
	defer clear(words[:])
	for lo := 0; lo < len(u.values); lo += len(words) {
		if ctx.Err() != nil {
			return finished{}, ctx.Err()
		}
		part := words[:min(len(words), len(u.values)-lo)]
		grid.Whole(part, lo, u.values[lo:lo+len(part)], float64(u.weight))
		mask.Apply(part, lo, terms...)
		for i, w := range part {
			masked.values[2*(lo+i)] = math.Float32frombits(uint32(w))
			masked.values[2*(lo+i)+1] = math.Float32frombits(uint32(w >> 32))
		}
	}
	masked = masked.named()
	if err := s.p.masks.send(ctx, try, t.Masking.Members, masked.digest()); err != nil {
		return finished{}, err
	}
	if study.shape.Carries() && entry.RoundKind(t.Kind) == entry.Training { // it goes with the update by the name that this has in the log
		var contributed entry.Digest
		copy(contributed[:], t.Contributed)
		if err := s.p.own.alias(ctx, at.run, u.digest(), masked.digest(), contributed); err != nil {
			return finished{}, err
		}
	}
	return masked, nil
}

// veil answers what the masks of open tries need of this member, beside the tasks, which may take hours. It returns when ctx ends, or with
// what ends the session.
func (s *session) veil(ctx context.Context) error {
	done := map[string]bool{}
	changed := s.p.standing.changes()
	for turned := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-s.veiled:
		case <-changed: // what the administrator wants
		}
		changed = s.p.standing.changes()
		if n := s.line.turned(); n != turned {
			turned = n
			clear(done)
		}
		s.mu.Lock()
		asked := s.wanted.GetMasks()
		s.mu.Unlock()
		still := map[string]bool{}
		for _, a := range asked {
			name := fmt.Sprintf("%s/%d/%d/%d", a.Run, a.Round, a.Try, a.Stage)
			if still[name] = done[name]; still[name] || a.Stage != pb.MaskAsked_STAGE_SHOW && !s.p.standing.allows(a.Run) {
				continue
			}
			log := s.p.log.With(zap.String("run", a.Run), zap.Int32("round", a.Round), zap.Int32("try", a.Try))
			err := s.unveil(ctx, a)
			switch code := status.Code(err); {
			case ctx.Err() != nil:
				return nil
			case errors.Is(err, errNotOurs):
				log.Warn("nothing is given for the masks of this try", zap.Error(err))
			case code == codes.FailedPrecondition: // the others were enough, or the round is over: nobody's fault
				log.Info("not taken for the masks of this try", zap.String("reason", status.Convert(err).Message()))
			case code == codes.InvalidArgument || code == codes.NotFound:
				log.Warn("not taken for the masks of this try", zap.String("reason", status.Convert(err).Message()))
			case err != nil && s.line.turned() != turned:
				s.again() // over the new connection
				continue
			case err != nil:
				return fmt.Errorf("masks of round %d of run %s: %w", a.Round, a.Run, err)
			}
			still[name] = true
		}
		done = still
	}
}

// again has veil look once more at what is wanted.
func (s *session) again() {
	select {
	case s.veiled <- struct{}{}:
	default:
	}
}

// unveil does what is asked of a try's masks, where this member has consented to the run.
func (s *session) unveil(ctx context.Context, a *pb.MaskAsked) error {
	if !isRun(a.Run) || a.Round < 0 || a.Try < 1 {
		return fmt.Errorf("%w: the coordinator's words make no sense: its version may be another one", errNotOurs)
	}
	if ok, err := s.p.agreed.match(a.Run, a.Lead, a.Plan); err != nil {
		return fmt.Errorf("%w: %w", errNotOurs, err)
	} else if !ok {
		return fmt.Errorf("%w: this member has no consent to it on its disk", errNotOurs)
	}
	plan, err := trainer.DecodePlan(a.Plan)
	if err != nil || !plan.Masks {
		return fmt.Errorf("%w: the plan has no masks", errNotOurs)
	}
	if int(a.Round) > plan.Rounds || a.Round == 0 && !plan.Measured() {
		return fmt.Errorf("%w: the plan has no round %d", errNotOurs, a.Round)
	}
	t := s.p.masking(key{a.Run, int(a.Round)}, a.Try)
	q := &pb.MaskRequest{Run: a.Run, Round: a.Round, Try: a.Try}
	switch a.Stage {
	case pb.MaskAsked_STAGE_ANNOUNCE:
		q.Keys, err = s.p.masks.announce(ctx, t)
	case pb.MaskAsked_STAGE_SHARE:
		q.Shares, err = s.p.masks.share(ctx, t, plan.Quorum, a.Keys)
	case pb.MaskAsked_STAGE_SHOW:
		q.Shown, err = s.p.masks.show(ctx, t, a.In, a.Shares)
	default:
		err = fmt.Errorf("%w: it is asked for something that this version does not know", errNotOurs)
	}
	if err != nil {
		return err
	}
	_, err = s.rounds.Mask(ctx, q)
	return err
}
