package coordinator_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/store/storetest"
	"consilium.dev/internal/witness"
	pb "consilium.dev/proto/consilium/v1"
)

// hand is a witness without its program.
type hand struct {
	t      *testing.T
	stream pb.Witnesses_CosignClient
	key    *witness.Key
	kept   *pb.CosignKept
}

// raise connects as a member that is a witness. change spoils what it says first.
func (w *world) raise(name string, change ...func(*pb.CosignKept)) *hand {
	w.t.Helper()
	stream, err := pb.NewWitnessesClient(w.connect(attest.Participant, name).conn).Cosign(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	h := &hand{t: w.t, stream: stream, key: witness.NewKey(witness.KeyName("four-hospitals", name), [32]byte{1})}
	h.kept = endorse(witness.Endorsement{Federation: "four-hospitals", Member: name, Key: h.key.Verifier(), From: time.Now()}, name)
	for _, f := range change {
		f(h.kept)
	}
	h.say(&pb.CosignSaid{Said: &pb.CosignSaid_Kept{Kept: h.kept}})
	return h
}

// endorse has a member's identity key endorse a cosigning key.
func endorse(e witness.Endorsement, by string) *pb.CosignKept {
	text := e.Text()
	return &pb.CosignKept{Endorsement: string(text), Signature: ed25519.Sign(keyOf("participant/"+by), text)}
}

func (h *hand) say(said *pb.CosignSaid) {
	h.t.Helper()
	if err := h.stream.Send(said); err != nil && !errors.Is(err, io.EOF) {
		h.t.Fatal(err)
	}
}

func (h *hand) answer(a *pb.CosignAnswer) {
	h.t.Helper()
	h.say(&pb.CosignSaid{Said: &pb.CosignSaid_Answer{Answer: a}})
}

// asked returns what is asked next, without heartbeats.
func (h *hand) asked() (*pb.CosignAsked, error) {
	for {
		q, err := h.stream.Recv()
		if err != nil || len(q.Checkpoint) > 0 {
			return q, err
		}
	}
}

// cosign answers as an honest witness does.
func (h *hand) cosign(q *pb.CosignAsked) {
	h.answer(&pb.CosignAnswer{State: pb.CosignAnswer_STATE_COSIGNED, Line: h.key.Cosign(witness.Text(q.Checkpoint), time.Now())})
}

// TestNoWitness: what a peer must be and say to be heard as a witness.
func TestNoWitness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, none, "{quorum: 2, members: [budapest, cleveland, longbeach]}")
		w.serve()
		w.join("budapest")
		w.join("cleveland")
		w.books["council"].await(t, "log opened by its witnesses")
		if _, err := w.raise("switzerland").asked(); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "no witness") {
			t.Errorf("a member that is no witness: %v", err)
		}
		stranger := witness.NewKey(witness.KeyName("four-hospitals", "budapest"), [32]byte{2})
		e := witness.Endorsement{Federation: "four-hospitals", Member: "longbeach", Key: stranger.Verifier(), From: time.Now()}
		for name, change := range map[string]func(*pb.CosignKept){
			"no endorsement":       func(k *pb.CosignKept) { k.Endorsement = "" },
			"nobody's endorsement": func(k *pb.CosignKept) { k.Signature = nil },
			"another member's identity": func(k *pb.CosignKept) {
				k.Signature = ed25519.Sign(keyOf("participant/budapest"), []byte(k.Endorsement))
			},
			"another member's key": func(k *pb.CosignKept) {
				x := endorse(e, "longbeach")
				k.Endorsement, k.Signature = x.Endorsement, x.Signature
			},
			"an endorsement that is over": func(k *pb.CosignKept) {
				f := e
				f.Key, f.From = witness.NewKey(witness.KeyName("four-hospitals", "longbeach"), [32]byte{1}).Verifier(), time.Now().Add(-25*time.Hour)
				x := endorse(f, "longbeach")
				k.Endorsement, k.Signature = x.Endorsement, x.Signature
			},
		} {
			if _, err := w.raise("longbeach", change).asked(); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s: %v, want it refused", name, err)
			}
		}
		for name, spoil := range map[string]func(h *hand, q *pb.CosignAsked){
			"no state":         func(h *hand, _ *pb.CosignAsked) { h.answer(&pb.CosignAnswer{}) },
			"what it keeps":    func(h *hand, _ *pb.CosignAsked) { h.say(&pb.CosignSaid{Said: &pb.CosignSaid_Kept{Kept: h.kept}}) },
			"no cosignature":   func(h *hand, _ *pb.CosignAsked) { h.answer(&pb.CosignAnswer{State: pb.CosignAnswer_STATE_COSIGNED}) },
			"another key's":    func(h *hand, q *pb.CosignAsked) { h.key = stranger; h.cosign(q) },
			"over another log": func(h *hand, q *pb.CosignAsked) { q.Checkpoint[len(q.Checkpoint)/3] ^= 1; h.cosign(q) },
			"stale for ever": func(h *hand, q *pb.CosignAsked) {
				for range 8 {
					h.answer(&pb.CosignAnswer{State: pb.CosignAnswer_STATE_STALE})
				}
			},
			"a refusal without a reason": func(h *hand, _ *pb.CosignAsked) { h.answer(&pb.CosignAnswer{State: pb.CosignAnswer_STATE_REFUSED}) },
		} {
			h := w.raise("longbeach")
			q, err := h.asked()
			if err != nil {
				t.Fatal(err)
			}
			spoil(h, q)
			for err == nil {
				_, err = h.asked()
			}
			switch status.Code(err) {
			case codes.InvalidArgument, codes.FailedPrecondition, codes.Aborted:
			default:
				t.Errorf("answer %q: %v, want it refused", name, err)
			}
		}
		synctest.Wait()
		if v := w.books["council"].find("a witness refuses this log"); len(v) != 0 {
			t.Errorf("the operator is told of %v", v)
		}
		// It is asked all the same when it comes with what it should.
		h := w.raise("longbeach")
		q, err := h.asked()
		if err != nil {
			t.Fatal(err)
		}
		h.cosign(q)
		w.serveRun()
	})
}

// serveRun completes a run.
func (w *world) serveRun() {
	w.t.Helper()
	w.completed(w.start(plan(w.t, bare)))
}

// TestSilentWitness: a witness that does not answer is cut off, and delays nobody.
func TestSilentWitness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, none, "{quorum: 2, members: [budapest, cleveland, longbeach]}")
		w.serve()
		h := w.raise("longbeach")
		w.join("budapest")
		w.join("cleveland")
		w.serveRun()
		if _, err := h.asked(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := h.asked(); status.Code(err) != codes.Unavailable {
			t.Errorf("a witness that does not answer hears %v, want that its connection is gone", err)
		}
		if d := time.Since(began); d > time.Minute {
			t.Errorf("it was cut off after %v, want a minute at most", d)
		}
	})
}

// TestForeignLog: a witness keeps a checkpoint of another log of the federation. It is named, and does not count; where no quorum
// is left without it, the coordinator ends.
func TestForeignLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk, kek := storetest.New(), newSealer(t)
		key, err := ledger.OpenKey(t.Context(), disk, kek, "consilium.dev/four-hospitals")
		if err != nil {
			t.Fatal(err)
		}
		l, err := ledger.Open(t.Context(), ledger.Config{Objects: disk, Head: disk, Sealer: kek, Key: key})
		if err == nil {
			err = l.Append(t.Context(), []byte("a line"))
		}
		if err != nil {
			t.Fatal(err)
		}
		other := func(k *pb.CosignKept) { k.Checkpoint, k.Verifier = l.Checkpoint(), key.Verifier() }
		w := newWorld(t, none, "{quorum: 2, members: [budapest, cleveland, longbeach]}")
		council := w.serve()
		w.raise("longbeach", other)
		w.books["council"].await(t, "a witness refuses this log", "member", "longbeach")
		_, err = w.person("ada").Show(t.Context(), &pb.ShowRequest{Run: "x"})
		if !strings.Contains(status.Convert(err).Message(), "budapest, cleveland, longbeach (has seen another history)") {
			t.Errorf("a lead is told %v", err)
		}
		w.raise("cleveland", other)
		if err := council.wait(); err == nil || strings.Count(err.Error(), "keeps a checkpoint of another log") != 2 {
			t.Errorf("without a quorum left the coordinator ended with %v", err)
		}
		if all := w.facts(); len(all) != 0 {
			t.Errorf("%d lines were appended", len(all))
		}
	})
}

// TestNewestConnection: of two connections of one witness the newer counts, and the older is cut.
func TestNewestConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, none, "{quorum: 1, members: [longbeach]}")
		w.serve()
		first := w.raise("longbeach")
		q, err := first.asked()
		if err != nil {
			t.Fatal(err)
		}
		second := w.raise("longbeach", func(k *pb.CosignKept) { k.Checkpoint, k.Verifier = q.Checkpoint, q.Verifier })
		if _, err := first.asked(); status.Code(err) != codes.Unavailable {
			t.Errorf("the older connection hears %v, want that it is gone", err)
		}
		again, err := second.asked()
		if err != nil || !bytes.Equal(again.Checkpoint, q.Checkpoint) || again.Old == 0 || len(again.Proof) != 0 {
			t.Errorf("over the newer one is asked %v, %v, want the same, which it keeps already", again, err)
		}
	})
}
