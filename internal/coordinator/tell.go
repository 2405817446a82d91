package coordinator

import (
	"time"

	"go.uber.org/zap"

	"consilium.dev/internal/entry"
)

// tell writes a fact into the operator's log: who, what and why, never a value of a model or an update.
func tell(log *zap.Logger, at time.Time, f entry.Fact) {
	switch f := f.(type) {
	case entry.ManifestAdopted:
		log.Info("manifest adopted", zap.Uint64("epoch", f.Epoch), zap.Stringer("manifest", f.Manifest), zap.String("witnesses", f.Witnesses))
	case entry.HandedOver:
		log.Info("witnesses have handed over", zap.Uint64("epoch", f.Epoch), zap.Int64("entries", f.Size))
	case entry.Booted:
		log.Info("booted", zap.String("instance", f.Instance), zap.Strings("types", f.Types))
	case entry.Admitted:
		log.Info("admitted", zap.String("office", f.Office), zap.String("name", f.Name), zap.Strings("types", f.Types),
			zap.Strings("sets", f.Sets), zap.Int("not_judged", len(f.Any)), zap.Time("expires", f.Expires))
	case entry.RunCreated:
		log.Info("run created", zap.String("run", f.Run), zap.String("name", f.Plan.Name), zap.String("lead", f.Lead), zap.Int("members", len(f.Members)))
	case entry.Consented:
		log.Info("consented", zap.String("run", f.Run), member(f.Member))
	case entry.Declined:
		log.Warn("declined", zap.String("run", f.Run), member(f.Member), zap.String("rule", f.Rule))
	case entry.Left:
		log.Warn("left", zap.String("run", f.Run), member(f.Member), zap.String("reason", f.Reason))
	case entry.RoundOpened:
		log.Info("round opened", zap.String("run", f.Run), zap.Int("round", f.Round), zap.Int("try", f.Try), zap.String("kind", string(f.Kind)),
			zap.Int("selected", len(f.Selected)), zap.Float64("bound", f.Bound), zap.Duration("deadline_in", f.Deadline.Sub(at).Round(time.Second)))
	case entry.UpdateAccepted:
		log.Info("update accepted", zap.String("run", f.Run), zap.Int("round", f.Round), zap.Int("try", f.Try), member(f.Member),
			zap.String("update", f.Update.Short()), zap.Int64("bytes", f.Bytes), zap.Int64("resent", f.Resent), zap.Int("staleness", f.Staleness))
	case entry.UpdateRefused:
		log.Warn("update refused", zap.String("run", f.Run), zap.Int("round", f.Round), zap.Int("try", f.Try), member(f.Member), zap.String("reason", f.Reason))
	case entry.MasksAgreed:
		log.Info("masks agreed upon", zap.String("run", f.Run), zap.Int("round", f.Round), zap.Int("try", f.Try), zap.Int("members", len(f.Members)))
	case entry.Unmasking:
		log.Info("unmasking", zap.String("run", f.Run), zap.Int("round", f.Round), zap.Int("try", f.Try), zap.Int("updates", len(f.Members)),
			zap.String("early", string(f.Early)))
	case entry.RoundFailed:
		log.Warn("round failed", zap.String("run", f.Run), zap.Int("round", f.Round), zap.Int("try", f.Try), zap.String("reason", f.Reason))
	case entry.RoundClosed:
		log.Info("round closed", zap.String("run", f.Run), zap.Int("round", f.Round), zap.Int("try", f.Try), zap.Int("updates", len(f.Members)),
			zap.String("model", f.Model.Short()), zap.String("early", string(f.Early)))
	case entry.Evaluated:
		log.Debug("evaluated", zap.String("run", f.Run), zap.Int("round", f.Round), member(f.Member))
	case entry.RunEnded:
		log.Info("run ended", zap.String("run", f.Run), zap.String("outcome", f.Outcome), zap.String("reason", f.Reason))
	case entry.Dropped:
		log.Info("blobs dropped", zap.String("run", f.Run), zap.Int("rounds", len(f.Rounds)), zap.Duration("kept", time.Duration(f.Kept)))
	case entry.TagMoved:
		log.Info("tag moved", zap.String("tag", f.Tag), zap.String("model", f.Model.Short()), zap.String("by", f.By))
	}
}

func member(m entry.Member) zap.Field { return zap.String("member", string(m)) }
