package ledger_test

import (
	"bytes"
	"strings"
	"testing"

	"consilium.dev/internal/ledger"
)

// FuzzStage holds the decoder of staged objects to one spelling of each.
func FuzzStage(f *testing.F) {
	f.Add(ledger.EncodeStage(0, 1, []byte("part")))
	f.Add(ledger.EncodeStage(255, 600, nil))
	f.Add(ledger.EncodeStage(0, 4096, []byte("x")))
	f.Add(ledger.EncodeStage(1<<40-1, 1<<40, []byte("x")))
	f.Add([]byte("consilium.stage/1\n\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Add([]byte("consilium.stage/1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		again, err := ledger.RecodeStage(text)
		if err == nil && !bytes.Equal(again, text) {
			t.Errorf("%q was read as %q", text, again)
		}
	})
}

// FuzzHead does the same for heads and for checkpoints.
func FuzzHead(f *testing.F) {
	const root = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	staged := "stage/00000000000000000001-" + strings.Repeat("0a", 32)
	for _, text := range []string{
		staged + "\n" + origin + "\n1\n" + root + "\n", staged + "\n", staged, "stage/1-00\n", origin + "\n0\n" + root + "\n",
		origin + "\n01\n" + root + "\n", origin + "\n-1\n" + root + "\n", origin + "\n1\n" + root + "\nmore\n", "",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if again, err := ledger.RecodeHead(text); err == nil && !bytes.Equal(again, text) {
			t.Errorf("head %q was read as %q", text, again)
		}
		size, hash, err := ledger.ParseCheckpoint(string(text), origin)
		if err == nil && !strings.HasPrefix(string(text), origin+"\n") || size < 0 {
			t.Errorf("checkpoint %q was read as %d, %s", text, size, hash)
		}
	})
}
