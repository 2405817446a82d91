package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/client"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/dialect"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// council is a coordinator that answers what its test says.
type council struct {
	pb.UnimplementedRunsServer
	pb.UnimplementedModelsServer
	pb.UnimplementedBlobsServer
	err    error
	stays  bool   // a watch does not end by itself
	stop   func() // after dial
	start  *pb.StartRequest
	views  []*pb.ShowReply
	model  *pb.ModelView
	chunks []*pb.Chunk
	fetch  func(*pb.FetchRequest, grpc.ServerStreamingServer[pb.Chunk]) error
}

func (c *council) Start(_ context.Context, q *pb.StartRequest) (*pb.StartReply, error) {
	c.start = q
	return &pb.StartReply{Run: "aa", Memory: 130 << 20}, c.err
}

func (c *council) List(context.Context, *pb.ListRequest) (*pb.ListReply, error) {
	r := &pb.ListReply{}
	for _, v := range c.views {
		r.Runs = append(r.Runs, v.Summary)
	}
	return r, c.err
}

func (c *council) Show(context.Context, *pb.ShowRequest) (*pb.ShowReply, error) {
	if c.err != nil {
		return nil, c.err
	}
	return c.views[0], nil
}

func (c *council) Watch(_ *pb.ShowRequest, s grpc.ServerStreamingServer[pb.ShowReply]) error {
	for _, v := range c.views {
		if err := s.Send(v); err != nil {
			return err
		}
	}
	if c.stays {
		<-s.Context().Done()
	}
	return c.err
}

func (c *council) ListModels(context.Context, *pb.ListModelsRequest) (*pb.ListModelsReply, error) {
	return &pb.ListModelsReply{Models: []*pb.ModelView{c.model}}, c.err
}

func (c *council) ShowModel(context.Context, *pb.ShowModelRequest) (*pb.ShowModelReply, error) {
	return &pb.ShowModelReply{Model: c.model}, c.err
}

func (c *council) Fetch(q *pb.FetchRequest, s grpc.ServerStreamingServer[pb.Chunk]) error {
	if c.fetch != nil {
		return c.fetch(q, s)
	}
	for _, x := range c.chunks {
		if err := s.Send(x); err != nil {
			return err
		}
	}
	return c.err
}

// dial returns a client of c.
func dial(t *testing.T, c *council) *client.Client {
	t.Helper()
	lis, server := bufconn.Listen(1<<16), grpc.NewServer(grpc.ChainStreamInterceptor(dialect.Own("test").Stream))
	pb.RegisterRunsServer(server, c)
	pb.RegisterModelsServer(server, c)
	pb.RegisterBlobsServer(server, c)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(lis) })
	conn, err := grpc.NewClient("passthrough:///council", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }),
		grpc.WithChainUnaryInterceptor(client.Answered), grpc.WithChainStreamInterceptor(client.Streamed))
	if err != nil {
		t.Fatal(err)
	}
	out := client.Through(conn)
	c.stop = sync.OnceFunc(func() {
		server.Stop()
		serving.Wait()
	})
	t.Cleanup(func() {
		_ = out.Close()
		c.stop()
	})
	return out
}

// view returns what a coordinator shows of a run.
func view(state string) *pb.ShowReply {
	return &pb.ShowReply{
		Summary: &pb.RunSummary{Run: "aa", Name: "hearts", Lead: "ada", State: state, Round: 1, Rounds: 2, CreatedUs: 1_000_000, SinceUs: 1_500_000},
		Plan:    []byte(`{"name": "hearts", "rounds": 2}`),
		Members: []*pb.MemberView{{
			Member: "north", State: "consented", Records: 9, SeenUs: 2_000_000, Connected: true, SinceUs: 1_000_000, Twice: true,
			Activity: &pb.Activity{Doing: "training", Run: "aa", Round: 1, SinceUs: 3_000_000, Steps: 2, Of: 7, ProgressUs: 4_000_000},
		}, {Member: "south", State: "invited"}},
		Rounds: []*pb.RoundView{{
			Round: 1, Try: 1, Kind: "training", State: "closed", Selected: []string{"north"}, Accepted: []string{"north"},
			Model: bytes.Repeat([]byte{7}, 32), OpenedUs: 3_000_000, ClosedUs: 4_000_000, DeadlineUs: 5_000_000, Received: 56, Bound: 1e-12,
			Metrics: []*pb.MemberMetrics{{Member: "north", Metrics: []*pb.Metric{{Set: "test", Name: "loss", Value: 0.5, Count: 4, Better: "min"}}}},
			Effects: []*pb.MemberEffect{{Member: "north", Effect: "clipped"}},
		}},
		Waiting: "waiting for south", Simulated: "demo", Rollback: "no rollback protection", Unwraps: "whoever reads it", NowUs: 6_000_000, Omitted: 3,
	}
}

func at(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }

// shown is view as a client returns it.
func shown(state string) client.Run {
	return client.Run{
		Summary: client.Summary{ID: "aa", Name: "hearts", Lead: "ada", State: state, Round: 1, Rounds: 2, Created: at(1), Since: at(1).Add(time.Second / 2)},
		Plan:    entry.Plan{Name: "hearts", Rounds: 2},
		Members: []client.Member{{
			Name: "north", State: "consented", Records: 9, Seen: at(2), Connected: true, Since: at(1), Twice: true,
			Activity: &client.Activity{Doing: "training", Run: "aa", Round: 1, Since: at(3), Steps: 2, Of: 7, Progress: at(4)},
		}, {Name: "south", State: "invited"}},
		History: []client.Round{{
			Round: 1, Try: 1, Kind: "training", State: "closed", Selected: []string{"north"}, Accepted: []string{"north"},
			Model: entry.Digest(bytes.Repeat([]byte{7}, 32)), Opened: at(3), Closed: at(4), Deadline: at(5), Received: 56, Bound: 1e-12,
			Figures: []client.Figures{{Member: "north", Metrics: []entry.Metric{{Set: "test", Name: "loss", Value: 0.5, Count: 4, Better: "min"}}}},
			Effects: []client.Effect{{Member: "north", Effect: "clipped"}},
		}},
		Waiting: "waiting for south", Simulated: "demo", Rollback: "no rollback protection", Unwraps: "whoever reads it", Now: at(6), Omitted: 3,
	}
}

func TestRuns(t *testing.T) {
	c := &council{views: []*pb.ShowReply{view("training"), view("completed")}}
	who := dial(t, c)
	run, err := who.Start(t.Context(), "request", entry.Plan{Name: "hearts", Rounds: 2})
	if want := (client.Started{Run: "aa", Memory: 130 << 20}); err != nil || run != want {
		t.Errorf("Start = %v, %v, want %v", run, err, want)
	}
	var sent entry.Plan
	if err := json.Unmarshal(c.start.Plan, &sent); err != nil || sent.Name != "hearts" || c.start.Request != "request" {
		t.Errorf("Start sent %v, want the plan and the request", c.start)
	}
	all, err := who.Runs(t.Context())
	if err != nil || len(all.Runs) != 2 || all.Runs[0].Ended() || !all.Runs[1].Ended() {
		t.Errorf("Runs = %v, %v, want one that goes on and one that has ended", all, err)
	}
	got, err := who.Run(t.Context(), "aa")
	if diff := cmp.Diff(shown("training"), got); diff != "" || err != nil {
		t.Errorf("Run: %v (-want +got):\n%s", err, diff)
	}
	var states []string
	for r, err := range who.Watch(t.Context(), "aa") {
		if err != nil {
			t.Errorf("Watch: %v", err)
		}
		states = append(states, r.State)
	}
	if diff := cmp.Diff([]string{"training", "completed"}, states); diff != "" {
		t.Errorf("Watch (-want +got):\n%s", diff)
	}
	for range who.Watch(t.Context(), "aa") {
		break // who has seen enough may leave
	}
}

func TestWatchBreaks(t *testing.T) {
	for name, c := range map[string]*council{
		"line":         {views: []*pb.ShowReply{view("training")}, err: status.Error(codes.Unavailable, "gone")},
		"not a plan":   {views: []*pb.ShowReply{view("training"), {Plan: []byte("{")}, view("completed")}},
		"not a stream": {err: status.Error(codes.NotFound, "no such run")},
	} {
		t.Run(name, func(t *testing.T) {
			var last error
			n := 0
			for _, err := range dial(t, c).Watch(t.Context(), "aa") {
				if last != nil {
					t.Error("something comes after the error")
				}
				last = err
				n++
			}
			if last == nil || n > 2 {
				t.Errorf("%d items, the last with %v, want an error at the end", n, last)
			}
		})
	}
}

// TestFaults gives each failure the kind that its caller decides on.
func TestFaults(t *testing.T) { synctest.Test(t, testFaults) }

func testFaults(t *testing.T) {
	kinds := []error{
		client.ErrUnreachable, client.ErrRefused, client.ErrDenied, client.ErrNotFound, client.ErrInvalid, client.ErrStale,
		context.Canceled, context.DeadlineExceeded,
	}
	for code, want := range map[codes.Code]error{
		codes.Unavailable: client.ErrUnreachable, codes.PermissionDenied: client.ErrDenied, codes.NotFound: client.ErrNotFound,
		codes.InvalidArgument: client.ErrInvalid, codes.FailedPrecondition: client.ErrInvalid, codes.Unauthenticated: client.ErrStale,
		codes.Canceled: context.Canceled, codes.DeadlineExceeded: context.DeadlineExceeded, codes.Internal: nil,
	} {
		who := dial(t, &council{err: status.Error(code, "as the test says")})
		calls := map[string]func() error{
			"Start":  func() error { _, err := who.Start(t.Context(), "r", entry.Plan{}); return err },
			"Runs":   func() error { _, err := who.Runs(t.Context()); return err },
			"Run":    func() error { _, err := who.Run(t.Context(), "aa"); return err },
			"Models": func() error { _, err := who.Models(t.Context()); return err },
			"Model":  func() error { _, err := who.Model(t.Context(), "aa"); return err },
			"Watch": func() (err error) {
				for _, err = range who.Watch(t.Context(), "aa") {
				}
				return err
			},
			"Export": func() error { return who.Export(t.Context(), client.Model{Size: 1}, &file{}) },
		}
		for name, call := range calls {
			err := call()
			if err == nil {
				t.Errorf("%s, %v: no error", name, code)
			}
			if got := errors.Is(err, client.ErrUnready); got != (code == codes.Unavailable) {
				t.Errorf("%s, %v: %q is the coordinator's own word: %v", name, code, err, got)
			}
			for _, kind := range kinds {
				if got := errors.Is(err, kind); got != (kind == want) {
					t.Errorf("%s, %v: %q is %q: %v", name, code, err, kind, got)
				}
			}
		}
	}
}

// TestWatchLost: a coordinator that vanishes in the middle of a stream is not one that answers that it cannot yet.
func TestWatchLost(t *testing.T) {
	c := &council{views: []*pb.ShowReply{view("training")}, stays: true}
	who := dial(t, c)
	var last error
	for _, err := range who.Watch(t.Context(), "aa") {
		if last = err; err == nil {
			c.stop()
		}
	}
	if !errors.Is(last, client.ErrUnreachable) || errors.Is(last, client.ErrUnready) {
		t.Errorf("Watch = %v, want ErrUnreachable and not ErrUnready", last)
	}
}

// TestRefused says who refused whom, and the class, where the attested channel did not come about.
func TestRefused(t *testing.T) {
	for byPeer, words := range map[bool]string{false: "we refused the coordinator", true: "the coordinator refused us"} {
		who := dial(t, &council{err: status.Error(codes.Unavailable, "handshake")})
		who.Refuse(transport.Refusal{Class: attest.ClassMeas, Err: errors.New("another measurement"), ByPeer: byPeer})
		_, err := who.Runs(t.Context())
		if !errors.Is(err, client.ErrRefused) || !strings.Contains(err.Error(), "MEAS") || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, want ErrRefused of class MEAS that says %q", err, words)
		}
	}
}

// TestCut: where the line broke in the middle of a handshake nobody was refused, unless somebody was before or after.
func TestCut(t *testing.T) {
	cut := transport.Refusal{Class: attest.ClassTLS, Err: attest.Refuse(attest.ClassTLS, "TLS handshake: %w", io.EOF), Cut: true}
	verdict := transport.Refusal{Class: attest.ClassMeas, Err: errors.New("another measurement")}
	for _, test := range []struct {
		name string
		told []transport.Refusal
		want error
	}{
		{"cut", []transport.Refusal{cut, cut}, client.ErrUnreachable},
		{"refused, then cut", []transport.Refusal{verdict, cut}, client.ErrRefused},
		{"cut, then refused", []transport.Refusal{cut, verdict}, client.ErrRefused},
	} {
		council := &council{}
		who := dial(t, council)
		council.stop()
		for _, r := range test.told {
			who.Refuse(r)
		}
		_, err := who.Runs(t.Context())
		for _, kind := range []error{client.ErrUnreachable, client.ErrRefused} {
			if got := errors.Is(err, kind); got != (kind == test.want) {
				t.Errorf("%s: %q is %q: %v", test.name, err, kind, got)
			}
		}
	}
}

// TestExport downloads a model, and refuses what is not it.
func TestExport(t *testing.T) {
	text := bytes.Repeat([]byte("weights "), 100)
	n := len(text)
	scheme, packed := (&codec.Encoder{}).Encode(nil, nil, text)
	if scheme != codec.Zstd {
		t.Fatal("the test's model does not compress")
	}
	m := client.Model{ID: sha256.Sum256(text), Size: int64(n)}
	half := &pb.Chunk{Size: 400, Data: text[:400]}
	tests := []struct {
		name   string
		chunks []*pb.Chunk
		says   string
	}{
		{"in one", []*pb.Chunk{{Size: uint32(n), Data: text}}, ""},
		{"packed", []*pb.Chunk{{Scheme: uint32(codec.Zstd), Size: uint32(n), Data: packed}}, ""},
		{"in two", []*pb.Chunk{half, {Offset: 400, Size: uint32(n - 400), Data: text[400:]}}, ""},
		{"other bytes", []*pb.Chunk{{Size: uint32(n), Data: bytes.ToUpper(text)}}, "what came has another digest"},
		{"nothing", nil, "what came has another digest"},
		{"half", []*pb.Chunk{half}, "what came has another digest"},
		{"half twice", []*pb.Chunk{half, half}, "does not continue the download at 400"},
		{"gap", []*pb.Chunk{half, {Offset: 404, Size: 4, Data: text[:4]}}, "does not continue the download at 400"},
		{"more", []*pb.Chunk{{Size: uint32(n) + 1, Data: append(bytes.Clone(text), 0)}}, "does not continue the download at 0"},
		{"other size", []*pb.Chunk{{Size: uint32(n), Data: text[1:]}}, "chunk at 0"},
		{"unknown scheme", []*pb.Chunk{{Scheme: 9, Size: uint32(n), Data: text}}, "chunk at 0"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			out := &file{}
			err := dial(t, &council{chunks: test.chunks}).Export(t.Context(), m, out)
			if test.says == "" && (err != nil || !bytes.Equal(out.text, text)) {
				t.Errorf("%v, and %d bytes, want the model", err, len(out.text))
			}
			if test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("%v, want an error that says %q", err, test.says)
			}
		})
	}
	full := dial(t, &council{chunks: []*pb.Chunk{{Size: uint32(n), Data: text}}}).Export(t.Context(), m, &broken{})
	if !errors.Is(full, errFull) {
		t.Errorf("writing to a full disk: %v, want its error", full)
	}
}

var errFull = errors.New("no room")

type broken struct{ file }

func (*broken) Write([]byte) (int, error) { return 0, errFull }

// file is a file in memory.
type file struct {
	text []byte
	at   int64
}

func (f *file) Read(p []byte) (int, error) {
	n := copy(p, f.text[f.at:])
	f.at += int64(n)
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (f *file) Write(p []byte) (int, error) {
	f.text = append(f.text[:f.at], p...)
	f.at += int64(len(p))
	return len(p), nil
}

func (f *file) Seek(offset int64, _ int) (int64, error) { // it is only ever sought to the start
	f.at = offset
	return offset, nil
}

func (f *file) Truncate(size int64) error {
	f.text = f.text[:size]
	return nil
}

func TestModels(t *testing.T) {
	id := entry.Digest(bytes.Repeat([]byte{3}, 32))
	c := &council{model: &pb.ModelView{
		Model: id[:], Run: "aa", RunName: "hearts", Round: 2, Base: []byte("no digest"), Size: 9, CreatedUs: 1_000_000, Members: []string{"north"},
		Strategy: "fedavg", Position: 12, Manifest: bytes.Repeat([]byte{4}, 32), Simulated: "demo", Rollback: "none", Tags: []string{"champion"},
		Measurements: []string{"snp"}, DroppedUs: 3_000_000, Params: []byte(`{"momentum":0.5}`), Masked: true, Staleness: []int32{2},
	}}
	want := client.Model{
		ID: id, Run: "aa", RunName: "hearts", Round: 2, Size: 9, Created: at(1), Members: []string{"north"}, Strategy: "fedavg", Position: 12,
		Manifest: entry.Digest(bytes.Repeat([]byte{4}, 32)), Simulated: "demo", Rollback: "none", Tags: []string{"champion"},
		Measurements: []string{"snp"}, Deleted: at(3), Params: map[string]any{"momentum": 0.5}, Masked: true, Late: []client.Late{{Member: "north", Rounds: 2}},
	}
	who := dial(t, c)
	got, err := who.Model(t.Context(), "champion")
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Model: %v (-want +got):\n%s", err, diff)
	}
	all, err := who.Models(t.Context())
	if diff := cmp.Diff([]client.Model{want}, all); diff != "" || err != nil {
		t.Errorf("Models: %v (-want +got):\n%s", err, diff)
	}
}

func TestOver(t *testing.T) {
	figure := func(set, name string, value float64, count int64) client.Figures {
		return client.Figures{Metrics: []entry.Metric{{Set: set, Name: name, Value: value, Count: count}}}
	}
	all := []client.Figures{figure("test", "accuracy", 0.5, 10), figure("test", "accuracy", 1, 30), figure("train", "accuracy", 0, 99), {}}
	if v, n := client.Over(all, "test", "accuracy"); v != 0.875 || n != 40 {
		t.Errorf("Over = %v over %d rows, want 0.875 over 40", v, n)
	}
	if v, n := client.Over(all, "test", "loss"); v != 0 || n != 0 {
		t.Errorf("Over of a figure that nobody has = %v over %d rows, want nothing", v, n)
	}
	if v, n := client.Over([]client.Figures{figure("test", "loss", 1, 0)}, "test", "loss"); v != 0 || n != 0 {
		t.Errorf("Over no rows = %v over %d rows, want nothing", v, n)
	}
}
