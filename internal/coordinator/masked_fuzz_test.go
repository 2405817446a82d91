package coordinator_test

import (
	"crypto/ed25519"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/mask"
	"consilium.dev/internal/round"
	pb "consilium.dev/proto/consilium/v1"
)

// FuzzMask: whatever a member says of masks, in whichever stage, is taken or refused by a reason that it is told, and what it had said before
// counts on; what others have said is not touched, and what comes of it all is masks that come off or do not.
func FuzzMask(f *testing.F) {
	try, among := mask.Try{Run: "run", Round: 1, Try: 1}, []entry.Member{"budapest", "cleveland", "longbeach"}
	chance := rand.NewChaCha8([32]byte{7})
	keys := map[entry.Member]*mask.Keys{}
	said := map[entry.Member][]*pb.MaskRequest{}
	handed := map[entry.Member][]*pb.ShownShare{}
	for _, m := range among {
		k, err := mask.NewKeys(chance)
		if err != nil {
			f.Fatal(err)
		}
		keys[m] = k
	}
	for _, m := range among {
		signature := ed25519.Sign(keyOf("participant/"+string(m)), mask.Announcement(try, string(m), keys[m].Public()))
		shares, err := keys[m].Split(2, 3, chance)
		if err != nil {
			f.Fatal(err)
		}
		q := &pb.MaskRequest{}
		for i, to := range among {
			handed[to] = append(handed[to], &pb.ShownShare{Member: string(m), Share: shares[i].Self[:]})
			if to == m {
				continue
			}
			sealed, err := keys[m].Seal(try, string(m), string(to), keys[to].Public(), shares[i], chance)
			if err != nil {
				f.Fatal(err)
			}
			q.Shares = append(q.Shares, &pb.SealedShare{Member: string(to), Sealed: sealed})
		}
		said[m] = []*pb.MaskRequest{{Keys: &pb.MaskKeys{Keys: keys[m].Public().Bytes(), Signature: signature}}, q}
	}
	for _, m := range among {
		said[m] = append(said[m], &pb.MaskRequest{Shown: handed[m]})
	}
	for stage, q := range said["cleveland"] {
		text, err := proto.Marshal(q)
		if err != nil {
			f.Fatal(err)
		}
		for at := range 4 {
			f.Add(byte(at), text)
		}
		f.Add(byte(stage), text[:len(text)-3])
	}
	identity := func(name string) (ed25519.PublicKey, bool) {
		if !slices.Contains(among, entry.Member(name)) {
			return nil, false
		}
		return keyOf("participant/" + name).Public().(ed25519.PublicKey), true
	}
	f.Fuzz(func(t *testing.T, at byte, text []byte) {
		v := coordinator.NewVeil(try, identity)
		says := func(m entry.Member, q *pb.MaskRequest) {
			if err := v.Take(m, q); err != nil && status.Code(err) != codes.InvalidArgument && !errors.Is(err, round.ErrClosed) {
				t.Fatalf("%s is refused with %v", m, err)
			}
		}
		hostile := &pb.MaskRequest{}
		if proto.Unmarshal(text, hostile) != nil {
			return // it does not get so far
		}
		for stage := range 3 {
			for _, m := range among {
				if stage == int(at)%4 && m == "cleveland" {
					says("cleveland", hostile)
					says("switzerland", hostile)
				}
				if err := v.Take(m, said[m][stage]); err != nil && m != "cleveland" {
					t.Fatalf("%s is refused with %v", m, err)
				}
			}
			if stage == 0 {
				announced, _, _ := v.Said()
				if !slices.Equal(announced, among) {
					t.Fatalf("%v have announced keys, want %v", announced, among)
				}
				if err := v.Fix(among, 2); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, shared, shown := v.Said()
		if !slices.Equal(shared, among) || !slices.Equal(shown, among) {
			t.Fatalf("%v have shared and %v have shown, want %v", shared, shown, among)
		}
		var in []entry.Contribution
		for _, m := range among {
			in = append(in, entry.Contribution{Member: m})
		}
		// One of three may have shown what is wrong: two are enough.
		if terms, err := v.Terms(in); err != nil || len(terms) != 3 {
			t.Fatalf("%d terms, %v, want the three self masks", len(terms), err)
		}
	})
}
