package coordinator

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// may says who may call a method: one office and, for people, what the manifest must allow them. The zero value lets
// nobody in.
type may struct {
	office attest.Office
	right  string // "lead" or "audit"; any of rights for people
}

// methods is the one table of who may call what. A method without a row is refused, and a test fails for it.
var methods = map[string][]may{
	pb.Rounds_Follow_FullMethodName:       {{office: attest.Participant}},
	pb.Rounds_Consent_FullMethodName:      {{office: attest.Participant}},
	pb.Rounds_Query_FullMethodName:        {{office: attest.Participant}},
	pb.Rounds_Offer_FullMethodName:        {{office: attest.Participant}},
	pb.Rounds_Report_FullMethodName:       {{office: attest.Participant}},
	pb.Rounds_Mask_FullMethodName:         {{office: attest.Participant}},
	pb.Rounds_Tell_FullMethodName:         {{office: attest.Participant}},
	pb.Rounds_Leave_FullMethodName:        {{office: attest.Participant}},
	pb.Witnesses_Cosign_FullMethodName:    {{office: attest.Participant}},
	pb.Blobs_Fetch_FullMethodName:         {{office: attest.Participant}, {attest.Person, "lead"}, {attest.Person, "audit"}},
	pb.Runs_Start_FullMethodName:          {{attest.Person, "lead"}},
	pb.Runs_List_FullMethodName:           {{attest.Person, "lead"}, {attest.Person, "audit"}},
	pb.Runs_Show_FullMethodName:           {{attest.Person, "lead"}, {attest.Person, "audit"}},
	pb.Runs_Cancel_FullMethodName:         {{attest.Person, "lead"}},
	pb.Runs_Watch_FullMethodName:          {{attest.Person, "lead"}, {attest.Person, "audit"}},
	pb.Models_ListModels_FullMethodName:   {{attest.Person, "lead"}, {attest.Person, "audit"}},
	pb.Models_ShowModel_FullMethodName:    {{attest.Person, "lead"}, {attest.Person, "audit"}},
	pb.Log_Checkpoint_FullMethodName:      {{office: attest.Participant}, {attest.Person, "lead"}, {attest.Person, "audit"}},
	pb.Log_Tile_FullMethodName:            {{office: attest.Participant}, {attest.Person, "lead"}, {attest.Person, "audit"}},
	pb.Log_Prove_FullMethodName:           {{office: attest.Participant}, {attest.Person, "lead"}, {attest.Person, "audit"}},
	pb.Log_Extends_FullMethodName:         {{office: attest.Participant}, {attest.Person, "lead"}, {attest.Person, "audit"}},
	pb.Log_Entries_FullMethodName:         {{attest.Person, "audit"}},
	pb.Federation_Publish_FullMethodName:  {{attest.Person, "lead"}, {attest.Person, "audit"}},
	pb.Federation_Manifest_FullMethodName: {{office: attest.Participant}, {attest.Person, "lead"}, {attest.Person, "audit"}},
	pb.Federation_Status_FullMethodName:   {{attest.Person, "lead"}, {attest.Person, "audit"}},
	pb.Log_Kept_FullMethodName:            {{attest.Person, "audit"}},
}

// guard admits calls by the method table and by what the channel says of the caller, never by the caller's words.
type guard struct {
	manifest func() *manifest.Manifest // that holds
	now      func() time.Time
	cut      func(transport.Peer) // closes the peer's connection
	progress time.Duration        // longest that a piece of what is sent may lie unread
	log      *zap.Logger
}

// check returns the caller if it may call the method now.
func (g *guard) check(ctx context.Context, method string) (transport.Peer, error) {
	peer, ok := transport.FromContext(ctx)
	if !ok {
		return transport.Peer{}, status.Error(codes.Unauthenticated, "no attested channel")
	}
	if err := g.alive(peer); err != nil {
		return transport.Peer{}, err
	}
	for _, m := range methods[method] {
		if m.office == peer.Office && (m.right == "" || g.has(peer.Name, m.right)) {
			return peer, nil
		}
	}
	if peer.Office == attest.Person {
		return transport.Peer{}, status.Errorf(codes.PermissionDenied, "%s is not for you: the manifest does not give you the right to it", method)
	}
	return transport.Peer{}, status.Errorf(codes.PermissionDenied, "%s is not for a %s", method, peer.Office)
}

// alive refuses a peer whose appraisal has expired or was made under another manifest.
func (g *guard) alive(peer transport.Peer) error {
	switch m := g.manifest(); {
	case peer.Epoch != m.Epoch() || peer.Manifest != m.Digest():
		return status.Error(codes.Unauthenticated, errEpoch.Error())
	case !g.now().Before(peer.Expires):
		return status.Error(codes.Unauthenticated, "appraisal expired: dial again")
	}
	return nil
}

// has reports whether the manifest lets the person do that.
func (g *guard) has(person, right string) bool {
	p, ok := g.manifest().Person(person)
	return ok && slices.Contains(p.May, right)
}

// peerKey is the context key under which handlers find their caller.
type peerKey struct{}

// caller returns who makes this call; guard has put it there.
func caller(ctx context.Context) transport.Peer {
	return ctx.Value(peerKey{}).(transport.Peer)
}

// waitedKey is the context key under which a stream's handler finds how long the stream has waited to be let in.
type waitedKey struct{}

// waited returns for how long what a stream's caller has sent may have lain unread: where the log has witnesses, they may have had
// to be waited for.
func waited(ctx context.Context) time.Duration {
	d, _ := ctx.Value(waitedKey{}).(time.Duration)
	return d
}

// unary guards a call of one message each way; entered sees each admitted caller first.
func (g *guard) unary(entered func(context.Context, transport.Peer, string) error) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		peer, err := g.check(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		if err := entered(ctx, peer, info.FullMethod); err != nil {
			return nil, err
		}
		return next(context.WithValue(ctx, peerKey{}, peer), req)
	}
}

// stream guards a stream, at its start and again at each message.
func (g *guard) stream(entered func(context.Context, transport.Peer, string) error) grpc.StreamServerInterceptor {
	return func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		peer, err := g.check(s.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := entered(s.Context(), peer, info.FullMethod); err != nil {
			return err
		}
		ctx := context.WithValue(context.WithValue(s.Context(), peerKey{}, peer), waitedKey{}, time.Since(began))
		return next(srv, &guardedStream{ServerStream: s, guard: g, peer: peer, ctx: ctx})
	}
}

// guardedStream ends a stream at the first message after its peer's appraisal has ended.
type guardedStream struct {
	grpc.ServerStream
	guard *guard
	peer  transport.Peer
	ctx   context.Context
	last  int // bytes of the message that was sent last
}

func (s *guardedStream) Context() context.Context { return s.ctx }

func (s *guardedStream) RecvMsg(m any) error {
	if err := s.guard.alive(s.peer); err != nil {
		return err
	}
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.guard.alive(s.peer) // it may have come after the end of what it was waited for under
}

// SendMsg cuts the connection of a peer that takes nothing in: it waits while what was sent before is not read, and no longer than
// for an upload of as many bytes.
func (s *guardedStream) SendMsg(m any) error {
	if err := s.guard.alive(s.peer); err != nil {
		return err
	}
	wait := s.guard.progress * time.Duration(max(1, s.last/codec.Piece))
	unread := time.AfterFunc(wait, func() {
		s.guard.log.Warn("peer does not read, connection cut", zap.Stringer("office", s.peer.Office), zap.String("name", s.peer.Name))
		s.guard.cut(s.peer)
	})
	defer unread.Stop()
	if p, ok := m.(proto.Message); ok {
		s.last = proto.Size(p)
	}
	return s.ServerStream.SendMsg(m)
}
