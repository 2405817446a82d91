package coordinator_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/audit"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/witness"
	pb "consilium.dev/proto/consilium/v1"
)

// The encoder makes a channel when it is first used, which no bubble may then own: all of them use it.
func init() { (&codec.Encoder{}).Encode(nil, nil, make([]byte, codec.Piece)) }

// archive is the log as an auditor is sent it.
type archive struct {
	pb.LogClient
	federation pb.FederationClient
}

func (a archive) Manifest(ctx context.Context, epoch uint64) ([]byte, error) {
	r, err := a.federation.Manifest(ctx, &pb.ManifestRequest{Epoch: epoch})
	if err != nil {
		return nil, err
	}
	return r.Envelope, nil
}

func (a archive) Entries(ctx context.Context, from, size int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		s, err := a.LogClient.Entries(ctx, &pb.EntriesRequest{From: from, Size: size})
		for err == nil {
			var r *pb.EntriesReply
			if r, err = s.Recv(); err != nil {
				break
			}
			for _, line := range r.Lines {
				if !yield(line, nil) {
					return
				}
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(nil, err)
		}
	}
}

func (a archive) Kept(ctx context.Context, line int64) ([]byte, error) {
	s, err := a.LogClient.Kept(ctx, &pb.KeptRequest{Line: line})
	var text []byte
	for err == nil {
		var c *pb.Chunk
		if c, err = s.Recv(); err == nil {
			text, err = codec.Decode(text, codec.Scheme(c.Scheme), c.Data, int(c.Size))
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return text, err
}

// export copies the history as cara, the auditor, gets it.
func (w *world) export() string {
	w.t.Helper()
	cara := w.person("cara")
	log, folder := pb.NewLogClient(cara.conn), filepath.Join(w.t.TempDir(), "copy")
	r, err := log.Checkpoint(w.t.Context(), &pb.CheckpointRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	point, err := ledger.OpenCheckpoint(r.Checkpoint, r.Verifier)
	if err != nil {
		w.t.Fatal(err)
	}
	c := witness.Cosigned{Checkpoint: string(r.Checkpoint)}
	for _, x := range r.Cosignatures {
		c.Cosignatures = append(c.Cosignatures, witness.Cosignature{Member: x.Member, Endorsement: x.Endorsement, Signature: x.Signature, Line: x.Line})
	}
	if err := audit.Export(w.t.Context(), archive{log, pb.NewFederationClient(cara.conn)}, w.manifest, c, point, folder, nil); err != nil {
		w.t.Fatal(err)
	}
	return folder
}

func (w *world) verify(folder string) *audit.Report {
	w.t.Helper()
	r, err := audit.Verify(w.t.Context(), folder, audit.Options{
		Anchor:    w.manifest.Digest(),
		Verifiers: w.realm.verifiers,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// TestWitnessesAudited copies the history of a federation with witnesses, with a restart and a while without a quorum in it, and
// judges it offline; then with its cosignatures altered, one thing at a time.
func TestWitnessesAudited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fourWitnesses...)
		council := w.serve()
		all := w.joinAll()
		w.books["council"].await(t, "log opened by its witnesses")
		synctest.Wait() // until all four keep something
		all["longbeach"].stop()
		all["switzerland"].stop()
		run := w.start(plan(t, bare))
		w.books["council"].await(t, "round closed", "run", run)
		council.stop()
		w.serve()
		time.Sleep(10 * time.Minute) // two are there, and the log does not open
		w.join("longbeach")
		w.completed(run)
		synctest.Wait()
		folder := w.export()
		r := w.verify(folder)
		if len(r.Findings) != 0 || r.Quorum != 3 || r.Witnesses != 4 || strings.Join(r.Cosigned, " ") != "budapest cleveland longbeach" || r.Rollback != "" || r.Boots != 2 {
			t.Errorf("%d of %d witnesses, %v, have cosigned, %d boots; found %v", r.Quorum, r.Witnesses, r.Cosigned, r.Boots, r.Findings)
		}
		text, err := os.ReadFile(filepath.Join(folder, "cosignatures.json"))
		if err != nil {
			t.Fatal(err)
		}
		var good witness.Cosigned
		if err := json.Unmarshal(text, &good); err != nil {
			t.Fatal(err)
		}
		const few = "2 of the 3 witnesses that are needed have cosigned the checkpoint"
		for name, test := range map[string]struct {
			change func(*witness.Cosigned)
			want   []string
		}{
			"none":                   {func(c *witness.Cosigned) { c.Cosignatures = nil }, []string{"0 of the 3"}},
			"two":                    {func(c *witness.Cosigned) { c.Cosignatures = c.Cosignatures[:2] }, []string{few}},
			"one twice":              {func(c *witness.Cosigned) { c.Cosignatures[2] = c.Cosignatures[1] }, []string{"cleveland stands there twice", few}},
			"another checkpoint":     {func(c *witness.Cosigned) { c.Checkpoint += " " }, []string{"about another checkpoint", "0 of the 3"}},
			"a stranger":             {func(c *witness.Cosigned) { c.Cosignatures[0].Member = "boston" }, []string{`"boston" is no witness`, few}},
			"another member's":       {func(c *witness.Cosigned) { c.Cosignatures[0].Member = "switzerland" }, []string{"endorsed for another member", few}},
			"an altered line":        {func(c *witness.Cosigned) { c.Cosignatures[0].Line = c.Cosignatures[1].Line }, []string{"not a cosignature by", few}},
			"an altered endorsement": {func(c *witness.Cosigned) { c.Cosignatures[0].Signature[0] ^= 1 }, []string{"has not endorsed", few}},
		} {
			c := good
			c.Cosignatures = slices.Clone(good.Cosignatures)
			c.Cosignatures[0].Signature = slices.Clone(c.Cosignatures[0].Signature)
			test.change(&c)
			bad, err := c.Encode()
			if err != nil {
				t.Fatal(err)
			}
			w.found(folder, bad, name, test.want...)
		}
		w.found(folder, text[1:], "cut off", "cosignatures: ", "0 of the 3")
		if err := os.Remove(filepath.Join(folder, "cosignatures.json")); err != nil {
			t.Fatal(err)
		}
		if r := w.verify(folder); len(r.Findings) != 1 || !strings.HasPrefix(r.Findings[0].What, "0 of the 3") {
			t.Errorf("without cosignatures: found %v", r.Findings)
		}
	})
}

// found judges the copy with that file of cosignatures.
func (w *world) found(folder string, cosigned []byte, name string, want ...string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(folder, "cosignatures.json"), cosigned, 0o600); err != nil {
		w.t.Fatal(err)
	}
	r := w.verify(folder)
	if len(r.Findings) != len(want) {
		w.t.Errorf("%s: found %v, want %q", name, r.Findings, want)
		return
	}
	for i, f := range r.Findings {
		if !strings.Contains(f.What, want[i]) {
			w.t.Errorf("%s: found %q, want %q", name, f.What, want[i])
		}
	}
}

// TestStrayCosignatures: where the manifest names no witnesses, cosignatures are no part of a copy.
func TestStrayCosignatures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		w.join("budapest")
		folder := w.export()
		if r := w.verify(folder); len(r.Findings) != 0 || r.Quorum != 0 || r.Rollback == "" {
			t.Errorf("a copy without witnesses: quorum %d, rollback %q, found %v", r.Quorum, r.Rollback, r.Findings)
		}
		w.found(folder, []byte("{}"), "stray", "cosignatures.json is no part of the copy")
	})
}
