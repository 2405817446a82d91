package coordinator

import (
	"context"
	"errors"
	"unicode"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/registry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/skew"
)

// answer turns an error into what its peer is told: a code and a reason of a closed list. What is nobody's business but
// the operator's is logged here and hidden from the peer.
func answer(log *zap.Logger, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	var clock *skew.Error
	switch {
	case errors.As(err, &clock):
		return status.Error(codes.Unavailable, "the coordinator's clock and those of its members differ; it writes nothing until they agree")
	case errors.Is(err, errStopping):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	case errors.Is(err, errEpoch):
		return status.Error(codes.Unauthenticated, err.Error())
	case errors.Is(err, round.ErrUnknownRun), errors.Is(err, registry.ErrUnknown):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, registry.ErrAmbiguous), errors.Is(err, errUnwritable):
		return status.Error(codes.InvalidArgument, err.Error())
	case round.Reason(err) != "":
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	log.Error("request failed", zap.Error(err))
	return status.Error(codes.Internal, "the coordinator could not do this; its log says why")
}

// clip shortens what a peer wrote to at most n bytes of printable text.
func clip(s string, n int) string {
	out := make([]rune, 0, min(len(s), n))
	size := 0
	for _, c := range s {
		if !unicode.IsPrint(c) {
			c = ' '
		}
		if size += len(string(c)); size > n {
			break
		}
		out = append(out, c)
	}
	return string(out)
}
