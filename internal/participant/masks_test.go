package participant_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/mask"
	"consilium.dev/internal/model"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
)

// hidden makes the plan one whose updates are masked, from its first round on.
func hidden(p *entry.Plan) { p.Masks, p.Quorum, p.Encoding = true, 3, "" }

// others are the members that a lying coordinator plays beside cleveland.
var others = []string{"budapest", "longbeach", "switzerland"}

// identityOf returns a member's identity key.
func identityOf(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("identity of " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// charter returns a manifest that names the members.
func charter(t testing.TB) *manifest.Manifest {
	t.Helper()
	text := func(key ed25519.PrivateKey) string {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(der)
	}
	var members strings.Builder
	for _, m := range append([]string{"cleveland"}, others...) {
		fmt.Fprintf(&members, "  - {name: %s, governance: %q, identity: %q}\n", m, text(identityOf("governance "+m)), text(identityOf(m)))
	}
	payload, err := manifest.Build([]byte(strings.NewReplacer("<members>\n", members.String(), "<ada>", text(identityOf("ada")),
		"<council>", text(identityOf("council")), "<measurement>", strings.Repeat("ab", 48), "<host>", strings.Repeat("00", 32)).Replace(`schema: consilium.manifest/1
federation: four-hospitals
epoch: 1
prev: ""
threshold: 3
members:
<members>
people:
  - {name: ada, member: cleveland, key: "<ada>", may: [lead, audit]}
coordinators:
  - {name: council, identity: "<council>"}
witnesses: {none: true, reason: "a test"}
reference_sets:
  snp:
    type: sev-snp
    product_lines: [Genoa]
    measurements: ["<measurement>"]
    policy: {debug: false, migrate_ma: false, smt: false, abi_min: "1.55", single_socket: false}
    vmpl: 0
    tcb_min: {bootloader: 9, tee: 0, snp: 23, microcode: 72}
    platform_info: {smt: false, tsme: true, ecc: true, rapl_dis: true, ciphertext_hiding: {any: true, reason: "none"}, alias_check_complete: true}
    host_data: "<host>"
    guest_svn_min: 1
    id_keys: {any: true, reason: "images are not signed"}
    chip_ids: {any: true, reason: "a test's chips"}
    revocation: {any: true, reason: "no list in a test"}
offices:
  coordinator: {types: [[sev-snp]], sets: [snp], appraisal_ttl: 1h, pq: require}
  participant: {types: [[sev-snp]], sets: [snp], appraisal_ttl: 1h, pq: require}
runs:
  strategies: [fedavg]
  trainers: [builtin/logistic]
  least_participants: 2
  max_abs: 1048576
  rounds_max: 200
readers: {models: [ada], metrics: [ada]}
`)))
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.OpenUnverified(payload)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// liar is a coordinator that plays all members but cleveland, and tells cleveland what it likes about masks.
type liar struct {
	*member
	try   mask.Try
	keys  map[string]*mask.Keys // of the others
	own   *pb.MaskKeys          // that cleveland has announced
	given []*pb.MaskRequest     // by cleveland
	sent  [][]float32           // updates
	end   func() error
}

// weights are what the members are said to have, in the order of their names.
var weights = []int64{100, 199, 300, 400}

// newLiar returns one whose run is open, with a consent of cleveland's.
func newLiar(t *testing.T, change ...func(*entry.Plan)) *liar {
	t.Helper()
	l := &liar{member: newMember(t), keys: map[string]*mask.Keys{}}
	l.manifest, l.identity = charter(t), identityOf("cleveland")
	l.try = mask.Try{Manifest: l.manifest.Digest(), Run: run, Try: 1}
	for _, m := range others {
		k, err := mask.NewKeys(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		l.keys[m] = k
	}
	l.masked = func(q *pb.MaskRequest) error {
		l.given = append(l.given, q)
		return nil
	}
	l.query = func(*pb.QueryRequest) *pb.QueryReply { return &pb.QueryReply{State: pb.QueryReply_STATE_SEND} }
	l.offer = func(s pb.Rounds_OfferServer) error {
		_, values := receive(t, s)
		l.sent = append(l.sent, values)
		return s.Send(&pb.OfferReply{State: pb.OfferReply_STATE_ACCEPTED})
	}
	l.end = l.follow()
	l.agree(run, plan(t, change...))
	return l
}

// again lets cleveland's process begin again.
func (l *liar) again() {
	l.t.Helper()
	if err := l.end(); participant.IsBroken(err) {
		l.t.Fatal(err)
	}
	l.end = l.follow()
}

// says tells cleveland what is wanted and returns what it has logged, and what was given and sent for it.
func (l *liar) says(w *pb.Wanted) (text string, given []*pb.MaskRequest, sent [][]float32) {
	if len(w.Train) > 0 { // in a session an update is made once
		l.again()
	}
	l.given, l.sent = nil, nil
	w.Progress = []*pb.Progress{{Run: run, Closed: -1}}
	l.wants(&pb.Wanted{Progress: w.Progress}) // or it were the same that was wanted before
	l.book.take()
	l.wants(w)
	return l.book.take(), l.given, l.sent
}

// asked asks for something about masks.
func (l *liar) asked(stage pb.MaskAsked_Stage) *pb.MaskAsked {
	return &pb.MaskAsked{Run: run, Try: 1, Stage: stage, Lead: "ada", Plan: plan(l.t, hidden)}
}

// gives tells cleveland to do something about masks, which it must do, and returns what it gives.
func (l *liar) gives(a *pb.MaskAsked) *pb.MaskRequest {
	l.t.Helper()
	text, given, _ := l.says(&pb.Wanted{Masks: []*pb.MaskAsked{a}})
	if len(given) != 1 {
		l.t.Fatalf("%d answers to %v, the log says %s", len(given), a.Stage, text)
	}
	return given[0]
}

// signs returns the keys of one of the others as it would announce them.
func (l *liar) signs(m string) *pb.MaskKeys {
	public := l.keys[m].Public()
	return &pb.MaskKeys{Member: m, Keys: public.Bytes(), Signature: ed25519.Sign(identityOf(m), mask.Announcement(l.try, m, public))}
}

// introduces asks for shares among cleveland, whose keys it gets first, and these.
func (l *liar) introduces(names ...string) *pb.MaskAsked {
	l.t.Helper()
	if l.own == nil {
		l.own = l.gives(l.asked(pb.MaskAsked_STAGE_ANNOUNCE)).Keys
		l.own.Member = "cleveland"
	}
	a := l.asked(pb.MaskAsked_STAGE_SHARE)
	for _, m := range slices.Sorted(slices.Values(append(names, "cleveland"))) {
		k := l.own
		if m != "cleveland" {
			k = l.signs(m)
		}
		a.Keys = append(a.Keys, k)
	}
	return a
}

// train asks for the statistics, masked between these.
func (l *liar) train(among ...string) *pb.Train {
	q := statistics(l.t)
	q.Plan = plan(l.t, hidden)
	q.Masking = &pb.Masking{Members: among, Weights: weights}
	return q
}

// updates has cleveland send what is asked for.
func (l *liar) updates(q *pb.Train) []float32 {
	l.t.Helper()
	text, _, sent := l.says(&pb.Wanted{Train: []*pb.Train{q}})
	if len(sent) != 1 {
		l.t.Fatalf("%d updates were sent, the log says %s", len(sent), text)
	}
	return sent[0]
}

// shows asks for the shares that take the masks off the sum of in. Each of the others has shared with cleveland before.
func (l *liar) shows(in ...string) *pb.MaskAsked {
	l.t.Helper()
	a := l.asked(pb.MaskAsked_STAGE_SHOW)
	a.In = in
	public, err := mask.ParsePublic(l.own.Keys)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, m := range others {
		shares, err := l.keys[m].Split(3, 4, zeros{})
		if err != nil {
			l.t.Fatal(err)
		}
		sealed, err := l.keys[m].Seal(l.try, m, "cleveland", public, shares[1], zeros{})
		if err != nil {
			l.t.Fatal(err)
		}
		a.Shares = append(a.Shares, &pb.SealedShare{Member: m, Sealed: sealed})
	}
	return a
}

// zeros is a source of what is no chance, so that the others' shares are the same each time.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// refuses tells cleveland what it must not do anything for, and reports what it says.
func (l *liar) refuses(w *pb.Wanted, want string) {
	l.t.Helper()
	text, given, sent := l.says(w)
	if len(given)+len(sent) > 0 || !strings.Contains(text, want) {
		l.t.Errorf("%d answers and %d updates, and the log says %s, want nothing but %q", len(given), len(sent), text, want)
	}
}

func (l *liar) refusesMask(a *pb.MaskAsked, want string) {
	l.t.Helper()
	l.refuses(&pb.Wanted{Masks: []*pb.MaskAsked{a}}, want)
}

func (l *liar) refusesTrain(q *pb.Train, want string) {
	l.t.Helper()
	l.refuses(&pb.Wanted{Train: []*pb.Train{q}}, want)
}

var everybody = []string{"budapest", "cleveland", "longbeach", "switzerland"}

// TestMasksOnce goes through a try whose coordinator asks for each thing twice, the member's process ends in between, and it asks a third
// time, for something else: what was given is given again, to the bit, and nothing else is. Two updates under the same masks would show their
// difference, and both kinds of shares of one member its update.
func TestMasksOnce(t *testing.T) {
	same := func(t *testing.T, what string, a, b *pb.MaskRequest) {
		t.Helper()
		if !bytes.Equal(a.GetKeys().GetKeys(), b.GetKeys().GetKeys()) || !slices.EqualFunc(a.Shares, b.Shares, func(a, b *pb.SealedShare) bool {
			return a.Member == b.Member && bytes.Equal(a.Sealed, b.Sealed)
		}) || !slices.EqualFunc(a.Shown, b.Shown, func(a, b *pb.ShownShare) bool { return a.Member == b.Member && bytes.Equal(a.Share, b.Share) }) {
			t.Errorf("%s is another one the second time", what)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, hidden)
		early := l.asked(pb.MaskAsked_STAGE_SHARE)
		early.Keys = []*pb.MaskKeys{l.signs("budapest")}
		l.refusesMask(early, "the keys of its masks in round 0, try 1, of run "+run+" are not here")
		shares := l.introduces(others...)
		l.again()
		same(t, "the announcement", &pb.MaskRequest{Keys: l.own}, l.gives(l.asked(pb.MaskAsked_STAGE_ANNOUNCE)))

		given := l.gives(shares)
		for _, restart := range []bool{false, true} {
			if restart {
				l.again()
			}
			same(t, "the set of shares", given, l.gives(shares))
			l.refusesMask(l.introduces("budapest", "longbeach"), "shares were sealed for others")
			k, err := mask.NewKeys(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			k, l.keys["budapest"] = l.keys["budapest"], k
			l.refusesMask(l.introduces(others...), "shares were sealed for others, or for other keys")
			l.keys["budapest"] = k
		}

		l.refusesMask(l.shows(everybody...), "asked to unmask a sum without its update")
		l.refusesTrain(l.train("budapest", "cleveland"), "fewer than the quorum")
		l.refusesTrain(l.train(others...), "without this member")
		l.refusesTrain(l.train("budapest", "cleveland", "stranger"), "others than it has masks with")
		l.refusesTrain(l.train("cleveland", "budapest", "longbeach"), "out of order")
		update := l.updates(l.train(everybody...))
		for _, restart := range []bool{false, true} {
			if restart {
				l.again()
			}
			if again := l.updates(l.train(everybody...)); !slices.EqualFunc(update, again, sameBits) {
				t.Error("the update has other bits the second time")
			}
			l.refusesTrain(l.train("budapest", "cleveland", "longbeach"), "was masked in this try before")
			finer := l.train(everybody...)
			finer.Masking.Weights = []int64{1, 1, 1, 199}
			l.refusesTrain(finer, "another update, or one with other members' masks, was masked in this try before")
		}

		// One that is lost and made anew has another salt, and it may have other values.
		for name := range l.disk.List(t.Context(), "kept/") {
			if err := l.disk.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		l.again()
		l.refusesTrain(l.train(everybody...), "was masked in this try before")

		l.refusesMask(l.shows("budapest", "cleveland"), "fewer than the quorum")
		l.refusesMask(l.shows(others...), "without this member")
		l.refusesMask(l.shows("budapest", "cleveland", "stranger"), "others than it has masks with")
		shown := l.gives(l.shows("budapest", "cleveland", "longbeach"))
		l.kinds(shown, map[string]bool{"budapest": true, "longbeach": true, "switzerland": false})
		for _, restart := range []bool{false, true} {
			if restart {
				l.again()
			}
			same(t, "what is shown", shown, l.gives(l.shows("budapest", "cleveland", "longbeach")))
			l.refusesMask(l.shows("budapest", "cleveland", "switzerland"), "other members' updates are in the sum")
			l.refusesMask(l.shows(everybody...), "other members' updates are in the sum")
		}
	})
}

func sameBits(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }

// kinds checks that of each of the others that kind of share is shown which was asked for, the self seed's where it says so, and of cleveland
// the self seed's.
func (l *liar) kinds(q *pb.MaskRequest, self map[string]bool) {
	l.t.Helper()
	got := map[string][]byte{}
	for _, s := range q.Shown {
		got[s.Member] = s.Share
	}
	if len(got) != 1+len(self) || got["cleveland"] == nil {
		l.t.Errorf("shares are shown of %v", slices.Sorted(maps.Keys(got)))
	}
	for m, self := range self {
		shares, err := l.keys[m].Split(3, 4, zeros{})
		if err != nil {
			l.t.Fatal(err)
		}
		want := shares[1].Mask
		if self {
			want = shares[1].Self
		}
		if !bytes.Equal(got[m], want[:]) {
			l.t.Errorf("of %s another share is shown", m)
		}
	}
}

// TestLiesAboutMasks: a coordinator shows keys that are not the members', leaves members out, or asks for what the plan does not say. It gets
// nothing for it, and the next honest word is heard.
func TestLiesAboutMasks(t *testing.T) {
	keys := func(change func(l *liar, all map[string]*pb.MaskKeys)) func(*liar) *pb.MaskAsked {
		return func(l *liar) *pb.MaskAsked {
			a := l.introduces(others...)
			all := map[string]*pb.MaskKeys{}
			for _, k := range a.Keys {
				all[k.Member] = k
			}
			change(l, all)
			a.Keys = nil
			for _, m := range slices.Sorted(maps.Keys(all)) {
				a.Keys = append(a.Keys, all[m])
			}
			return a
		}
	}
	const unsigned = "which no member of that name has signed for this try"
	lies := map[string]struct {
		lie  func(l *liar) *pb.MaskAsked
		says string
	}{
		"forged keys": {keys(func(l *liar, all map[string]*pb.MaskKeys) {
			k := *l.keys["budapest"]
			all["budapest"].Signature = ed25519.Sign(identityOf("council"), mask.Announcement(l.try, "budapest", k.Public()))
		}), unsigned},
		"keys of another member": {keys(func(_ *liar, all map[string]*pb.MaskKeys) {
			all["budapest"].Keys, all["budapest"].Signature = all["longbeach"].Keys, all["longbeach"].Signature
		}), unsigned},
		"keys for another try": {keys(func(l *liar, all map[string]*pb.MaskKeys) {
			l.try.Try = 2
			all["budapest"] = l.signs("budapest")
			l.try.Try = 1
		}), unsigned},
		"keys under another manifest": {keys(func(l *liar, all map[string]*pb.MaskKeys) {
			l.try.Manifest[0]++
			all["budapest"] = l.signs("budapest")
			l.try.Manifest[0]--
		}), unsigned},
		"keys of low order": {keys(func(_ *liar, all map[string]*pb.MaskKeys) { clear(all["budapest"].Keys[32:64]) }), "low order"},
		"short keys":        {keys(func(_ *liar, all map[string]*pb.MaskKeys) { all["budapest"].Keys = make([]byte, 95) }), "public keys of 95 bytes"},
		"other keys of its own": {keys(func(l *liar, all map[string]*pb.MaskKeys) {
			k, err := mask.NewKeys(rand.Reader)
			if err != nil {
				l.t.Fatal(err)
			}
			public := k.Public()
			all["cleveland"] = &pb.MaskKeys{
				Member: "cleveland", Keys: public.Bytes(), Signature: ed25519.Sign(l.identity, mask.Announcement(l.try, "cleveland", public)),
			}
		}), "other keys are shown for this member"},
		"without it":          {keys(func(_ *liar, all map[string]*pb.MaskKeys) { delete(all, "cleveland") }), "not among those between whom"},
		"fewer than a quorum": {keys(func(_ *liar, all map[string]*pb.MaskKeys) { delete(all, "budapest"); delete(all, "longbeach") }), "a quorum of 3 of 2 members"},
		"nobody":              {keys(func(_ *liar, all map[string]*pb.MaskKeys) { clear(all) }), "not among those between whom"},
		"a stranger": {keys(func(l *liar, all map[string]*pb.MaskKeys) {
			l.keys["stranger"] = l.keys["budapest"]
			all["stranger"] = l.signs("stranger")
		}), unsigned},
		"one twice": {func(l *liar) *pb.MaskAsked {
			a := l.introduces(others...)
			a.Keys = append(a.Keys, a.Keys[3])
			return a
		}, "one is there twice"},
		"another lead": {func(l *liar) *pb.MaskAsked { a := l.introduces(others...); a.Lead = "ben"; return a }, "for another lead"},
		"another plan": {func(l *liar) *pb.MaskAsked {
			a := l.introduces(others...)
			a.Plan = plan(l.t, hidden, func(p *entry.Plan) { p.Quorum = 4 })
			return a
		}, "another plan"},
		"another run": {func(l *liar) *pb.MaskAsked { a := l.introduces(others...); a.Run = "1122334455667788"; return a }, "no consent"},
		"a run that is a path": {func(l *liar) *pb.MaskAsked {
			a := l.asked(pb.MaskAsked_STAGE_ANNOUNCE)
			a.Run = "../../etc/pass"
			return a
		}, "make no sense"},
		"no try":              {func(l *liar) *pb.MaskAsked { a := l.asked(pb.MaskAsked_STAGE_ANNOUNCE); a.Try = 0; return a }, "make no sense"},
		"a round before all":  {func(l *liar) *pb.MaskAsked { a := l.asked(pb.MaskAsked_STAGE_ANNOUNCE); a.Round = -1; return a }, "make no sense"},
		"a round after all":   {func(l *liar) *pb.MaskAsked { a := l.asked(pb.MaskAsked_STAGE_ANNOUNCE); a.Round = 1 << 20; return a }, "the plan has no round 1048576"},
		"another stage":       {func(l *liar) *pb.MaskAsked { return l.asked(9) }, "something that this version does not know"},
		"shown before shares": {func(l *liar) *pb.MaskAsked { l.introduces(others...); return l.shows(everybody...) }, "has shared no masks"},
	}
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, hidden)
		for name, lie := range lies {
			l.refusesMask(lie.lie(l), lie.says)
			if t.Failed() {
				t.Fatalf("so it was for the lie: %s", name)
			}
		}
		if q := l.gives(l.introduces(others...)); len(q.Shares) != 3 {
			t.Errorf("after all lies %d shares are given, want 3", len(q.Shares))
		}
	})
}

// TestMasksAsConsented: an update goes out masked if the plan that was consented to says so, and not if it does not, whatever is asked.
func TestMasksAsConsented(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, hidden)
		l.gives(l.introduces(others...))
		bare := l.train(everybody...)
		bare.Masking = nil
		l.refusesTrain(bare, "the plan has masks, and the coordinator asks for an update without")
		unmasked := l.train(everybody...)
		unmasked.Plan = plan(t)
		l.refusesTrain(unmasked, "another plan")
		foreign := l.train(everybody...)
		foreign.Masking.Weights = []int64{1, 2}
		l.refusesTrain(foreign, "the weights of the round are not what an update can be rounded by")
		if u := l.updates(l.train(everybody...)); len(u) == 0 {
			t.Error("no update afterwards")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t)
		a := l.asked(pb.MaskAsked_STAGE_ANNOUNCE)
		l.refusesMask(a, "another plan")
		a.Plan = plan(t)
		l.refusesMask(a, "the plan has no masks")
		q := l.train(everybody...)
		q.Plan = plan(t)
		masked, plain := l.updates(q), statistics(t)
		if bare := l.updates(plain); !slices.EqualFunc(masked, bare, sameBits) {
			t.Error("words about masks make another update of a plan without")
		}
		for name := range l.disk.List(t.Context(), "mask/") {
			t.Errorf("object %s is there", name)
		}
	})
}

// TestTwoBases: in one try the coordinator asks for an update from one model, then for another from another model. Both would have the same
// masks.
func TestTwoBases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, hidden, unscaled)
		first, _ := base(t)
		second := &model.Model{Layout: first.Layout, Params: slices.Clone(first.Params)}
		second.Params[0] = 1
		text := plan(t, hidden, unscaled)
		l.try.Round = 1
		at := func(a *pb.MaskAsked) *pb.MaskAsked { a.Round, a.Plan = 1, text; return a }
		l.own = l.gives(at(l.asked(pb.MaskAsked_STAGE_ANNOUNCE))).Keys
		l.own.Member = "cleveland"
		l.gives(at(l.introduces(others...)))
		ask := func(m *model.Model) *pb.Train {
			l.fetch = serve(nil, &pb.Chunk{Size: uint32(m.Size()), Data: fileOf(t, m)})
			q, d := l.train(everybody...), m.Digest()
			q.Round, q.Kind, q.Plan, q.Model, q.BaseSize = 1, "training", text, d[:], m.Size()
			return q
		}
		l.updates(ask(first))
		l.refusesTrain(ask(second), "was masked in this try before")
		l.refusesTrain(ask(first), "was masked in this try before") // the first one is kept no more
	})
}

// TestMaskedBytes looks in all that a member sends in a masked try for its update: as it is, as it is rounded, and as it would be under one
// of the two kinds of masks alone.
func TestMaskedBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := newLiar(t)
		bare := open.updates(statistics(t))
		found := func(l *liar, pattern []byte) bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return bytes.Contains(l.heard, pattern)
		}
		l := newLiar(t, hidden)
		l.gives(l.introduces(others...))
		masked := l.updates(l.train(everybody...))
		shown := l.gives(l.shows(everybody...))
		if len(masked) != 2*len(bare) || len(shown.Shown) != 4 {
			t.Fatalf("%d values for %d, and %d shares", len(masked), len(bare), len(shown.Shown))
		}
		var p entry.Plan
		if err := json.Unmarshal(plan(t, hidden), &p); err != nil {
			t.Fatal(err)
		}
		d, err := trainer.Describe(p)
		if err != nil {
			t.Fatal(err)
		}
		grid, err := aggregate.NewGrid(aggregate.Spec{Ranges: d.Statistics, Weights: weights})
		if err != nil {
			t.Fatal(err)
		}
		words := make([]uint64, len(bare))
		grid.Whole(words, 0, bare, 199)
		var sent []uint64
		for i := range words {
			sent = append(sent, uint64(math.Float32bits(masked[2*i]))|uint64(math.Float32bits(masked[2*i+1]))<<32)
		}
		// What the others know, their masks with it, is not all that there is: a coordinator with all of them but it still sees nothing. That
		// takes its self mask, which shares of three give.
		public, err := mask.ParsePublic(l.own.Keys)
		if err != nil {
			t.Fatal(err)
		}
		known := slices.Clone(sent)
		for _, m := range others {
			term, err := l.keys[m].PairMask(l.try, m, "cleveland", public)
			if err != nil {
				t.Fatal(err)
			}
			mask.Apply(known, 0, term)
		}
		looked := 0
		for i, v := range bare {
			if v == 0 {
				continue
			}
			looked++
			value, word := make([]byte, 4), binary.LittleEndian.AppendUint64(nil, words[i])
			model.PutFloats(value, bare[i:i+1])
			if found(l, value) || found(l, word) || found(l, word[:6]) || sent[i] == words[i] || known[i] == words[i] {
				t.Errorf("value %d was sent, as it is or rounded", i)
			}
			if !found(open, value) {
				t.Errorf("value %d is not found where it was sent", i)
			}
		}
		if looked < 20 {
			t.Errorf("only %d values to look for", looked)
		}
	})
}

// TestMasksTooLate: an answer that comes when the others have gone on is no warning, and one that is wrong is.
func TestMasksTooLate(t *testing.T) {
	for _, test := range []struct {
		code  codes.Code
		level string
	}{{codes.FailedPrecondition, "info"}, {codes.InvalidArgument, "warn"}} {
		synctest.Test(t, func(t *testing.T) {
			l := newLiar(t, hidden)
			l.masked = func(*pb.MaskRequest) error { return status.Error(test.code, "so it is") }
			text, _, _ := l.says(&pb.Wanted{Masks: []*pb.MaskAsked{l.asked(pb.MaskAsked_STAGE_ANNOUNCE)}})
			if !levelOf(text, test.level, "not taken for the masks of this try") {
				t.Errorf("after %v the log says %s, want a line at %s", test.code, text, test.level)
			}
		})
	}
}

// TestMasksOver: a round is closed while a member still makes what its masks need. What is forgotten is then not missed by what is under way, as
// if the disk had lost it.
func TestMasksOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLiar(t, hidden)
		for try := range 20 {
			l.try.Try, l.own = try+1, nil
			announce := l.asked(pb.MaskAsked_STAGE_ANNOUNCE)
			announce.Try = int32(l.try.Try)
			l.own = l.gives(announce).Keys
			l.own.Member = "cleveland"
			share := l.introduces(others...)
			share.Try = announce.Try
			l.given = nil
			l.wants(&pb.Wanted{Masks: []*pb.MaskAsked{share}, Progress: []*pb.Progress{{Run: run, Closed: 0}}})
			for name := range l.disk.List(t.Context(), "mask/") {
				t.Errorf("object %s is there", name)
			}
		}
		if err := l.end(); participant.IsBroken(err) {
			t.Errorf("the session ended with %v", err)
		}
	})
}
