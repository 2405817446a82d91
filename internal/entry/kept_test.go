package entry_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/entry"
)

func TestKept(t *testing.T) {
	k := entry.Kept{
		Evidence: []entry.KeptEvidence{{
			Type: "nitro", Body: []byte{1, 2}, Collateral: []entry.KeptCollateral{{Kind: 2, Bytes: []byte{3}}},
		}},
		Preimage: []byte{4}, ReportData: bytes.Repeat([]byte{5}, 64), Nonce: []byte{6}, SPKI: []byte{7}, Leaf: []byte{8},
		Sets: []string{"set"}, Any: []string{"set.modules: none"},
	}
	text := k.Encode()
	got, err := entry.DecodeKept(text)
	if err != nil {
		t.Fatal(err)
	}
	k.Schema = "consilium.evidence/1"
	if d := cmp.Diff(got, k); d != "" {
		t.Errorf("came back otherwise (-got +want):\n%s", d)
	}
	for name, bad := range map[string]string{
		"empty": "", "null": "null", "other schema": strings.Replace(string(text), "evidence/1", "evidence/2", 1),
		"unknown key": strings.Replace(string(text), `"schema"`, `"x":1,"schema"`, 1),
		"doubled key": strings.Replace(string(text), `"preimage"`, `"preimage":"AA==","preimage"`, 1),
		"white space": string(text) + "\n", "second value": string(text) + "{}", "cut off": string(text[:len(text)-1]),
		"large": string(text) + strings.Repeat(" ", entry.MaxKept),
	} {
		if _, err := entry.DecodeKept([]byte(bad)); err == nil {
			t.Errorf("%s: DecodeKept succeeded", name)
		}
	}
}

// FuzzDecodeKept: nothing panics, and what is read is what Encode writes, byte for byte.
func FuzzDecodeKept(f *testing.F) {
	f.Add(entry.Kept{Evidence: []entry.KeptEvidence{{Type: "nitro", Body: []byte{1}}}, Sets: []string{"set"}}.Encode())
	f.Add([]byte(`{"schema":"consilium.evidence/1"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := entry.DecodeKept(text)
		if err == nil && !bytes.Equal(k.Encode(), text) {
			t.Errorf("took %q", text)
		}
	})
}
