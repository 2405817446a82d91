package transport

import "google.golang.org/grpc"

// The windows of HTTP/2, for both sides of a channel, in bytes. They stay as they are, other than gRPC's own, which grow to
// 16 MiB: what a sender has put on the line and its peer has not read yet is lost when the line breaks, and has to be sent again.
// So a break costs less than 1 MiB, a connection's unread bytes take no more memory, and one transfer has at most a stream's
// window per round trip: 42 Mbit/s at 100 ms.
const (
	streamWindow = 512 << 10
	connWindow   = 1 << 20
)

// What gRPC gathers before it writes, in bytes: as much as a line writes at once.
const gathered = lineLen

// ServerOptions returns how a gRPC server uses the channel: windows that stay as they are, and writes that are large where much is
// sent. Credentials are not among them.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connWindow),
		grpc.WriteBufferSize(gathered), // shared: an idle connection holds none
	}
}

// DialOptions is ServerOptions for the side that dials.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithWriteBufferSize(gathered),
	}
}
