// Package client is what a person's program needs of a coordinator: typed calls over the attested channel. A client
// verifies the coordinator's evidence in full against the manifest before it says anything, and proves with a signature by
// the person's key who calls.
package client

import (
	"context"
	"crypto"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/dialect"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/socket"
	"consilium.dev/internal/transport"
	"consilium.dev/internal/tunnel"
	pb "consilium.dev/proto/consilium/v1"
)

// The kinds of failure that a caller decides on. Errors of a Client wrap one of them.
var (
	ErrUnreachable = errors.New("coordinator not reached")
	ErrRefused     = errors.New("refused by the attested channel")
	ErrDenied      = errors.New("not allowed")
	ErrNotFound    = errors.New("not found")
	ErrInvalid     = errors.New("not accepted")
	ErrVersion     = errors.New("the programs' versions are too far apart")
	ErrStale       = errors.New("the connection's appraisal has ended") // dial again
	// ErrUnready is of a coordinator that was reached, and cannot answer yet: it says why, its witnesses are not all there, for example.
	// It is an ErrUnreachable: asking again later may do.
	ErrUnready error = unready{}
	// One of both was at an older epoch, and may have adopted the other's manifest: dial again, under what Config.Newer has got.
	ErrNewer = errors.New("the coordinator is at another epoch of the manifest")
)

type unready struct{} // an ErrUnreachable with words of its own

func (unready) Error() string { return "the coordinator cannot answer yet" }
func (unready) Unwrap() error { return ErrUnreachable }

// Config says who calls whom. All fields but Dial, Speech, Now, Newer, Chain and Past are required.
type Config struct {
	Person      string // in the manifest
	Key         crypto.Signer
	Manifest    *manifest.Manifest
	Coordinator string                                                      // its name in the manifest
	Address     string                                                      // host:port or vsock:CID:PORT
	Dial        func(ctx context.Context, address string) (net.Conn, error) // nil: straight there
	Verifiers   []attest.Verifier
	Speech      dialect.Speech   // of its calls; zero: what this version of the package speaks
	Now         func() time.Time // nil: the clock
	// Newer, Chain and Past are as in transport.Config: what happens where the coordinator is at another epoch.
	Newer func(peerEpoch uint64, envelopes [][]byte) error
	Chain func(from uint64) [][]byte
	Past  func(epoch uint64) attest.Policy
}

// Client calls one coordinator. It is safe for concurrent use.
type Client struct {
	conn    *grpc.ClientConn
	runs    pb.RunsClient
	models  pb.ModelsClient
	blobs   pb.BlobsClient
	refused atomic.Pointer[transport.Refusal]
	adopted atomic.Bool                  // a newer manifest
	way     atomic.Pointer[tunnel.Error] // why the proxy does not lead to the coordinator; nil if it does
}

// Dial prepares a client. Connecting happens with the first call, so an absent coordinator is that call's error.
func Dial(c Config) (*Client, error) {
	if err := socket.Check(c.Address); err != nil {
		return nil, fmt.Errorf("coordinator's address %w", err)
	}
	out := &Client{}
	if c.Speech == (dialect.Speech{}) {
		c.Speech = dialect.Own("")
	}
	m := c.Manifest
	creds, err := transport.Client(transport.Config{
		Office: attest.Person, Name: c.Person, PeerOffice: attest.Coordinator, PeerName: c.Coordinator,
		Federation: m.Federation(), Epoch: m.Epoch(), Manifest: m.Digest(), RequirePQ: m.PQ(attest.Coordinator),
		Identity: c.Key, Verifiers: c.Verifiers, Policy: m, Now: c.Now,
		Refused: out.refuse,
		Newer:   out.newer(c.Newer), Chain: c.Chain, Past: c.Past,
	})
	if err != nil {
		return nil, err
	}
	// The dialler gets the address as it is configured: a name is looked up again for each connection. Whoever made the
	// configuration has looked at the environment.
	options := append(c.Speech.Caller(), grpc.WithContextDialer(out.reach(c.Dial)), grpc.WithNoProxy(),
		grpc.WithTransportCredentials(creds), grpc.WithChainUnaryInterceptor(answered), grpc.WithChainStreamInterceptor(streamed),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(pb.Codec()), grpc.MaxCallRecvMsgSize(4<<20), grpc.MaxCallSendMsgSize(4<<20)),
	)
	options = append(options, transport.DialOptions()...)
	if c.Dial != nil {
		options = append(options, grpc.WithConnectParams(slowly))
	}
	out.conn, err = grpc.NewClient("passthrough:///"+c.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("coordinator's address %q: %w", c.Address, err)
	}
	out.runs, out.models, out.blobs = pb.NewRunsClient(out.conn), pb.NewModelsClient(out.conn), pb.NewBlobsClient(out.conn)
	return out, nil
}

// slowly is how a coordinator is dialled to whom a proxy may have to find its way first.
var slowly = grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: tunnel.Patience + 20*time.Second}

// reach dials by dial, and remembers what a proxy has against it.
func (c *Client) reach(dial func(context.Context, string) (net.Conn, error)) func(context.Context, string) (net.Conn, error) {
	if dial == nil {
		dial = socket.Dial
	}
	return func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := dial(ctx, address)
		var way *tunnel.Error
		errors.As(err, &way)
		c.way.Store(way)
		return conn, err
	}
}

// newer notes that adopt has adopted something.
func (c *Client) newer(adopt func(uint64, [][]byte) error) func(uint64, [][]byte) error {
	if adopt == nil {
		return nil
	}
	return func(epoch uint64, envelopes [][]byte) error {
		err := adopt(epoch, envelopes)
		if err == nil {
			c.adopted.Store(true)
		}
		return err
	}
}

// refuse remembers why a handshake failed.
func (c *Client) refuse(r transport.Refusal) {
	if way := (*tunnel.Error)(nil); errors.As(r.Err, &way) { // the proxy has hung up, and nobody has refused anybody
		c.way.Store(way)
		return
	}
	if r.Cut { // says nothing of who is there, where a verdict of before does
		c.refused.CompareAndSwap(nil, &r)
		return
	}
	c.refused.Store(&r)
}

// Close hangs up.
func (c *Client) Close() error { return c.conn.Close() }

// Status asks the coordinator how it is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	r, err := pb.NewFederationClient(c.conn).Status(ctx, &pb.StatusRequest{})
	if status.Code(err) == codes.Unimplemented {
		return Status{}, fmt.Errorf("asking the coordinator how it is: %w: its version does not say", ErrVersion)
	}
	if err != nil {
		return Status{}, c.fault("asking the coordinator how it is", err)
	}
	if len(r.Manifest) != len(entry.Digest{}) {
		return Status{}, fmt.Errorf("asking the coordinator how it is: a digest of %d bytes", len(r.Manifest))
	}
	return Status{
		Coordinator: r.Coordinator, Version: r.Version, Epoch: r.Epoch, Manifest: entry.Digest(r.Manifest), Simulated: r.Simulated,
		Now: instant(r.NowUs), QuotesWaiting: int(r.QuotesWaiting), QuotesOldest: entry.Duration(time.Duration(r.QuotesOldestUs) * time.Microsecond), Collateral: r.Collateral,
	}, nil
}

// Started is a run that was created.
type Started struct {
	Run    string // its id
	Memory int64  // bytes that the coordinator needs with it in all; 0 where it does not say, or was asked before
}

// Start creates a run. The same request again returns the same run, so a call whose answer was lost may be repeated.
func (c *Client) Start(ctx context.Context, request string, plan entry.Plan) (Started, error) {
	text, err := json.Marshal(plan)
	if err != nil {
		return Started{}, fmt.Errorf("encoding the plan: %w", err)
	}
	r, err := c.runs.Start(ctx, &pb.StartRequest{Request: request, Plan: text})
	if err != nil {
		return Started{}, c.fault("starting the run", err)
	}
	return Started{r.Run, r.Memory}, nil
}

// Runs returns all runs, newest first.
func (c *Client) Runs(ctx context.Context) (List, error) {
	r, err := c.runs.List(ctx, &pb.ListRequest{})
	if err != nil {
		return List{}, c.fault("listing runs", err)
	}
	out := List{Runs: []Summary{}, Now: instant(r.NowUs)}
	for _, s := range r.Runs {
		out.Runs = append(out.Runs, summary(s))
	}
	return out, nil
}

// Run returns one run, named by its id, a unique prefix of it, or its name.
func (c *Client) Run(ctx context.Context, name string) (Run, error) {
	r, err := c.runs.Show(ctx, &pb.ShowRequest{Run: name})
	if err != nil {
		return Run{}, c.fault("asking for run "+name, err)
	}
	return run(r)
}

// Cancel ends the run that is named as for Run, for all its members, and returns its id. The reason is written down. It may be
// repeated.
func (c *Client) Cancel(ctx context.Context, name, reason string) (string, error) {
	r, err := c.runs.Cancel(ctx, &pb.CancelRequest{Run: name, Reason: reason})
	if err != nil {
		return "", c.fault("cancelling run "+name, err)
	}
	return r.Run, nil
}

// silence is how long a watched coordinator may say nothing, though it does so every 15 s, before it counts as gone.
const silence = 45 * time.Second

// Watch yields a run whenever it changes, and ends after the run has ended. Its error is the last thing that it yields:
// ErrUnreachable also for a coordinator that has said nothing for 45 s, whose link may be dead without being closed.
func (c *Client) Watch(ctx context.Context, name string) iter.Seq2[Run, error] {
	return func(yield func(Run, error) bool) {
		outer := ctx
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		quiet := time.AfterFunc(silence, cancel)
		defer quiet.Stop()
		stream, err := c.runs.Watch(ctx, &pb.ShowRequest{Run: name})
		for err == nil {
			var r *pb.ShowReply
			if r, err = stream.Recv(); errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				break
			}
			quiet.Reset(silence)
			v, err := run(r)
			if !yield(v, err) || err != nil {
				return
			}
		}
		if outer.Err() == nil && ctx.Err() != nil {
			yield(Run{}, fmt.Errorf("watching run %s: %w: it has said nothing for %s", name, ErrUnreachable, silence))
			return
		}
		yield(Run{}, c.fault("watching run "+name, err))
	}
}

// Models returns the model versions, newest first.
func (c *Client) Models(ctx context.Context) ([]Model, error) {
	r, err := c.models.ListModels(ctx, &pb.ListModelsRequest{})
	if err != nil {
		return nil, c.fault("listing models", err)
	}
	out := []Model{}
	for _, m := range r.Models {
		out = append(out, version(m))
	}
	return out, nil
}

// Model returns one model version, named by its id, a unique prefix of it, or a tag.
func (c *Client) Model(ctx context.Context, name string) (Model, error) {
	r, err := c.models.ShowModel(ctx, &pb.ShowModelRequest{Model: name})
	if err != nil {
		return Model{}, c.fault("asking for model "+name, err)
	}
	return version(r.Model), nil
}

// download yields what the chunks of a stream hold, which must follow each other from at on, to most at the most. What it yields is
// good until the next. An error is the last thing that it yields, and says what was being done.
func (c *Client) download(stream grpc.ServerStreamingClient[pb.Chunk], doing string, at, most int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var buf []byte
		for {
			chunk, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return
			case err != nil:
				err = c.fault(doing, err)
			case chunk.Offset != at || chunk.Size == 0 || chunk.Size > codec.MaxChunk || at+int64(chunk.Size) > most:
				err = fmt.Errorf("%s: chunk does not continue the download at %d", doing, at)
			default:
				if buf, err = codec.Decode(buf[:0], codec.Scheme(chunk.Scheme), chunk.Data, int(chunk.Size)); err != nil {
					err = fmt.Errorf("%s: chunk at %d: %w", doing, at, err)
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if at += int64(chunk.Size); !yield(buf, nil) {
				return
			}
		}
	}
}

// fault words what went wrong with a call and makes it one of the kinds.
func (c *Client) fault(doing string, err error) error {
	s := status.Convert(err)
	kind := map[codes.Code]error{
		codes.Unavailable: ErrUnreachable, codes.NotFound: ErrNotFound, codes.PermissionDenied: ErrDenied,
		codes.InvalidArgument: ErrInvalid, codes.FailedPrecondition: ErrInvalid, codes.Unauthenticated: ErrStale,
	}[s.Code()]
	r, way := c.refused.Load(), c.way.Load()
	var noTLS tls.RecordHeaderError
	if r != nil && r.Cut && errors.As(err, &answer{}) { // it was reached since
		r = nil
	}
	switch {
	case errors.Is(err, dialect.ErrForeign):
		return fmt.Errorf("%s: %w: %s", doing, ErrVersion, s.Message())
	case c.adopted.Load() && s.Code() == codes.Unavailable:
		return fmt.Errorf("%s: %w", doing, ErrNewer)
	case way != nil && s.Code() == codes.Unavailable:
		return fmt.Errorf("%s: %w: %w", doing, ErrUnreachable, way)
	case r != nil && r.Sent:
		return fmt.Errorf("%s: %w, an older one, and was sent ours", doing, ErrNewer)
	case r == nil || s.Code() != codes.Unavailable:
	case !r.ByPeer && r.Class == attest.ClassRate: // our own patience has ended: that says nothing of who is there
		return fmt.Errorf("%s: %w: it has not answered in time", doing, ErrUnreachable)
	case r.Cut:
		return fmt.Errorf("%s: %w: the line broke before either side had judged the other: %w", doing, ErrUnreachable, r.Err)
	case errors.As(r.Err, &noTLS):
		return fmt.Errorf("%s: %w: what answers at that address is no coordinator", doing, ErrUnreachable)
	default:
		by := "we refused the coordinator"
		if r.ByPeer {
			by = "the coordinator refused us"
		}
		return fmt.Errorf("%s: %w, class %s: %s: %w", doing, ErrRefused, r.Class, by, r.Err)
	}
	switch {
	case errors.Is(err, context.Canceled), s.Code() == codes.Canceled:
		return fmt.Errorf("%s: %w", doing, context.Canceled)
	case errors.Is(err, context.DeadlineExceeded), s.Code() == codes.DeadlineExceeded:
		return fmt.Errorf("%s: %w", doing, context.DeadlineExceeded)
	case kind == ErrNotFound:
		return fmt.Errorf("%s: %w", doing, kind)
	case kind == ErrUnreachable && errors.As(err, &answer{}):
		return fmt.Errorf("%s: %w: %s", doing, ErrUnready, plain(s.Message()))
	case kind != nil:
		return fmt.Errorf("%s: %w: %s", doing, kind, plain(s.Message()))
	}
	return fmt.Errorf("%s: %s", doing, plain(s.Message()))
}

// answer is an error that the coordinator itself sent, and not what gRPC makes of a connection that is not there.
type answer struct{ error }

func (a answer) Unwrap() error              { return a.error }
func (a answer) GRPCStatus() *status.Status { return status.Convert(a.error) }

// answered makes an answer of the error of a call of one message each way, if anything came back: metadata does with every answer.
func answered(ctx context.Context, method string, q, r any, conn *grpc.ClientConn, call grpc.UnaryInvoker, options ...grpc.CallOption) error {
	var header, trailer metadata.MD
	err := call(ctx, method, q, r, conn, append(slices.Clip(options), grpc.Header(&header), grpc.Trailer(&trailer))...)
	if err != nil && len(header)+len(trailer) > 0 {
		return answer{err}
	}
	return err
}

// streamed makes an answer of the error that a stream ends with, if the coordinator has ended it: that one's trailer says so. What comes at a
// stream's beginning, its header and messages, comes also of a coordinator that is gone soon after.
func streamed(ctx context.Context, d *grpc.StreamDesc, conn *grpc.ClientConn, method string, next grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := next(ctx, d, conn, method, options...)
	if err != nil {
		return nil, err
	}
	return &answering{s}, nil
}

// answering is a stream whose errors are streamed's.
type answering struct{ grpc.ClientStream }

func (a *answering) RecvMsg(m any) error {
	err := a.ClientStream.RecvMsg(m)
	if err != nil && !errors.Is(err, io.EOF) && len(a.Trailer()) > 0 {
		return answer{err}
	}
	return err
}

// plain undoes the wrapping that gRPC gives to an error of the dialler.
func plain(message string) string {
	_, inner, found := strings.Cut(message, "transport: Error while dialing: ")
	if !found {
		return message
	}
	inner, _, _ = strings.Cut(inner, `"`)
	return inner
}
