package ledger

import "golang.org/x/mod/sumdb/tlog"

// Path says where a tile lies, or for level -1 a bundle.
func Path(level int, n int64, w int) string {
	return path(tlog.Tile{H: tileHeight, L: level, N: n, W: w})
}

// RecodeStage decodes a staged object and encodes what came out.
func RecodeStage(text []byte) ([]byte, error) {
	s, err := decodeStage(text)
	return s.encode(), err
}

// EncodeStage returns a staged object with as many parts as it needs, each with the same content.
func EncodeStage(old, size int64, part []byte) []byte {
	s := stage{old: old, size: size}
	for range places(old, size) {
		s.parts = append(s.parts, part)
	}
	return s.encode()
}

// RecodeHead decodes a head and encodes what came out.
func RecodeHead(value []byte) ([]byte, error) {
	staged, checkpoint, err := decodeHead(value)
	return encodeHead(staged, checkpoint), err
}

// ParseCheckpoint reads a checkpoint's text.
var ParseCheckpoint = parseCheckpoint
