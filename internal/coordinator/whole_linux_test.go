package coordinator_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/model"
	"consilium.dev/internal/store/dir"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// BenchmarkRound takes whole rounds, by turns with the same bytes over TLS 1.3 alone: of a model that all participants have, each sends its update,
// the mean is made, sealed and committed, and all fetch what it has become. Both ends of everything are on this machine, over the loopback;
// whoever takes part has been attested before. A participant digests its update anew each round and checks the digest of what it fetched, and
// does nothing else: it neither trains nor keeps anything. of-tls is the median of the turns' ratios of time, cpu-of-tls of what both took of
// the processors, which hangs less on what else they do.
func BenchmarkRound(b *testing.B) {
	for _, c := range []struct{ participants, values int }{{4, 25_000_000}, {16, 2_500_000}} {
		b.Run(fmt.Sprintf("participants=%d", c.participants), func(b *testing.B) {
			w, alone := newWhole(b, c.participants, c.values), newAlone(b, c.participants, 4*int64(c.values))
			w.round() // what is made once
			alone()
			var times, processors, seconds []float64
			b.SetBytes(2 * 4 * int64(c.participants) * int64(c.values))
			for b.Loop() {
				for range 5 {
					plain, plainCPU := spent(b, alone)
					whole, wholeCPU := spent(b, w.round)
					times, processors = append(times, whole/plain), append(processors, wholeCPU/plainCPU)
					seconds = append(seconds, wholeCPU)
				}
			}
			b.ReportMetric(median(times), "of-tls")
			b.ReportMetric(median(processors), "cpu-of-tls")
			b.ReportMetric(median(seconds), "cpu-s/round")
		})
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// spent returns how many seconds f takes, and how many of the processors.
func spent(b *testing.B, f func()) (seconds, processors float64) {
	b.Helper()
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before, began := used(), time.Now()
	f()
	return time.Since(began).Seconds(), (used() - before).Seconds()
}

// whole is a coordinator and its participants, who wait for each other before each round.
type whole struct {
	b       *testing.B
	values  []float32     // of everybody's update
	begin   chan struct{} // one for each who may send its update
	fetched chan error    // one for each who has fetched the model that came of it
	members int
	now     func() time.Time
}

// newWhole starts all of them, and a run of a model of n values, which everybody has fetched when it returns.
func newWhole(b *testing.B, members, n int) *whole {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var programs errgroup.Group
	b.Cleanup(func() {
		cancel()
		if err := programs.Wait(); err != nil {
			b.Error(err)
		}
	})
	realm := aRealm(b)
	names, federation := crowded(b, realm, members)
	disk, err := dir.Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { disk.Close() })
	began := time.Now()
	w := &whole{
		b: b, values: normal(n, 0.001), begin: make(chan struct{}), fetched: make(chan error), members: members,
		now: func() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Since(began)) }, // when the root of the realm is valid
	}
	council, err := coordinator.New(coordinator.Options{
		Name: "council", Manifest: federation, Identity: keyOf("coordinator/council"), Attester: realm.council.Attester(w.now),
		Verifiers: realm.verifiers, Objects: disk, Head: disk, KEK: newSealer(b), Log: zap.NewNop(), Version: "test", Now: w.now,
	})
	if err != nil {
		b.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	until := func(name string, run func() error) { // it ends, by its own fault or not
		programs.Go(func() error {
			err := run()
			if ctx.Err() != nil {
				return nil
			}
			select {
			case w.fetched <- fmt.Errorf("%s has ended: %w", name, err):
			case <-ctx.Done():
			}
			return nil
		})
	}
	until("the coordinator", func() error { return council.Run(ctx, lis) })
	for _, name := range names {
		until(name, func() error { return w.participate(ctx, name, federation, lis.Addr().String()) })
	}
	w.await() // everybody follows
	p := plan(b, func(p *entry.Plan) {
		p.Rounds, p.Quorum, p.Standardize, p.MaxAbs = 200, members, nil, 1
	})
	m := &model.Model{Layout: model.Layout{{Name: "all", Shape: []int{n}}}, Params: normal(n, 0.02)}
	if _, err := council.StartOf(ctx, "ada", p, m); err != nil {
		b.Fatal(err)
	}
	w.await()
	return w
}

func normal(n int, deviation float64) []float32 {
	chance := mathrand.New(mathrand.NewPCG(1, 2))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(max(-1, min(deviation*chance.NormFloat64(), 1)))
	}
	return v
}

// round is one round of everybody.
func (w *whole) round() {
	w.b.Helper()
	for range w.members {
		w.begin <- struct{}{}
	}
	w.await()
}

func (w *whole) await() {
	w.b.Helper()
	for range w.members {
		if err := <-w.fetched; err != nil {
			w.b.Fatal(err)
		}
	}
}

// participate is a participant that speaks with the coordinator and trains nothing.
func (w *whole) participate(ctx context.Context, name string, m *manifest.Manifest, address string) error {
	r := aRealm(w.b)
	creds, err := transport.Client(transport.Config{
		Office: attest.Participant, Name: name, PeerOffice: attest.Coordinator, PeerName: "council", Federation: m.Federation(),
		Epoch: m.Epoch(), Manifest: m.Digest(), Identity: keyOf("participant/" + name), Attester: r.machine(name).Attester(w.now),
		Verifiers: r.judges, Policy: m, Now: w.now,
	})
	if err != nil {
		return err
	}
	defer creds.Close()
	conn, err := grpc.NewClient("passthrough:///"+address, append(transport.DialOptions(), grpc.WithTransportCredentials(creds), grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.ForceCodecV2(pb.Codec())))...)
	if err != nil {
		return err
	}
	defer conn.Close()
	p := &player{whole: w, rounds: pb.NewRoundsClient(conn), blobs: pb.NewBlobsClient(conn)}
	follow, err := p.rounds.Follow(ctx, &pb.FollowRequest{Version: "test", Clock: w.now().UnixMicro()})
	if err != nil {
		return err
	}
	for heard := false; ; heard = true {
		wanted, err := follow.Recv()
		if err != nil {
			return err
		}
		if !heard {
			w.fetched <- nil
		}
		if err := p.do(ctx, wanted); err != nil {
			return err
		}
	}
}

// player is what a participant has.
type player struct {
	*whole
	rounds    pb.RoundsClient
	blobs     pb.BlobsClient
	consented bool
	last      int32  // round of the model that was fetched last
	base      []byte // the digest of that model
	text      []byte // its safetensors
	buf       []byte
}

func (p *player) do(ctx context.Context, wanted *pb.Wanted) error {
	for _, i := range wanted.Invitations {
		if p.consented {
			continue
		}
		p.consented = true
		if _, err := p.rounds.Consent(ctx, &pb.ConsentRequest{Run: i.Run, Records: 100}); err != nil {
			return err
		}
	}
	for _, t := range wanted.Train {
		if t.Round == p.last {
			continue
		}
		p.last = t.Round
		err := p.fetch(ctx, t)
		if err == nil {
			p.fetched <- nil
			select {
			case <-p.begin:
				err = p.offer(ctx, t)
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fetch takes in a model as its difference to the one before, and checks its digest.
func (p *player) fetch(ctx context.Context, t *pb.Train) error {
	stream, err := p.blobs.Fetch(ctx, &pb.FetchRequest{Model: t.Model, Base: p.base, Schemes: uint32(codec.All)})
	if err != nil {
		return err
	}
	if p.text == nil {
		p.text = make([]byte, t.BaseSize)
	}
	h, at, c := sha256.New(), int64(0), &pb.Chunk{}
	for {
		err := stream.RecvMsg(c)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if p.buf, err = codec.Decode(p.buf[:0], codec.Scheme(c.Scheme), c.Data, int(c.Size)); err != nil {
			return err
		}
		part := p.text[at:][:len(p.buf)]
		if c.OnBase {
			subtle.XORBytes(part, part, p.buf)
		} else {
			copy(part, p.buf)
		}
		h.Write(part)
		at += int64(len(part))
	}
	if at != t.BaseSize || !bytes.Equal(h.Sum(nil), t.Model) {
		return fmt.Errorf("a model of %d bytes came, want %x of %d", at, t.Model, t.BaseSize)
	}
	p.base = t.Model
	return nil
}

// offer sends the update.
func (p *player) offer(ctx context.Context, t *pb.Train) error {
	var salt [32]byte
	rand.Read(salt[:]) //nolint:errcheck // never fails
	d := model.UpdateDigest(salt, p.values)
	stream, err := p.rounds.Offer(ctx)
	if err != nil {
		return err
	}
	head := &pb.OfferHeader{
		Run: t.Run, Round: t.Round, Try: t.Try, Update: d[:], Salt: salt[:], Weight: t.Weight, Size: 4 * int64(len(p.values)), Resumes: true,
	}
	if err := stream.Send(&pb.OfferRequest{Part: &pb.OfferRequest_Header{Header: head}}); err != nil {
		return err
	}
	reply, err := stream.Recv()
	if err != nil || reply.State != pb.OfferReply_STATE_SEND {
		return fmt.Errorf("answer to the offer: %v, %w", reply, err)
	}
	encoder, buf := codec.Encoder{Reads: codec.Schemes(reply.Schemes)}, make([]byte, codec.Piece)
	for at := 0; at < len(p.values); {
		n := min(len(p.values)-at, codec.Piece/4)
		model.PutFloats(buf, p.values[at:at+n])
		scheme, data := encoder.Encode(time.Now, make([]byte, 0, 4*n), buf[:4*n])
		c := &pb.Chunk{Offset: 4 * int64(at), Scheme: uint32(scheme), Size: uint32(4 * n), Data: data}
		if err := stream.Send(&pb.OfferRequest{Part: &pb.OfferRequest_Chunk{Chunk: c}}); err != nil {
			return err
		}
		at += n
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if reply, err = stream.Recv(); err != nil || reply.State != pb.OfferReply_STATE_ACCEPTED {
		return fmt.Errorf("answer to the update: %v, %w", reply, err)
	}
	return nil
}

// newAlone returns what moves size bytes to one end of each of so many streams of TLS 1.3 at the same time, and as many back.
func newAlone(b *testing.B, streams int, size int64) func() {
	b.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, public, private)
	if err != nil {
		b.Fatal(err)
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}}}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer lis.Close()
	var near, far []*tls.Conn
	for range streams {
		from, err := net.Dial("tcp", lis.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		to, err := lis.Accept()
		if err != nil {
			b.Fatal(err)
		}
		near, far = append(near, tls.Client(from, cfg)), append(far, tls.Server(to, cfg))
		b.Cleanup(func() { from.Close(); to.Close() })
	}
	text := make([]byte, codec.Piece)
	send := func(from, to []*tls.Conn) {
		var g errgroup.Group
		for i := range streams {
			g.Go(func() error {
				for left := size; left > 0; left -= int64(len(text)) {
					if _, err := from[i].Write(text[:min(left, int64(len(text)))]); err != nil {
						return err
					}
				}
				return nil
			})
			g.Go(func() error {
				_, err := io.CopyN(io.Discard, to[i], size)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	return func() {
		send(near, far)
		send(far, near)
	}
}
