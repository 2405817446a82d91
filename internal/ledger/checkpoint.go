package ledger

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// sign returns the checkpoint of a tree: a C2SP tlog-checkpoint without extension lines.
//
//	ORIGIN \n SIZE in decimal \n ROOT HASH in base64 \n \n signature lines
func (k *Key) sign(size int64, root tlog.Hash) ([]byte, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", k.Origin(), size, root)
	signed, err := note.Sign(&note.Note{Text: text}, signer{k})
	if err != nil {
		return nil, fmt.Errorf("signing the checkpoint: %w", err)
	}
	return signed, nil
}

// verify returns the size and root hash of a checkpoint that k signed, and refuses any other spelling of it.
func (k *Key) verify(checkpoint []byte) (int64, tlog.Hash, error) {
	n, err := note.Open(checkpoint, note.VerifierList(k.verifier))
	if err != nil {
		return 0, tlog.Hash{}, fmt.Errorf("checkpoint is not signed by the log's key: %w", err)
	}
	size, root, err := parseCheckpoint(n.Text, k.Origin())
	if err != nil {
		return 0, tlog.Hash{}, fmt.Errorf("checkpoint: %w", err)
	}
	// Base64 has bits that say nothing, and a note lines that are skipped. Ed25519 signs the same text the same way each time.
	again, err := k.sign(size, root)
	if err == nil && !bytes.Equal(again, checkpoint) {
		err = errors.New("checkpoint was altered beside what is signed")
	}
	return size, root, err
}

// parseCheckpoint reads the text of a checkpoint. There is one spelling of each.
func parseCheckpoint(text, origin string) (int64, tlog.Hash, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return 0, tlog.Hash{}, fmt.Errorf("has %d lines, want 3", len(lines)-1)
	}
	if lines[0] != origin {
		return 0, tlog.Hash{}, fmt.Errorf("is of the log %q, want %q", lines[0], origin)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return 0, tlog.Hash{}, fmt.Errorf("size %q is no whole number", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return 0, tlog.Hash{}, fmt.Errorf("root hash %q is no SHA-256 in base64", lines[2])
	}
	return size, tlog.Hash(root), nil
}

// A head is one line, the name of the staged object, and then the signed checkpoint. The name needs no signature: it holds
// the digest of what it names, and what is staged has to fit the checkpoint.
func encodeHead(staged string, checkpoint []byte) []byte {
	return append([]byte(staged+"\n"), checkpoint...)
}

func decodeHead(value []byte) (staged string, checkpoint []byte, err error) {
	line, checkpoint, ok := bytes.Cut(value, []byte("\n"))
	if !ok {
		return "", nil, errors.New("is cut off")
	}
	if _, err := parseStageName(string(line)); err != nil {
		return "", nil, err
	}
	return string(line), checkpoint, nil
}
