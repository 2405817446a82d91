package participant_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"consilium.dev/internal/codec"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/model"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/store/storetest"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
)

// council is a coordinator that does what its test says, over a connection without the attested channel.
type council struct {
	pb.UnimplementedRoundsServer
	pb.UnimplementedBlobsServer
	wanted   chan *pb.Wanted // to the follower; closing it ends Follow
	consents chan *pb.ConsentRequest
	reports  chan *pb.ReportRequest
	fetch    func(*pb.FetchRequest, grpc.ServerStreamingServer[pb.Chunk]) error
	query    func(*pb.QueryRequest) *pb.QueryReply
	offer    func(pb.Rounds_OfferServer) error
	masked   func(*pb.MaskRequest) error

	mu    sync.Mutex // guards what follows
	heard []byte     // all that was sent to it, as it lay on the line
}

// overhears keeps what a call brings.
func (c *council) overhears(m any) {
	text, err := proto.Marshal(m.(proto.Message))
	if err != nil {
		panic(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = append(c.heard, text...)
}

// overheard is a stream whose messages are kept.
type overheard struct {
	grpc.ServerStream
	c *council
}

func (s overheard) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.c.overhears(m)
	}
	return err
}

func (c *council) Follow(_ *pb.FollowRequest, s grpc.ServerStreamingServer[pb.Wanted]) error {
	for {
		select {
		case w, ok := <-c.wanted:
			if !ok {
				return status.Error(codes.Unavailable, "the test is over")
			}
			if err := s.Send(w); err != nil {
				return err
			}
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

func (c *council) Consent(_ context.Context, q *pb.ConsentRequest) (*pb.ConsentReply, error) {
	c.consents <- q
	return &pb.ConsentReply{}, nil
}

func (c *council) Report(_ context.Context, q *pb.ReportRequest) (*pb.ReportReply, error) {
	c.reports <- q
	return &pb.ReportReply{}, nil
}

func (c *council) Query(_ context.Context, q *pb.QueryRequest) (*pb.QueryReply, error) {
	return c.query(q), nil
}

func (c *council) Mask(_ context.Context, q *pb.MaskRequest) (*pb.MaskReply, error) {
	return &pb.MaskReply{}, c.masked(q)
}

func (c *council) Offer(s pb.Rounds_OfferServer) error { return c.offer(s) }

func (c *council) Fetch(q *pb.FetchRequest, s grpc.ServerStreamingServer[pb.Chunk]) error {
	return c.fetch(q, s)
}

// member is a participant with its disk, its log, and a council that it follows.
type member struct {
	*council
	t     *testing.T
	disk  *storetest.Memory
	book  *book
	data  participant.Data
	ended time.Time // of the last session, once end has returned
	conn  *grpc.ClientConn
	rules participant.Policy

	manifest *manifest.Manifest // nil for none
	identity ed25519.PrivateKey
}

func newMember(t *testing.T) *member {
	t.Helper()
	folder := filepath.Join("..", "..", "examples", "hospitals", "data", "cleveland")
	m := &member{
		t: t, disk: storetest.New(), book: &book{}, rules: owners(), data: participant.Data{Records: folder + ".data", Split: folder + ".split.csv"},
		council: &council{wanted: make(chan *pb.Wanted), consents: make(chan *pb.ConsentRequest, 9), reports: make(chan *pb.ReportRequest, 9)},
	}
	lis, server := bufconn.Listen(1<<16), grpc.NewServer(grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(func(ctx context.Context, q any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			m.overhears(q)
			return handle(ctx, q)
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			return handle(srv, overheard{s, m.council})
		}))
	pb.RegisterRoundsServer(server, m.council)
	pb.RegisterBlobsServer(server, m.council)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(lis) })
	conn, err := grpc.NewClient("passthrough:///council", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	m.conn = conn
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	return m
}

// process returns a new process, as it were.
func (m *member) process() *participant.Participant {
	return participant.Bare(participant.Options{
		Name: "cleveland", Coordinator: "council", Objects: m.disk, KEK: newSealer(m.t, 1), Data: m.data,
		Policy: m.rules, Manifest: m.manifest, Identity: m.identity,
		Log: zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), m.book, zap.DebugLevel)),
	})
}

// follow runs a session in a new process. The function that it returns ends the session and returns its error.
func (m *member) follow() (end func() error) {
	m.t.Helper()
	p := m.process()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := p.Over(ctx, m.conn)
		m.ended = time.Now()
		done <- err
	}()
	var once sync.Once
	var err error
	end = func() error {
		once.Do(func() {
			cancel()
			err = <-done
			synctest.Wait() // the council has noticed
		})
		return err
	}
	m.t.Cleanup(func() { _ = end() })
	return end
}

// owners is what the owner of the data allows.
func owners() participant.Policy {
	return participant.Policy{
		Leads: []string{"ada"}, Strategies: []string{"fedavg"}, Trainers: []string{trainer.Logistic}, LeastParticipants: 2,
	}
}

// agree has the follower consent to a run, and forgets what it logged.
func (m *member) agree(run string, plan []byte) {
	m.t.Helper()
	m.wants(&pb.Wanted{Invitations: []*pb.Invitation{{Run: run, Lead: "ada", Plan: plan}}})
	if q := <-m.consents; q.Run != run || q.Records != 199 || q.Declined != "" {
		m.t.Fatalf("answer to the invitation: %v, want 199 records", q)
	}
	m.book.take()
}

// wants tells the follower what is wanted and waits until it has done what it can.
func (m *member) wants(w *pb.Wanted) {
	m.wanted <- w
	synctest.Wait()
}

// book is what was logged.
type book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) Sync() error { return nil }

// take returns what was logged since it was last called.
func (b *book) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := b.text.String()
	b.text.Reset()
	return text
}

const run = "00112233445566ff"

func plan(t testing.TB, change ...func(*entry.Plan)) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", "hospitals", "plan.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := trainer.ParsePlan(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(&p)
	}
	out, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// unscaled leaves out the statistics round.
func unscaled(p *entry.Plan) { p.Standardize = nil }

// statistics asks for an update that needs no base model.
func statistics(t testing.TB) *pb.Train {
	return &pb.Train{Run: run, Lead: "ada", Try: 1, Kind: "statistics", Weight: 199, Plan: plan(t)}
}

// base returns a model of the unscaled plan, and its file.
func base(t testing.TB) (*model.Model, []byte) {
	t.Helper()
	var p entry.Plan
	if err := json.Unmarshal(plan(t, unscaled), &p); err != nil {
		t.Fatal(err)
	}
	m, err := trainer.Initial(p, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return m, fileOf(t, m)
}

func fileOf(t testing.TB, m *model.Model) []byte {
	t.Helper()
	var text bytes.Buffer
	if err := m.Write(&text); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

// evaluation asks for the figures of a model.
func evaluation(t testing.TB, m *model.Model) *pb.Evaluate {
	d := m.Digest()
	return &pb.Evaluate{Run: run, Lead: "ada", Round: 1, Model: d[:], Size: m.Size(), Plan: plan(t, unscaled)}
}

// TestNonsense asks for what makes no sense, or is not allowed. The participant says so, touches no file for it, and goes on.
func TestNonsense(t *testing.T) {
	train := map[string]func(*pb.Train){
		"run that is a path":      func(q *pb.Train) { q.Run = "../../etc/pass" },
		"run that is a long name": func(q *pb.Train) { q.Run = strings.Repeat("ab", 200) },
		"run that is no id":       func(q *pb.Train) { q.Run = "0011223344556" },
		"no run":                  func(q *pb.Train) { q.Run = "" },
		"negative round":          func(q *pb.Train) { q.Round = -1 },
		"short model":             func(q *pb.Train) { q.Model = make([]byte, 7) },
		"short accepted":          func(q *pb.Train) { q.Accepted = make([]byte, 5) },
		"long accepted":           func(q *pb.Train) { q.Accepted = make([]byte, 33) },
		"lost accepted":           func(q *pb.Train) { q.Accepted = make([]byte, 32) },
		"other weight":            func(q *pb.Train) { q.Weight = 200 },
		"no plan":                 func(q *pb.Train) { q.Plan = nil },
		"unknown field":           func(q *pb.Train) { q.Plan = []byte(`{"evil": 1}`) },
		"long plan":               func(q *pb.Train) { q.Plan = make([]byte, 256<<10+1) },
		"other lead":              func(q *pb.Train) { q.Lead = "ben" },
		"no statistics asked":     func(q *pb.Train) { q.Run, q.Plan = "1122334455667788", plan(t, unscaled) },
		"another plan":            func(q *pb.Train) { q.Plan = plan(t, func(p *entry.Plan) { p.Seed++ }) },
		"no base":                 func(q *pb.Train) { q.Kind, q.Round = "training", 1 },
	}
	synctest.Test(t, func(t *testing.T) {
		m := newMember(t)
		m.follow()
		m.agree(run, plan(t))
		m.agree("1122334455667788", plan(t, unscaled))
		var tried []string
		for name, spoil := range train {
			q := statistics(t)
			q.Try += int32(len(tried)) // what was refused once is not looked at again in the same session
			tried = append(tried, name)
			spoil(q)
			m.wants(&pb.Wanted{Train: []*pb.Train{q}, Progress: []*pb.Progress{{Run: run, Closed: -1}, {Run: q.Run, Closed: -1}}})
			if text := m.book.take(); !strings.Contains(text, "out of this round") {
				t.Errorf("%s: the log says %q, want that it is out of this round", name, text)
			}
			for object, err := range m.disk.List(t.Context(), "") {
				if object != "consent/"+run && object != "consent/1122334455667788" {
					t.Errorf("%s: object %s is there, %v", name, object, err)
				}
			}
		}
		m.wants(&pb.Wanted{Invitations: []*pb.Invitation{{Run: "ffffffffffffffff", Lead: "ada", Plan: plan(t)}}})
		if q := <-m.consents; q.Records != 199 || q.Declined != "" {
			t.Errorf("consent after nonsense: %v, want 199 records", q)
		}
	})
}

// TestInvitations answers invitations: with the number of records, or with the rule that declines.
func TestInvitations(t *testing.T) {
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	folder := filepath.Join("..", "..", "examples", "hospitals", "data")
	good := participant.Data{Records: filepath.Join(folder, "cleveland.data"), Split: filepath.Join(folder, "cleveland.split.csv")}
	row := "63,1,1,145,233,1,2,150,0,2.3,3,0,6,0\n"
	tests := []struct {
		name     string
		data     participant.Data
		lead     string
		plan     []byte
		records  int64
		declined string
		says     string // in the owner's log
	}{
		{name: "good", data: good, lead: "ada", plan: plan(t), records: 199, says: "consented"},
		{name: "other lead", data: good, lead: "ben", plan: plan(t), declined: `leads: "ben" is not on the owner's list`, says: "declined"},
		{name: "no plan", data: good, lead: "ada", plan: []byte("{"), declined: "plan: unexpected EOF", says: "declined"},
		{
			name: "a word where a number belongs", lead: "ada", plan: plan(t),
			data:     participant.Data{Records: write("r.csv", row+strings.Replace(row, "145", "secret", 1)), Split: write("s.csv", "line,set\n1,train\n2,train\n")},
			declined: "data: the records do not fit the plan's schema", says: "r.csv: line 2: column 4 (trestbps)",
		},
		{
			name: "a column is missing", lead: "ada", plan: plan(t),
			data:     participant.Data{Records: write("r.csv", strings.Replace(row, ",6,0", ",0", 1)), Split: write("s.csv", "line,set\n1,train\n")},
			declined: "data: the records do not fit the plan's schema", says: "r.csv: line 1",
		},
		{
			name: "no file", lead: "ada", plan: plan(t), data: participant.Data{Records: "none.csv", Split: good.Split},
			declined: "data: the records do not fit the plan's schema", says: "none.csv",
		},
		{
			name: "nothing to train on", lead: "ada", plan: plan(t),
			data:     participant.Data{Records: write("r.csv", row), Split: write("s.csv", "line,set\n1,test\n")},
			declined: "data: no record to train on is left", says: "declined",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMember(t)
				m.data = test.data
				m.follow()
				m.wants(&pb.Wanted{Invitations: []*pb.Invitation{{Run: run, Lead: test.lead, Plan: test.plan}}})
				q := <-m.consents
				if q.Run != run || q.Records != test.records || q.Declined != test.declined {
					t.Errorf("answer %v, want %d records, declined %q", q, test.records, test.declined)
				}
				text := m.book.take()
				if !strings.Contains(text, test.says) {
					t.Errorf("the owner's log says %s, want %q", text, test.says)
				}
				if strings.Contains(text, "secret") {
					t.Errorf("the owner's log holds what stands in the records: %s", text)
				}
			})
		})
	}
}

// serve returns a Fetch that sends these chunks and then err.
func serve(err error, chunks ...*pb.Chunk) func(*pb.FetchRequest, grpc.ServerStreamingServer[pb.Chunk]) error {
	return func(_ *pb.FetchRequest, s grpc.ServerStreamingServer[pb.Chunk]) error {
		for _, c := range chunks {
			if err := s.Send(c); err != nil {
				return err
			}
		}
		return err
	}
}

// TestDownloads evaluates models that do not come as they were announced. What the coordinator is wrong about is left out, what
// the line did ends the session; a model that is not the announced one is never computed with.
func TestDownloads(t *testing.T) {
	m, file := base(t)
	n := len(file)
	changed := &model.Model{Layout: m.Layout, Params: slices.Clone(m.Params)}
	changed.Params[0] = 1
	alien := &model.Model{Layout: model.Layout{{Name: "w", Shape: []int{3}}}, Params: make([]float32, 3)}
	whole := &pb.Chunk{Size: uint32(n), Data: file}
	at := func(offset int64) *pb.Chunk { return &pb.Chunk{Offset: offset, Size: uint32(n), Data: file} }
	tests := []struct {
		name  string
		spoil func(*pb.Evaluate)
		fetch func(*pb.FetchRequest, grpc.ServerStreamingServer[pb.Chunk]) error
		ends  bool // the session
		says  string
	}{
		{name: "good", fetch: serve(nil, whole)},
		{name: "good, in two", fetch: serve(nil, &pb.Chunk{Size: 8, Data: file[:8]}, &pb.Chunk{Offset: 8, Size: uint32(n - 8), Data: file[8:]})},
		{name: "another model", fetch: serve(nil, &pb.Chunk{Size: uint32(n), Data: fileOf(t, changed)}), says: "the model that came is not"},
		{
			name: "model of another plan", spoil: func(e *pb.Evaluate) { *e = *evaluation(t, alien) },
			fetch: serve(nil, &pb.Chunk{Size: uint32(alien.Size()), Data: fileOf(t, alien)}), says: "has not the layout",
		},
		{name: "no digest", spoil: func(e *pb.Evaluate) { e.Model = nil }, says: "cannot be this run's"},
		{name: "short digest", spoil: func(e *pb.Evaluate) { e.Model = e.Model[:31] }, says: "cannot be this run's"},
		{name: "no size", spoil: func(e *pb.Evaluate) { e.Size = 0 }, says: "cannot be this run's"},
		{name: "enormous size", spoil: func(e *pb.Evaluate) { e.Size = 1 << 40 }, says: "cannot be this run's"},
		{name: "lead that is not allowed", spoil: func(e *pb.Evaluate) { e.Lead = "ben" }, says: "for another lead"},
		{name: "negative round", spoil: func(e *pb.Evaluate) { e.Round = -1 }, says: "the plan has no round -1"},
		{name: "round beyond the plan", spoil: func(e *pb.Evaluate) { e.Round = 51 }, says: "the plan has no round 51"},
		{name: "run without a consent", spoil: func(e *pb.Evaluate) { e.Run = "ffffffffffffffff" }, says: "no consent to it on its disk"},
		{name: "chunk ahead", fetch: serve(nil, at(4)), ends: true, says: "does not continue the download at 0"},
		{name: "chunk twice", fetch: serve(nil, &pb.Chunk{Size: 8, Data: file[:8]}, &pb.Chunk{Size: 8, Data: file[:8]}), ends: true, says: "does not continue the download at 8"},
		{name: "empty chunk", fetch: serve(nil, &pb.Chunk{}), ends: true, says: "does not continue the download at 0"},
		{name: "chunk beyond the size", fetch: serve(nil, &pb.Chunk{Size: uint32(n) + 1, Data: append(slices.Clone(file), 0)}), ends: true, says: "does not continue"},
		{name: "unknown scheme", fetch: serve(nil, &pb.Chunk{Scheme: 7, Size: uint32(n), Data: file}), ends: true, says: "scheme 7 is unknown"},
		{name: "bomb", fetch: serve(nil, &pb.Chunk{Scheme: 1, Size: codec.MaxChunk, Data: bomb()}), ends: true, says: "does not continue the download at 0"},
		{name: "cut short", fetch: serve(nil, &pb.Chunk{Size: 8, Data: file[:8]}), ends: true, says: "unexpected EOF"},
		{name: "no access", fetch: serve(status.Error(codes.PermissionDenied, "not yours")), ends: true, says: "not yours"},
		{name: "broken line", fetch: serve(status.Error(codes.Unavailable, "gone"), &pb.Chunk{Size: 8, Data: file[:8]}), ends: true, says: "gone"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				who := newMember(t)
				who.fetch = test.fetch
				end := who.follow()
				who.agree(run, plan(t, unscaled))
				e := evaluation(t, m)
				if test.spoil != nil {
					test.spoil(e)
				}
				who.wants(&pb.Wanted{Evaluate: []*pb.Evaluate{e}})
				text := who.book.take()
				switch got := len(who.reports); {
				case test.says == "" && got != 1:
					t.Fatalf("%d reports, want one; the log says %s", got, text)
				case test.says != "" && got != 0:
					t.Errorf("figures were reported: %v", <-who.reports)
				case test.ends:
					if err := end(); err == nil || !strings.Contains(err.Error(), test.says) || participant.IsBroken(err) {
						t.Errorf("the session ended with %v, want that it says %q", err, test.says)
					}
				case test.says != "" && !(strings.Contains(text, "not evaluated") && strings.Contains(text, test.says)):
					t.Errorf("the log says %s, want not evaluated and %q", text, test.says)
				}
			})
		})
	}
}

// bomb returns a zstd frame of zeros that declares its size.
func bomb() []byte {
	scheme, out := (&codec.Encoder{}).Encode(nil, nil, make([]byte, codec.MaxChunk))
	if scheme != codec.Zstd {
		panic("zeros do not compress")
	}
	return out
}

// TestStands has a download stand still while the coordinator lives, and a coordinator fall silent. Both end the session after
// a minute, and neither is taken for a broken disk.
func TestStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, file := base(t)
		who := newMember(t)
		who.fetch = func(_ *pb.FetchRequest, s grpc.ServerStreamingServer[pb.Chunk]) error {
			for at := range 3 { // slow, but alive
				time.Sleep(50 * time.Second)
				if err := s.Send(&pb.Chunk{Offset: int64(8 * at), Size: 8, Data: file[8*at:][:8]}); err != nil {
					return err
				}
			}
			<-s.Context().Done()
			return s.Context().Err()
		}
		end := who.follow()
		who.agree(run, plan(t, unscaled))
		began := time.Now()
		w := &pb.Wanted{Evaluate: []*pb.Evaluate{evaluation(t, m)}}
		go func() {
			for time.Since(began) < 4*time.Minute { // heartbeats
				select {
				case who.wanted <- w:
				case <-time.After(time.Second):
				}
				time.Sleep(15 * time.Second)
			}
		}()
		time.Sleep(5 * time.Minute)
		if err := end(); err == nil || !strings.Contains(err.Error(), "the download has stood still for 1m0s") || participant.IsBroken(err) {
			t.Errorf("the session ended with %v, want that the download stood still", err)
		}
		if lived := who.ended.Sub(began); lived != 3*50*time.Second+time.Minute {
			t.Errorf("the session ended after %v, want a minute after the last of three chunks, each of which came within 50s", lived)
		}

		end = who.follow()
		who.wants(&pb.Wanted{})
		time.Sleep(61 * time.Second)
		if err := end(); err == nil || !strings.Contains(err.Error(), "the coordinator has been silent for 1m0s") || participant.IsBroken(err) {
			t.Errorf("the session ended with %v, want that the coordinator was silent", err)
		}
	})
}

// receive takes an upload whole and returns its header and values.
func receive(t testing.TB, s pb.Rounds_OfferServer) (*pb.OfferHeader, []float32) {
	q, err := s.Recv()
	if err != nil {
		t.Error(err)
		return nil, nil
	}
	h := q.GetHeader()
	if err := errors.Join(s.Send(&pb.OfferReply{State: pb.OfferReply_STATE_WAIT}), s.Send(&pb.OfferReply{State: pb.OfferReply_STATE_SEND})); err != nil {
		t.Error(err)
	}
	var text []byte
	for {
		q, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Error(err)
			return nil, nil
		}
		c := q.GetChunk()
		if text, err = codec.Decode(text, codec.Scheme(c.Scheme), c.Data, int(c.Size)); err != nil || c.Offset != int64(len(text))-int64(c.Size) {
			t.Errorf("chunk at %d: %v", c.Offset, err)
		}
	}
	values := make([]float32, len(text)/4)
	model.Floats(values, text)
	return h, values
}

// TestOffersAgain loses the answer to an upload, and the process with it. The next one offers the same bytes without training
// again, until the round is closed; then nothing is kept any more.
func TestOffersAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMember(t)
		var asked []string
		m.query = func(q *pb.QueryRequest) *pb.QueryReply {
			asked = append(asked, hex.EncodeToString(q.Update))
			return &pb.QueryReply{State: pb.QueryReply_STATE_SEND}
		}
		var headers []*pb.OfferHeader
		answer := status.Error(codes.Unavailable, "the answer is lost")
		m.offer = func(s pb.Rounds_OfferServer) error {
			h, values := receive(t, s)
			headers = append(headers, h)
			if d := model.UpdateDigest([32]byte(h.Salt), values); !bytes.Equal(d[:], h.Update) || h.Size != 4*int64(len(values)) || h.Weight != 199 {
				t.Errorf("the header %v does not fit what came", h)
			}
			if answer != nil {
				return answer
			}
			return s.Send(&pb.OfferReply{State: pb.OfferReply_STATE_ACCEPTED})
		}
		progress := []*pb.Progress{{Run: run, Closed: -1}}
		want := &pb.Wanted{Train: []*pb.Train{statistics(t)}, Progress: progress}
		end := m.follow()
		m.agree(run, plan(t))
		m.wants(want)
		if err := end(); err == nil || !strings.Contains(err.Error(), "the answer is lost") {
			t.Fatalf("the session ended with %v, want the lost answer", err)
		}
		if text := m.book.take(); strings.Count(text, `"training"`) != 1 {
			t.Errorf("the log says %s, want that it trained once", text)
		}
		answer = nil
		m.follow()
		m.wants(want)
		if text := m.book.take(); strings.Contains(text, `"training"`) || !strings.Contains(text, "offering the kept update again") || !strings.Contains(text, "update accepted") {
			t.Errorf("the log says %s, want that the kept update was offered again and accepted", text)
		}
		if len(asked) != 2 || asked[0] != asked[1] || !bytes.Equal(headers[0].Salt, headers[1].Salt) {
			t.Errorf("asked for %q, want twice the same", asked)
		}
		// A coordinator that has lost it in a crash asks for what it had accepted, and takes no other.
		lost := statistics(t)
		lost.Accepted = headers[0].Update
		m.wants(&pb.Wanted{Train: []*pb.Train{lost}, Progress: progress})
		if len(headers) != 3 || !bytes.Equal(headers[2].Update, headers[0].Update) {
			t.Errorf("%d uploads, want a third of the same bytes", len(headers))
		}
		other := statistics(t)
		other.Accepted = bytes.Repeat([]byte{9}, 32)
		m.wants(&pb.Wanted{Train: []*pb.Train{other}, Progress: progress})
		if text := m.book.take(); len(headers) != 3 || !strings.Contains(text, "another update was accepted than the one that is kept here") {
			t.Errorf("%d uploads, and the log says %s, want no fourth", len(headers), text)
		}
		m.wants(&pb.Wanted{Progress: []*pb.Progress{{Run: run, Closed: 0}}})
		for name := range m.disk.List(t.Context(), "kept/") {
			t.Errorf("object %s is kept though its round is closed", name)
		}
	})
}

// TestAnswers has a coordinator answer without taking the bytes.
func TestAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		reply *pb.QueryReply
		level string
		says  string
	}{
		"held":    {&pb.QueryReply{State: pb.QueryReply_STATE_HELD}, "info", "update accepted"},
		"closed":  {&pb.QueryReply{State: pb.QueryReply_STATE_CLOSED}, "info", `"reason":"closed"`},
		"refused": {&pb.QueryReply{State: pb.QueryReply_STATE_REFUSED, Reason: "second"}, "warn", `"reason":"second"`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMember(t)
				m.query = func(*pb.QueryRequest) *pb.QueryReply { return test.reply }
				m.offer = func(pb.Rounds_OfferServer) error {
					t.Error("the update was sent")
					return nil
				}
				m.follow()
				m.agree(run, plan(t))
				m.wants(&pb.Wanted{Train: []*pb.Train{statistics(t)}, Progress: []*pb.Progress{{Run: run, Closed: -1}}})
				if text := m.book.take(); !levelOf(text, test.level, test.says) {
					t.Errorf("the log says %s, want %q at %s", text, test.says, test.level)
				}
			})
		})
	}
}

// levelOf reports whether a log has a line of that level with a text in it.
func levelOf(log, level, text string) bool {
	for line := range strings.Lines(log) {
		if strings.Contains(line, text) && strings.Contains(line, `"level":"`+level+`"`) {
			return true
		}
	}
	return false
}

// TestNotWanted stops a training that would take for ever when it is not wanted any more, and does what is wanted instead.
func TestNotWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, file := base(t)
		who := newMember(t)
		begun := make(chan bool, 1)
		who.fetch = func(_ *pb.FetchRequest, s grpc.ServerStreamingServer[pb.Chunk]) error {
			begun <- true
			return s.Send(&pb.Chunk{Size: uint32(len(file)), Data: file})
		}
		who.follow()
		d := m.Digest()
		endless := plan(t, unscaled, func(p *entry.Plan) { p.Local.Steps, p.Local.LearningRate = 1<<20, 1e-30 })
		who.agree(run, endless)
		who.wanted <- &pb.Wanted{Progress: []*pb.Progress{{Run: run}}, Train: []*pb.Train{{
			Run: run, Lead: "ada", Round: 1, Try: 1, Kind: "training", Weight: 199, Model: d[:], BaseSize: m.Size(), Plan: endless,
		}}}
		<-begun
		who.wanted <- &pb.Wanted{Invitations: []*pb.Invitation{{Run: "ffffffffffffffff", Lead: "ada", Plan: plan(t)}}}
		if q := <-who.consents; q.Records != 199 {
			t.Errorf("consent after a stopped training: %v, want 199 records", q)
		}
		if text := who.book.take(); !strings.Contains(text, "stopped, not wanted any more") {
			t.Errorf("the log says %s, want that training was stopped", text)
		}
	})
}

// TestBrokenDisk ends the session with an error that says that the own disk is broken: waiting would not help.
func TestBrokenDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMember(t)
		end := m.follow()
		m.agree(run, plan(t))
		m.disk.FailFrom(1, storetest.Before)
		m.wants(&pb.Wanted{Train: []*pb.Train{statistics(t)}, Progress: []*pb.Progress{{Run: run, Closed: -1}}})
		if err := end(); !participant.IsBroken(err) || !errors.Is(err, storetest.ErrFault) {
			t.Errorf("the session ended with %v, want the disk's fault", err)
		}
	})
}
