package transport

// The windows of HTTP/2, for both sides of a channel, in bytes. They stay as they are, other than gRPC's own, which grow to
// 16 MiB: what a sender has put on the line and its peer has not read yet is lost when the line breaks, and has to be sent again.
// So a break costs less than 1 MiB, a connection's unread bytes take no more memory, and one transfer has at most a stream's
// window per round trip: 42 Mbit/s at 100 ms.
const (
	StreamWindow = 512 << 10
	ConnWindow   = 1 << 20
)
