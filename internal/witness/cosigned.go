package witness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// MaxCosigned is the most bytes of an encoded Cosigned: room for a thousand witnesses.
const MaxCosigned = 1 << 20

// Cosigned is a checkpoint with its witnesses' cosignatures, as a coordinator keeps it and as an auditor's copy holds it.
type Cosigned struct {
	Checkpoint   string        `json:"checkpoint"` // signed note
	Cosignatures []Cosignature `json:"cosignatures"`
}

// Text returns what a checkpoint's signatures are over: all of it up to the empty line, the last newline included.
func Text(checkpoint []byte) []byte {
	text, _, _ := strings.Cut(string(checkpoint), "\n\n")
	return []byte(text + "\n")
}

// Encode returns the one text of c: JSON with a newline behind it.
func (c Cosigned) Encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(c); err != nil {
		return nil, fmt.Errorf("writing cosignatures: %w", err)
	}
	return b.Bytes(), nil
}

// DecodeCosigned reads what Encode wrote and nothing else. What it says is proven by nothing yet.
func DecodeCosigned(text []byte) (Cosigned, error) {
	var c Cosigned
	if len(text) > MaxCosigned {
		return c, fmt.Errorf("cosignatures of %d bytes, at most %d are allowed", len(text), MaxCosigned)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Cosigned{}, fmt.Errorf("cosignatures: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Cosigned{}, errors.New("cosignatures: something follows them")
	}
	if again, err := c.Encode(); err != nil || !bytes.Equal(again, text) {
		return Cosigned{}, errors.New("cosignatures: spelt in another way than they are written")
	}
	return c, nil
}
