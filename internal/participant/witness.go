package participant

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/store"
	"consilium.dev/internal/witness"
	pb "consilium.dev/proto/consilium/v1"
)

// maxCheckpoint is the most bytes of a signed checkpoint.
const maxCheckpoint = 4096

// remembered is what a witness keeps of the federation's log: the newest checkpoint that it was shown, and under whose key. The
// first key that it sees over the attested channel is the log's from then on, until the members agree on a new log.
type remembered struct {
	begun      uint64 // epoch with which the log began in place of an old one; 0 for a federation's first
	verifier   string
	checkpoint []byte
	head       witness.Head
}

// memory keeps what this member's witness has seen, sealed on its own disk, and cosigns what extends it. A checkpoint is durable
// before its cosignature leaves, so a crash between the two costs nothing: the same one is cosigned again. The older one is dropped
// only afterwards. It is used by one goroutine at a time.
type memory struct {
	federation, member string
	identity           crypto.Signer // endorses key
	blobs              *blob.Blobs
	objects            store.Objects
	key                *witness.Key // of this process
	kept               remembered
	ended              string // object of a log that was given up, while nothing of the new one is kept
	log                *zap.Logger
}

const witnessFolder = "witness/"

// witnessName holds the size, with leading zeros, so that names are in the order of sizes; those of a log that began later stand
// behind those of the one before.
func witnessName(r remembered) string {
	if r.begun > 0 {
		return fmt.Sprintf("%sfrom-%020d-%020d", witnessFolder, r.begun, r.head.Size)
	}
	return fmt.Sprintf("%s%020d", witnessFolder, r.head.Size)
}

// newMemory returns the memory of a member's witness with a new cosigning key.
func newMemory(federation string, o Options) *memory {
	var seed [32]byte
	rand.Read(seed[:]) //nolint:errcheck // crypto/rand.Read never fails: it ends the program
	return &memory{
		federation: federation, member: o.Name, identity: o.Identity, blobs: blob.New(o.Objects, o.KEK), objects: o.Objects, log: o.Log,
		key: witness.NewKey(witness.KeyName(federation, o.Name), seed),
	}
}

// load finds what an earlier process kept: the object of the largest log. Smaller ones were to be dropped.
func (m *memory) load(ctx context.Context) error {
	var names []string
	for name, err := range m.objects.List(ctx, witnessFolder) {
		if err != nil {
			return &diskError{err}
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil
	}
	newest := names[len(names)-1]
	text, err := m.blobs.OpenNamed(context.WithoutCancel(ctx), newest)
	if err != nil {
		return &diskError{fmt.Errorf("opening the witnessed checkpoint %s: %w", newest, err)}
	}
	r, err := decodeRemembered(text)
	if err != nil || witnessName(r) != newest {
		return &diskError{fmt.Errorf("object %s is no checkpoint that this witness kept", newest)}
	}
	m.kept = r
	return m.drop(ctx, names[:len(names)-1])
}

func (m *memory) drop(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := m.blobs.DeleteNamed(context.WithoutCancel(ctx), name); err != nil {
			return &diskError{err}
		}
	}
	return nil
}

// keep makes a checkpoint durable, then drops the one before it. Once begun it is finished.
func (m *memory) keep(ctx context.Context, r remembered) error {
	if r.head == m.kept.head && r.verifier == m.kept.verifier {
		return nil
	}
	err := m.blobs.PutNamed(context.WithoutCancel(ctx), witnessName(r), encodeRemembered(r))
	if err != nil {
		return &diskError{fmt.Errorf("keeping the checkpoint of %d lines: %w", r.head.Size, err)}
	}
	last, ended := m.kept, m.ended
	m.kept, m.ended = r, ""
	switch {
	case ended != "":
		return m.drop(ctx, []string{ended})
	case last.head.Size == 0:
		return nil
	}
	return m.drop(ctx, []string{witnessName(last)})
}

// beginning is an epoch with which a new log began in place of an old one.
type beginning struct {
	epoch uint64
	old   manifest.OldLog
}

// begin takes note of the epochs with which new logs began, oldest first: what is kept of an old log does not bind the new one.
// That holds once for each such epoch, and only where the members name at least as much of the old log as this witness has seen:
// less would undo what it has cosigned. What is kept is of the log which the first of them ends, so one that was refused is not
// made good by a later one, which ends another log, unless that names to the line what is kept. Called before it shows what it
// keeps.
func (m *memory) begin(all ...beginning) {
	var refused error
	for _, b := range all {
		kept := m.kept.head
		if b.epoch <= m.kept.begun {
			continue
		}
		same := kept.Size == b.old.Lines && kept.Root == b.old.Root
		if !same && (kept.Size >= b.old.Lines || refused != nil) {
			if refused == nil {
				refused = fmt.Errorf("the manifest of epoch %d says that the old log ends with %d lines and root %x, and this witness has cosigned %d lines with root %x: "+
					"the members must agree on an epoch that names this head", b.epoch, b.old.Lines, b.old.Root, kept.Size, kept.Root)
			}
			continue
		}
		if kept.Size > 0 {
			m.ended = witnessName(m.kept)
			m.log.Warn("new log begins, as the members have agreed; what was seen of the old one is given up", zap.Uint64("epoch", b.epoch),
				zap.Int64("entries", kept.Size))
		}
		m.kept, refused = remembered{begun: b.epoch}, nil
	}
	if refused != nil {
		m.log.Error("new log is not followed", zap.Int64("entries", m.kept.head.Size), zap.Error(refused))
	}
}

// answer judges what the coordinator asks to cosign. Only a disk that fails is an error.
func (m *memory) answer(ctx context.Context, q *pb.CosignAsked, now time.Time) (*pb.CosignAnswer, error) {
	refuse := func(state pb.CosignAnswer_State, err error) *pb.CosignAnswer {
		m.log.Error("checkpoint not cosigned", zap.Int64("entries", m.kept.head.Size), zap.Error(err))
		return &pb.CosignAnswer{State: state, Kept: m.kept.checkpoint, Reason: err.Error()}
	}
	next, o, err := m.offered(q)
	if err != nil {
		return refuse(pb.CosignAnswer_STATE_REFUSED, err), nil
	}
	_, err = witness.Judge(m.kept.head, o)
	var stale *witness.StaleError
	switch {
	case errors.As(err, &stale):
		return &pb.CosignAnswer{State: pb.CosignAnswer_STATE_STALE, Kept: m.kept.checkpoint, Reason: err.Error()}, nil
	case err != nil:
		return refuse(pb.CosignAnswer_STATE_REFUSED, err), nil
	}
	if err := m.keep(ctx, next); err != nil {
		return nil, err
	}
	return &pb.CosignAnswer{
		State: pb.CosignAnswer_STATE_COSIGNED, Line: m.key.Cosign(witness.Text(next.checkpoint), now),
	}, nil
}

// offered reads an offer: a checkpoint that the log's key has signed, of the log and the key that this witness knows.
func (m *memory) offered(q *pb.CosignAsked) (remembered, witness.Offer, error) {
	o := witness.Offer{Old: q.Old}
	if len(q.Checkpoint) > maxCheckpoint || len(q.Proof) > 128 {
		return remembered{}, o, errors.New("a checkpoint or a proof longer than any can be")
	}
	if m.kept.verifier != "" && m.kept.verifier != q.Verifier {
		return remembered{}, o, fmt.Errorf("the log is signed by another key, %.120q, than the one that this witness knows, %s", q.Verifier, m.kept.verifier)
	}
	said, err := ledger.OpenCheckpoint(q.Checkpoint, q.Verifier)
	if err == nil && said.Origin != "consilium.dev/"+m.federation {
		err = fmt.Errorf("the checkpoint is of the log %.120q, not of the federation %s", said.Origin, m.federation)
	}
	if err != nil {
		return remembered{}, o, err
	}
	o.Next = said.Head()
	for _, h := range q.Proof {
		if len(h) != 32 {
			return remembered{}, o, fmt.Errorf("a proof with a hash of %d bytes", len(h))
		}
		o.Proof = append(o.Proof, [32]byte(h))
	}
	return remembered{m.kept.begun, q.Verifier, q.Checkpoint, o.Next}, o, nil
}

// shown is what the witness says of itself when it connects.
func (m *memory) shown(now time.Time) (*pb.CosignKept, error) {
	// It begins a moment ago, for a coordinator whose clock is behind.
	e := witness.Endorsement{Federation: m.federation, Member: m.member, Key: m.key.Verifier(), From: now.Add(-5 * time.Minute)}
	signature, err := m.identity.Sign(rand.Reader, e.Text(), crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("endorsing the witness's key: %w", err)
	}
	return &pb.CosignKept{
		Checkpoint: m.kept.checkpoint, Verifier: m.kept.verifier, Endorsement: string(e.Text()), Signature: signature,
	}, nil
}

// witness cosigns over one connection of a session after the other. Where the coordinator does not want it over one, it is asked again
// over the next.
func (p *Participant) witness(ctx context.Context, l *line, heard func()) error {
	for {
		replaced, err := l.now().while(ctx, func(ctx context.Context) error {
			if err := p.cosign(ctx, l, heard); err != nil {
				return err
			}
			<-ctx.Done()
			return nil
		})
		var broken *diskError
		if ctx.Err() != nil || !replaced || errors.As(err, &broken) {
			return err
		}
	}
}

// cosign answers the coordinator as the witness that this member is, while the session lasts. heard is called for each message.
func (p *Participant) cosign(ctx context.Context, conn grpc.ClientConnInterface, heard func()) error {
	err := p.cosigning(ctx, conn, heard)
	switch status.Code(err) {
	case codes.PermissionDenied:
		if !p.epochs.now().IsWitness(p.o.Name) {
			p.log.Info("not a witness, or not any more: others remember the log", zap.Int64("entries", p.memory.kept.head.Size))
			return nil
		}
		fallthrough
	case codes.Unimplemented, codes.InvalidArgument, codes.FailedPrecondition:
		// This coordinator does not want our cosignatures, and will not in this session. What else it wants it still gets.
		p.log.Error("coordinator takes no cosignatures of this witness", zap.Error(err))
		return nil
	}
	return err
}

func (p *Participant) cosigning(ctx context.Context, conn grpc.ClientConnInterface, heard func()) error {
	stream, err := pb.NewWitnessesClient(conn).Cosign(ctx)
	if err != nil {
		return err
	}
	p.memory.begin(p.epochs.begun()...)
	kept, err := p.memory.shown(p.o.Now())
	if err != nil {
		return err
	}
	send := func(said *pb.CosignSaid) error {
		if err := stream.Send(said); err != nil {
			_, err = stream.Recv() // which says why
			return err
		}
		return nil
	}
	if err := send(&pb.CosignSaid{Said: &pb.CosignSaid_Kept{Kept: kept}}); err != nil {
		return err
	}
	connected := false
	for {
		if !connected && p.epochs.now().IsWitness(p.o.Name) {
			p.log.Info("witness is connected", zap.Int64("entries", p.memory.kept.head.Size))
			connected = true
		}
		q, err := stream.Recv()
		if err != nil {
			return err
		}
		heard()
		if !connected {
			p.log.Info("witness is connected until the next ones take over", zap.Int64("entries", p.memory.kept.head.Size))
			connected = true
		}
		if len(q.Checkpoint) == 0 {
			continue
		}
		a, err := p.memory.answer(ctx, q, p.o.Now())
		if err != nil {
			return err
		}
		if err := send(&pb.CosignSaid{Said: &pb.CosignSaid_Answer{Answer: a}}); err != nil {
			return err
		}
	}
}

// A kept checkpoint's plaintext: "consilium.witness/1\n", the verifier key of the log and a newline, then the signed checkpoint. Of a
// log that began in place of an old one: "consilium.witness/2\n", the epoch with which it began and a newline, then the same.
const (
	rememberedMagic = "consilium.witness/1\n"
	begunMagic      = "consilium.witness/2\n"
)

func encodeRemembered(r remembered) []byte {
	head := rememberedMagic
	if r.begun > 0 {
		head = fmt.Sprintf("%s%d\n", begunMagic, r.begun)
	}
	return append([]byte(head+r.verifier+"\n"), r.checkpoint...)
}

func decodeRemembered(text []byte) (remembered, error) {
	var begun uint64
	body, ok := strings.CutPrefix(string(text), rememberedMagic)
	if later, is := strings.CutPrefix(string(text), begunMagic); is {
		number, rest, found := strings.Cut(later, "\n")
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != number || !found {
			return remembered{}, errors.New("not a checkpoint that a witness kept")
		}
		begun, body, ok = n, rest, true
	}
	verifier, checkpoint, found := strings.Cut(body, "\n")
	if !ok || !found || len(checkpoint) > maxCheckpoint {
		return remembered{}, errors.New("not a checkpoint that a witness kept")
	}
	said, err := ledger.OpenCheckpoint([]byte(checkpoint), verifier)
	if err != nil {
		return remembered{}, errors.New("not a checkpoint that a witness kept: " + strconv.Quote(err.Error()))
	}
	if said.Size < 1 {
		return remembered{}, errors.New("a kept checkpoint without lines")
	}
	return remembered{begun, verifier, []byte(checkpoint), said.Head()}, nil
}
