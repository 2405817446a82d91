// Package dialect says whether two programs understand each other's calls. The attested channel has one version and does not
// negotiate; what is said over it grows from version to version. Programs whose versions of the protocol are next to each other
// understand each other, so that a coordinator and its participants need not be replaced at once. Others are refused by both sides,
// with both versions named.
//
// Each call carries its caller's version in the gRPC metadata under [Key], and each answer the answerer's in its header, a stream's also in its
// trailer. A program from before there was such a header speaks version 1.
//
//	us := dialect.Own("0.1.0")
//	grpc.NewClient(..., us.Caller()...)
//	grpc.NewServer(..., grpc.ChainUnaryInterceptor(us.Unary), grpc.ChainStreamInterceptor(us.Stream))
package dialect

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Version is the protocol of this program's calls. It goes up by one when calls are added, or gain a meaning, that the version
// before does not know; two versions later what it replaces may go.
//
//	1  the calls of 0.1.0
//	2  epochs of the manifest: the service Federation
const Version = 2

// Key is the name of the metadata: "VERSION PROGRAM", such as "2 0.1.0".
const Key = "consilium-protocol"

// maxWord is the most bytes of a value that is looked at.
const maxWord = 64

// ErrForeign is what an error of [Understands] wraps, and what a call fails with whose answerer is not understood.
var ErrForeign = errors.New("the programs' versions are too far apart")

// foreignError is ErrForeign with the versions in its text.
type foreignError struct{ text string }

func (e *foreignError) Error() string { return e.text }
func (e *foreignError) Unwrap() error { return ErrForeign }

// Speech is what a program says of itself.
type Speech struct {
	Protocol uint64
	Program  string // its version, for people
}

// Own returns the speech of this program, whose version is program.
func Own(program string) Speech { return Speech{Version, program} }

// word is how a speech is written.
func (s Speech) word() string { return strconv.FormatUint(s.Protocol, 10) + " " + s.Program }

func (s Speech) String() string {
	return fmt.Sprintf("protocol %d (version %s)", s.Protocol, s.Program)
}

// Parse reads what a peer says of itself: nothing is version 1. What it calls its program may be anything; it is cut down to what
// prints.
func Parse(values []string) (Speech, error) {
	if len(values) == 0 {
		return Speech{1, "0.1.0 or before"}, nil
	}
	number, program, _ := strings.Cut(values[0], " ")
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || n == 0 || len(values) > 1 || len(values[0]) > maxWord || strconv.FormatUint(n, 10) != number {
		return Speech{}, fmt.Errorf("%s: want one number of a protocol, and the version of a program", Key)
	}
	program = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return -1
		}
		return c
	}, program)
	return Speech{n, program}, nil
}

// Understands returns an error that wraps [ErrForeign] and names both unless their protocols are the same or next to each other.
func Understands(us, them Speech, who string) error {
	if them.Protocol+1 >= us.Protocol && them.Protocol <= us.Protocol+1 {
		return nil
	}
	older := "this program"
	if them.Protocol < us.Protocol {
		older = who
	}
	return &foreignError{fmt.Sprintf("%s speaks %s, and this program %s; upgrade %s, one version after the other", who, them, us, older)}
}

// judged reads what a peer says and judges it.
func judged(us Speech, values []string, who string) error {
	them, err := Parse(values)
	if err != nil {
		return err
	}
	return Understands(us, them, who)
}

// Caller returns the options of a dialler that speaks so. Each of its calls says it, and fails with FailedPrecondition and
// [ErrForeign] where the answerer is not understood.
func (s Speech) Caller() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(s.callUnary), grpc.WithChainStreamInterceptor(s.callStream),
	}
}

const answerer = "the coordinator"

func (s Speech) callUnary(ctx context.Context, method string, req, reply any, c *grpc.ClientConn, next grpc.UnaryInvoker, o ...grpc.CallOption) error {
	var header metadata.MD
	err := next(metadata.AppendToOutgoingContext(ctx, Key, s.word()), method, req, reply, c, append(o, grpc.Header(&header))...)
	if len(header) == 0 {
		return err // nobody has answered
	}
	if e := judged(s, header.Get(Key), answerer); e != nil {
		return &callError{e}
	}
	return err
}

func (s Speech) callStream(ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, method string, next grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := next(metadata.AppendToOutgoingContext(ctx, Key, s.word()), d, c, method, o...)
	if err != nil {
		return nil, err
	}
	return &heard{ClientStream: stream, us: s}, nil
}

// heard judges the header of an answer before its first message is taken.
type heard struct {
	grpc.ClientStream
	us  Speech
	met bool // owned by whoever receives
}

func (h *heard) RecvMsg(m any) error {
	if !h.met {
		header, err := h.Header()
		if err == nil && len(header) > 0 {
			if e := judged(h.us, header.Get(Key), answerer); e != nil {
				return &callError{e}
			}
			h.met = true
		}
	}
	return h.ClientStream.RecvMsg(m)
}

// callError is what a call fails with: a gRPC status that can still be asked whether it is ErrForeign.
type callError struct{ err error }

func (e *callError) Error() string { return e.err.Error() }
func (e *callError) Unwrap() error { return e.err }

// GRPCStatus is for package status.
func (e *callError) GRPCStatus() *status.Status {
	return status.New(codes.FailedPrecondition, e.err.Error())
}

// Unary judges the caller of a unary call before it is served, and says what we speak.
func (s Speech) Unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := grpc.SetHeader(ctx, metadata.Pairs(Key, s.word())); err != nil {
		return nil, err
	}
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// Stream is Unary for streams. Its header is sent at once; that the stream ended by our word, and with no break, the same in its trailer shows.
func (s Speech) Stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := stream.SendHeader(metadata.Pairs(Key, s.word())); err != nil {
		return err
	}
	stream.SetTrailer(metadata.Pairs(Key, s.word()))
	if err := s.admit(stream.Context()); err != nil {
		return err
	}
	return next(srv, stream)
}

func (s Speech) admit(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if err := judged(s, md.Get(Key), "the caller"); err != nil {
		return &callError{err}
	}
	return nil
}
