package transport_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"consilium.dev/internal/transport"
)

// desk is a gRPC service that tells a caller who he is, once or for each message of a stream, and counts its calls.
type desk struct {
	calls atomic.Int64
	mu    sync.Mutex
	seen  []transport.Peer
}

// who returns the caller's office and name, as the channel says.
func (d *desk) who(ctx context.Context) *wrapperspb.StringValue {
	d.calls.Add(1)
	p, ok := transport.FromContext(ctx)
	if !ok {
		return wrapperspb.String("nobody")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen = append(d.seen, p)
	return wrapperspb.String(p.Office.String() + "/" + p.Name)
}

func (d *desk) peers() []transport.Peer {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]transport.Peer(nil), d.seen...)
}

func who(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	if err := decode(new(wrapperspb.StringValue)); err != nil {
		return nil, err
	}
	return srv.(*desk).who(ctx), nil
}

func echo(srv any, s grpc.ServerStream) error {
	name := srv.(*desk).who(s.Context()).Value
	for {
		var in wrapperspb.StringValue
		if err := s.RecvMsg(&in); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := s.SendMsg(wrapperspb.String(name + " says " + in.Value)); err != nil {
			return err
		}
	}
}

var deskService = grpc.ServiceDesc{
	ServiceName: "consilium.test.Desk",
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Who", Handler: who}},
	Streams:     []grpc.StreamDesc{{StreamName: "Echo", Handler: echo, ServerStreams: true, ClientStreams: true}},
}

// ask calls Who.
func ask(ctx context.Context, conn *grpc.ClientConn, opts ...grpc.CallOption) (string, error) {
	var out wrapperspb.StringValue
	err := conn.Invoke(ctx, "/consilium.test.Desk/Who", wrapperspb.String(""), &out, opts...)
	return out.Value, err
}

// pipes is a listener whose connections are net.Pipes, so that it works in a synctest bubble.
type pipes struct {
	incoming chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func newPipes() *pipes { return &pipes{incoming: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.incoming:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return pipeAddr{} }

func (p *pipes) dial(ctx context.Context, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.incoming <- far:
		return near, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// serve runs a desk over a listener; close ends it.
func serve(server *transport.Credentials, lis net.Listener) (d *desk, closing func()) {
	d = &desk{}
	s := grpc.NewServer(grpc.Creds(server))
	s.RegisterService(&deskService, d)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(lis) // ends with Stop
	}()
	return d, func() {
		s.Stop()
		<-done
		_ = server.Close()
	}
}

// connect returns a gRPC connection to a pipes listener.
func connect(t testing.TB, client *transport.Credentials, p *pipes) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///council", grpc.WithTransportCredentials(client), grpc.WithContextDialer(p.dial),
		grpc.WithIdleTimeout(0)) // gRPC itself hangs up after half an hour without calls
	if err != nil {
		t.Fatal(err)
	}
	return conn
}
