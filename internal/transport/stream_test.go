package transport_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// chunkLen is how much of a model or an update goes into one message, as codec.Piece.
const chunkLen = 128 << 10

// BenchmarkStream moves bytes one way over one stream of the loopback: as messages of gRPC over the channel, and as TLS 1.3 alone,
// as crypto/tls has
// it, in writes of as many bytes. Both ends are on this machine.
func BenchmarkStream(b *testing.B) {
	e := newEnds(attest.Participant, "north")
	text := make([]byte, chunkLen)

	b.Run("tls", func(b *testing.B) {
		lis := listen(b)
		defer lis.Close()
		near, far := tcpPair(b, lis)
		defer near.Close()
		defer far.Close()
		cfg := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{selfSigned(b)}}
		from, to := tls.Client(far, cfg), tls.Server(near, cfg)
		b.SetBytes(chunkLen)
		read := make(chan error)
		go func() {
			buf := make([]byte, chunkLen)
			for range b.N {
				if _, err := io.ReadFull(to, buf); err != nil {
					read <- err
					return
				}
			}
			read <- nil
		}()
		b.ResetTimer()
		for range b.N {
			if _, err := from.Write(text); err != nil {
				b.Fatal(err)
			}
		}
		if err := <-read; err != nil {
			b.Fatal(err)
		}
	})

	b.Run("channel", func(b *testing.B) {
		sink := &grpc.ServiceDesc{ServiceName: "bench.Sink", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
			StreamName: "Take", ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
				for {
					var in wrapperspb.BytesValue
					if err := s.RecvMsg(&in); err == io.EOF {
						return s.SendMsg(wrapperspb.Bool(true))
					} else if err != nil {
						return err
					}
				}
			},
		}}}
		server := grpc.NewServer(append(transport.ServerOptions(), grpc.Creds(makeServer(b, e.server)))...)
		server.RegisterService(sink, struct{}{})
		lis := listen(b)
		served := make(chan error)
		go func() { served <- server.Serve(lis) }()
		defer func() { server.Stop(); <-served }()
		conn, err := grpc.NewClient("passthrough:///"+lis.Addr().String(),
			append(transport.DialOptions(), grpc.WithTransportCredentials(makeClient(b, e.client)), grpc.WithNoProxy())...)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		stream, err := conn.NewStream(b.Context(), &sink.Streams[0], "/bench.Sink/Take")
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(chunkLen)
		b.ResetTimer()
		for range b.N {
			if err := stream.SendMsg(wrapperspb.Bytes(text)); err != nil {
				b.Fatal(err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			b.Fatal(err)
		}
		if err := stream.RecvMsg(new(wrapperspb.BoolValue)); err != nil {
			b.Fatal(err)
		}
	})
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
