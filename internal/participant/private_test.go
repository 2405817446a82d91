package participant_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/codec"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/round"
	pb "consilium.dev/proto/consilium/v1"
)

// The encoder makes a channel when it is first used, which no bubble may then own: all of them use it.
var _, _ = new(codec.Encoder).Encode(nil, nil, make([]byte, codec.Piece))

// TestNothingBesideNoise: under privacy an update has as many bytes on the wire as any other, however well it would compress, and nobody is told how
// many steps a training takes: neither has noise.
func TestNothingBesideNoise(t *testing.T) {
	for _, unit := range []string{"", entry.Participant, entry.Record} {
		t.Run("unit "+unit, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLibrary(t)
				l.rules.LeastRecords = 2
				p := plan(t, wide, func(p *entry.Plan) {
					p.Quorum = round.LeastPrivate
					switch unit {
					case entry.Participant:
						p.Privacy = &entry.Privacy{Unit: unit, ClipNorm: 1, NoiseMultiplier: 1, Delta: 1e-5}
					case entry.Record:
						p.Privacy = &entry.Privacy{Unit: unit, ClipNorm: 1, NoiseMultiplier: 1, Delta: 1e-5, ExpectedRecords: 100}
						p.MaxAbs, p.Local = 100, entry.Local{Steps: 1}
					}
				})
				l.e.Plan = p
				records := int64(2)
				if unit != "" {
					records = 1
				}
				end := l.follow()
				l.wants(&pb.Wanted{Invitations: []*pb.Invitation{{Run: run, Lead: "ada", Plan: p}}})
				if q := <-l.consents; q.Records != records || q.Declined != "" {
					t.Fatalf("answer to the invitation: %v, want %d records", q, records)
				}
				l.query = func(*pb.QueryRequest) *pb.QueryReply { return &pb.QueryReply{State: pb.QueryReply_STATE_SEND} }
				var size, wire int64
				l.offer = func(s pb.Rounds_OfferServer) error {
					q, err := s.Recv()
					if err != nil {
						return err
					}
					size = q.GetHeader().Size
					if err := s.Send(&pb.OfferReply{State: pb.OfferReply_STATE_SEND, Schemes: uint32(codec.All)}); err != nil {
						return err
					}
					for got := int64(0); got < size; {
						q, err := s.Recv()
						if err != nil {
							return err
						}
						got, wire = got+int64(q.GetChunk().Size), wire+int64(len(q.GetChunk().Data))
					}
					return s.Send(&pb.OfferReply{State: pb.OfferReply_STATE_ACCEPTED})
				}
				l.wants(&pb.Wanted{Train: []*pb.Train{{
					Run: run, Lead: "ada", Round: 1, Try: 1, Kind: "training", Weight: records, Model: l.e.Model, BaseSize: l.e.Size, Plan: p,
				}}})
				_ = end()
				if size != 4*(genes+1) || (wire == size) != (unit != "") {
					t.Errorf("an update of %d bytes had %d on the wire, want all of %d with privacy, and fewer without", size, wire, 4*(genes+1))
				}
				var plan entry.Plan
				if err := json.Unmarshal(p, &plan); err != nil {
					t.Fatal(err)
				}
				if done, of := participant.StepsTold(plan, records, 7); (done == 7 && of > 0) != (unit == "") || (done == 0 && of == 0) != (unit != "") {
					t.Errorf("%d of %d steps are told, want 7 without privacy, and nothing with it", done, of)
				}
			})
		})
	}
}
