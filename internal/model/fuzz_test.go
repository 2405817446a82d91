package model_test

import (
	"bytes"
	"testing"

	"consilium.dev/internal/model"
)

// FuzzRead: no file makes Read panic, and what it accepts is what Write writes.
func FuzzRead(f *testing.F) {
	f.Add([]byte(smallFile))
	f.Add([]byte(file("{"+entry("a", "[]", 0, 4)+"}", 1)))
	f.Add([]byte(file("{"+entry("a", "[1]", 0, 4)+","+entry("b", "[1]", 4, 8)+"}", 1, 2)))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := model.Read(bytes.NewReader(text), 1<<16)
		if err != nil {
			return
		}
		if err := m.Validate(); err != nil {
			t.Fatalf("Validate of what was read = %v, want no error", err)
		}
		again := write(t, m)
		if !bytes.Equal(again, text) {
			t.Fatalf("Write = %q, want what was read: %q", again, text)
		}
		if m.Size() != int64(len(text)) {
			t.Fatalf("Size = %d, the file has %d bytes", m.Size(), len(text))
		}
	})
}
