package coordinator

import (
	"context"
	"errors"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"consilium.dev/internal/dialect"
)

// voice judges the versions of callers' programs, and logs those that are too far from ours.
type voice struct {
	speech dialect.Speech
	log    *zap.Logger
}

func (v *voice) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	reply, err := v.speech.Unary(ctx, req, info, next)
	v.tell(ctx, err)
	return reply, err
}

func (v *voice) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	err := v.speech.Stream(srv, s, info, next)
	v.tell(s.Context(), err)
	return err
}

func (v *voice) tell(ctx context.Context, err error) {
	if errors.Is(err, dialect.ErrForeign) {
		p := caller(ctx)
		v.log.Warn("a peer's version is too far from ours", zap.String("office", p.Office.String()), zap.String("name", p.Name), zap.Error(err))
	}
}
