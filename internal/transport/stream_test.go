package transport_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// chunkLen is how much of a model or an update goes into one message, as codec.Piece.
const chunkLen = 128 << 10

// batch is how many messages go one way before an answer comes back.
const batch = 512

// BenchmarkStream moves bytes one way over one stream of the loopback, by turns as messages of gRPC over the channel, and over TLS 1.3
// alone, as crypto/tls has it, in writes of as many bytes. Both ends are on this machine. of-tls is the median of the turns' ratios.
func BenchmarkStream(b *testing.B) {
	alone, over := overTLS(b), overChannel(b)
	var ratios []float64
	b.SetBytes(2 * batch * chunkLen)
	for b.Loop() {
		began := time.Now()
		alone()
		between := time.Now()
		over()
		ratios = append(ratios, float64(between.Sub(began))/float64(time.Since(between)))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "of-tls")
}

// overTLS returns what moves a batch over TLS alone.
func overTLS(b *testing.B) func() {
	b.Helper()
	lis := listen(b)
	near, far := tcpPair(b, lis)
	lis.Close()
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{selfSigned(b)}}
	from, to := tls.Client(far, cfg), tls.Server(near, cfg)
	read := make(chan error)
	go func() {
		defer close(read)
		for err := error(nil); err == nil; {
			_, err = io.CopyN(io.Discard, to, batch*chunkLen)
			read <- err
		}
	}()
	b.Cleanup(func() {
		far.Close()
		for range read {
		}
		near.Close()
	})
	text := make([]byte, chunkLen)
	return func() {
		for range batch {
			if _, err := from.Write(text); err != nil {
				b.Fatal(err)
			}
		}
		if err := <-read; err != nil {
			b.Fatal(err)
		}
	}
}

// overChannel returns what moves a batch as messages over the channel.
func overChannel(b *testing.B) func() {
	b.Helper()
	e := newEnds(attest.Participant, "north")
	sink := &grpc.ServiceDesc{ServiceName: "bench.Sink", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "Take", ClientStreams: true, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			var in pb.Chunk
			for n := 1; ; n++ {
				if err := s.RecvMsg(&in); err != nil {
					return err
				}
				if n%batch > 0 {
					continue
				}
				if err := s.SendMsg(wrapperspb.Bool(true)); err != nil {
					return err
				}
			}
		},
	}}}
	server := grpc.NewServer(append(transport.ServerOptions(), grpc.Creds(makeServer(b, e.server)), grpc.ForceServerCodecV2(pb.Codec()))...)
	server.RegisterService(sink, struct{}{})
	lis := listen(b)
	served := make(chan error)
	go func() { served <- server.Serve(lis) }()
	b.Cleanup(func() { server.Stop(); <-served })
	conn, err := grpc.NewClient("passthrough:///"+lis.Addr().String(),
		append(transport.DialOptions(), grpc.WithTransportCredentials(makeClient(b, e.client)), grpc.WithNoProxy(),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(pb.Codec())))...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	stream, err := conn.NewStream(context.Background(), &sink.Streams[0], "/bench.Sink/Take")
	if err != nil {
		b.Fatal(err)
	}
	text := make([]byte, chunkLen)
	return func() {
		for range batch {
			if err := stream.SendMsg(&pb.Chunk{Offset: 1, Size: chunkLen, Data: text}); err != nil {
				b.Fatal(err)
			}
		}
		if err := stream.RecvMsg(new(wrapperspb.BoolValue)); err != nil {
			b.Fatal(err)
		}
	}
}

func listen(b testing.TB) net.Listener {
	b.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	return lis
}

// selfSigned returns a certificate for a server of TLS.
func selfSigned(b *testing.B) tls.Certificate {
	b.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, public, private)
	if err != nil {
		b.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}
