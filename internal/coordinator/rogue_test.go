package coordinator_test

import (
	"context"
	"fmt"
	"math"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
)

// bare makes a plan without a round 0, whose updates have 14 values, and whose rounds two members close.
func bare(p *entry.Plan) {
	p.Standardize, p.Rounds, p.Quorum, p.Tries = nil, 1, 2, 1
	p.Members = []entry.Member{"budapest", "cleveland"}
}

const (
	bareLen  = 14
	bareSize = 4 * bareLen
	records  = 100 // that rogues declare
)

// court is a world in which the members are played by the test: each does what the test says over a real connection, and
// nothing else.
type court struct {
	*world
	budapest, cleveland, longbeach *peer
	runs                           int
}

func newCourt(t *testing.T, change ...func(*coordinator.Options)) *court {
	t.Helper()
	c := &court{world: newWorld(t)}
	c.serve(change...)
	c.budapest = c.connect(attest.Participant, "budapest")
	c.cleveland = c.connect(attest.Participant, "cleveland")
	c.longbeach = c.connect(attest.Participant, "longbeach")
	return c
}

// open starts a run in which budapest and cleveland take part, and returns it when its first round is open.
func (c *court) open(change ...func(*entry.Plan)) string {
	c.t.Helper()
	c.runs++
	run := c.start(plan(c.t, append([]func(*entry.Plan){bare, func(p *entry.Plan) { p.Name = fmt.Sprint("run ", c.runs) }}, change...)...))
	for _, p := range []*peer{c.budapest, c.cleveland} {
		if _, err := p.Consent(c.t.Context(), &pb.ConsentRequest{Run: run, Records: records}); err != nil {
			c.t.Fatal(err)
		}
	}
	c.books["council"].await(c.t, "round opened", "run", run)
	return run
}

// upload is an update on its way: what its header says and what its chunks are.
type upload struct {
	head   *pb.OfferHeader
	chunks []*pb.Chunk
	asked  bool // the coordinator has asked for the chunks
}

// sound returns an upload that has nothing wrong with it, for the first round of a run.
func sound(run string, values ...float32) *upload {
	if len(values) == 0 {
		values = make([]float32, bareLen)
		for i := range values {
			values[i] = float32(i) - 3.5
		}
	}
	u := &upload{head: &pb.OfferHeader{Run: run, Round: 1, Try: 1, Weight: records}}
	u.fill(values)
	return u
}

// fill makes the upload one of these values, in chunks.
func (u *upload) fill(values []float32) {
	salt := [32]byte{1, 2, 3}
	d := model.UpdateDigest(salt, values)
	u.head.Salt, u.head.Update, u.head.Size, u.chunks = salt[:], d[:], 4*int64(len(values)), nil
	for at := 0; at < len(values); {
		n := min(len(values)-at, codec.MaxChunk/4)
		text := make([]byte, 4*n)
		model.PutFloats(text, values[at:at+n])
		u.chunks = append(u.chunks, &pb.Chunk{Offset: 4 * int64(at), Size: uint32(4 * n), Data: text})
		at += n
	}
}

// with returns values of which one is v.
func with(v float64) []float32 {
	values := make([]float32, bareLen)
	values[7] = float32(v)
	return values
}

// send uploads u and returns what came of it.
func (p *peer) send(ctx context.Context, u *upload) (*pb.OfferReply, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.Offer(ctx)
	if err != nil {
		return nil, err
	}
	// Errors of sending are found out by receiving.
	_ = stream.Send(&pb.OfferRequest{Part: &pb.OfferRequest_Header{Header: u.head}})
	for {
		reply, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		switch reply.State {
		case pb.OfferReply_STATE_WAIT:
		case pb.OfferReply_STATE_SEND:
			u.asked = true
			for _, c := range u.chunks {
				_ = stream.Send(&pb.OfferRequest{Part: &pb.OfferRequest_Chunk{Chunk: c}})
			}
			_ = stream.CloseSend()
		default:
			return reply, nil
		}
	}
}

// accepted uploads u, which must be taken.
func (c *court) accepted(p *peer, u *upload) {
	c.t.Helper()
	reply, err := p.send(c.t.Context(), u)
	if err != nil || reply.State != pb.OfferReply_STATE_ACCEPTED {
		c.t.Fatalf("a sound update: %v, %v, want accepted", reply, err)
	}
}

// large returns values for the plan that wide makes: two chunks.
func large() []float32 {
	values := make([]float32, wideLen)
	for i := range values {
		values[i] = float32(math.Sin(float64(i)))
	}
	return values
}

const wideLen = codec.MaxChunk/4 + 20_000

// wide gives a plan a model of two chunks.
func wide(p *entry.Plan) {
	p.Trainer = trainer.Logistic
	p.Schema = fmt.Appendf(nil, `{"columns": [{"name": "gene", "use": "number", "count": %d}, {"name": "ill", "use": "label", "above": 0}]}`, wideLen-1)
}
