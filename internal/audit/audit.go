// Package audit judges a federation's history as somebody who was not there: with a copy of the log, what was kept of each
// admission, the signed manifest and its anchor, and nothing else; no coordinator, no network, no clock.
//
//	err := audit.Export(ctx, source, manifest, folder)          // an auditor makes the copy
//	report, err := audit.Verify(ctx, folder, audit.Options{...}) // anybody judges it, years later
//
// # What a good report says
//
// The lines are exactly those that the log's key has signed for. That key is the one over which the coordinator's enclave made
// evidence at each boot, and that evidence, judged at its logged instant, passed the manifest. So did the evidence of every
// participant and the signature of every person that was admitted, bound to a session of its own with that coordinator, over a
// key that the member's identity key had endorsed. Every fact follows from those before it by the rules of package round:
// nobody's update counts twice, every model is made from all updates that its round held, each by a member that had been
// admitted, and from no fewer than the plan and the manifest ask for. The copy holds nothing else.
//
// # What it does not say
//
// That there is no other history, where the manifest names no witnesses: a log that was rolled back and continued is then as well
// signed as the one that was lost. Where it does, a quorum of them has cosigned the checkpoint, and would have cosigned one history
// only; two auditors who want to be sure compare checkpoints. That a mean is the mean: updates are forgotten, and only the enclave that is named in the log has seen them.
// That no line was written by somebody else who held the log's key, which is as safe as the key that it is sealed under.
//
// # The copy
//
//	manifest.dsse.json     the signed manifest that the log began with
//	epochs/N.dsse.json     those of the epochs N that it adopted later
//	checkpoint             the log's signed checkpoint (C2SP tlog-checkpoint)
//	cosignatures.json      those of its witnesses (witness.Cosigned), where the manifest names any
//	log.jsonl              its lines, each as it was hashed
//	kept/N.json            what was kept of the admission, boot or adoption at line N, counted from 0; of a handover, what the
//	                       witnesses had cosigned (witness.Cosigned)
package audit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/witness"
)

const (
	manifestFile   = "manifest.dsse.json"
	checkpointFile = "checkpoint"
	cosignedFile   = "cosignatures.json"
	linesFile      = "log.jsonl"
	keptFolder     = "kept"
	epochFolder    = "epochs"

	maxManifest   = 1 << 20
	maxCheckpoint = 64 << 10
)

// Source is what a copy is made from: a coordinator, over the attested channel.
type Source interface {
	// Entries yields the lines from number from up to and without number size.
	Entries(ctx context.Context, from, size int64) iter.Seq2[[]byte, error]
	// Kept returns what was kept of the admission, boot or adoption at a line.
	Kept(ctx context.Context, line int64) ([]byte, error)
	// Manifest returns the signed manifest of an epoch.
	Manifest(ctx context.Context, epoch uint64) ([]byte, error)
}

// Export writes a copy of the log that the signed checkpoint, with its witnesses' cosignatures, speaks of into folder, which must not exist or be empty. What it
// writes it has compared with the checkpoint's root hash, and evidence with the digest in its line; a copy that does not fit is
// an error and stays unfinished, without its checkpoint. seen, if not nil, is told of each line.
func Export(ctx context.Context, from Source, m *manifest.Manifest, signed witness.Cosigned, c ledger.Checkpoint, folder string, seen func(int64)) error {
	there, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(there) > 0 {
		return fmt.Errorf("%s is not empty: %w", folder, fs.ErrExist)
	}
	if err := os.MkdirAll(filepath.Join(folder, keptFolder), 0o700); err != nil {
		return err
	}
	if err := exportLines(ctx, from, m, c, folder, seen); err != nil {
		return err
	}
	if len(signed.Cosignatures) > 0 {
		text, err := signed.Encode()
		if err == nil {
			err = write(filepath.Join(folder, cosignedFile), text)
		}
		if err != nil {
			return err
		}
	}
	return write(filepath.Join(folder, checkpointFile), []byte(signed.Checkpoint)) // last: a copy with a checkpoint is whole
}

func exportLines(ctx context.Context, from Source, m *manifest.Manifest, c ledger.Checkpoint, folder string, seen func(int64)) (err error) {
	f, err := os.OpenFile(filepath.Join(folder, linesFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	var tree ledger.Tree
	for line, err := range from.Entries(ctx, 0, c.Size) {
		if err != nil {
			return err
		}
		n := tree.Size()
		if err := tree.Add(line); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if _, err := w.Write(append(bytes.Clone(line), '\n')); err != nil {
			return err
		}
		if err := exportNamed(ctx, from, m, line, n, folder); err != nil {
			return err
		}
		if seen != nil {
			seen(n)
		}
	}
	if tree.Size() != c.Size || tree.RootHash() != c.Root {
		return fmt.Errorf("the %d lines that came are not the %d that the checkpoint signs for", tree.Size(), c.Size)
	}
	return errors.Join(w.Flush(), f.Sync())
}

// exportNamed writes what a line names: a manifest, evidence that was kept.
func exportNamed(ctx context.Context, from Source, m *manifest.Manifest, line []byte, n int64, folder string) error {
	l, err := entry.Decode(line)
	if err != nil {
		return fmt.Errorf("line %d: %w", n, err)
	}
	if f, ok := l.Fact.(entry.ManifestAdopted); ok {
		if err := exportManifest(ctx, from, m, f, n, folder); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	ref, ok := keptBy(l.Fact)
	if !ok {
		return nil
	}
	text, err := from.Kept(ctx, n)
	if err != nil {
		return err
	}
	if sha256.Sum256(text) != ref.Plain {
		return fmt.Errorf("line %d: what came as its evidence is not what it names", n)
	}
	return write(keptPath(folder, n), text)
}

// exportManifest writes the signed manifest that was adopted at line n. m is asked for first: an older coordinator serves none.
func exportManifest(ctx context.Context, from Source, m *manifest.Manifest, f entry.ManifestAdopted, n int64, folder string) error {
	envelope := m.Envelope()
	if m.Digest() != f.Manifest {
		var err error
		if envelope, err = from.Manifest(ctx, f.Epoch); err != nil {
			return err
		}
		came, err := manifest.OpenUnverified(envelope)
		if err != nil {
			return fmt.Errorf("the manifest of epoch %d: %w", f.Epoch, err)
		}
		if came.Digest() != f.Manifest {
			return fmt.Errorf("what came as the manifest of epoch %d is not what the log has adopted", f.Epoch)
		}
	}
	if n == 0 {
		return write(filepath.Join(folder, manifestFile), envelope)
	}
	if err := os.MkdirAll(filepath.Join(folder, epochFolder), 0o700); err != nil {
		return err
	}
	return write(epochPath(folder, f.Epoch), envelope)
}

func epochPath(folder string, epoch uint64) string {
	return filepath.Join(folder, epochFolder, epochName(epoch))
}

func epochName(epoch uint64) string { return strconv.FormatUint(epoch, 10) + ".dsse.json" }

// keptBy returns where a fact says that its evidence, or what the witnesses cosigned who hand over, is kept.
func keptBy(f entry.Fact) (entry.Blob, bool) {
	switch f := f.(type) {
	case entry.Admitted:
		return f.Kept, true
	case entry.Booted:
		return f.Evidence, true
	case entry.ManifestAdopted:
		if f.Enclave != nil {
			return f.Enclave.Evidence, true
		}
	case entry.HandedOver:
		return f.Cosigned, true
	}
	return entry.Blob{}, false
}

func keptPath(folder string, n int64) string {
	return filepath.Join(folder, keptFolder, strconv.FormatInt(n, 10)+".json")
}

// write makes a new file with that content, synced.
func write(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}
