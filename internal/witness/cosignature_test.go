package witness_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	twin "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"consilium.dev/internal/witness"
)

const checkpoint = "consilium.dev/hearts\n3\nRW5kIG9mIHRoZSBsb2csIDMyIGJ5dGVzIGxvbmchISE=\n"

var (
	noon     = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	seed     = [32]byte{1, 2, 3}
	identity = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	public   = identity.Public().(ed25519.PublicKey)
)

func cosigner(federation, member string) *witness.Key {
	return witness.NewKey(witness.KeyName(federation, member), seed)
}

// endorsed returns cleveland's cosignature of the checkpoint.
func endorsed(e witness.Endorsement, k *witness.Key, at time.Time) witness.Cosignature {
	text := e.Text()
	return witness.Cosignature{
		Member: "cleveland", Endorsement: string(text), Signature: ed25519.Sign(identity, text), Line: k.Cosign([]byte(checkpoint), at),
	}
}

func good() witness.Cosignature {
	k := cosigner("hearts", "cleveland")
	return endorsed(witness.Endorsement{Federation: "hearts", Member: "cleveland", Key: k.Verifier(), From: noon.Add(-time.Hour)}, k, noon)
}

// TestTwin has a foreign implementation of C2SP tlog-cosignature read what ours signs, and ours what that one signs.
func TestTwin(t *testing.T) {
	k := cosigner("hearts", "cleveland")
	v, err := twin.NewVerifierForCosignatureV1(k.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	signed := checkpoint + "\n" + k.Cosign([]byte(checkpoint), noon)
	n, err := note.Open([]byte(signed), note.VerifierList(v))
	if err != nil {
		t.Fatal(err)
	}
	if at, err := twin.CoSigV1Timestamp(n.Sigs[0]); err != nil || !at.Equal(noon) {
		t.Errorf("the twin reads the time %s, %v, want %s", at, err, noon)
	}
	if _, err := note.Open([]byte(strings.Replace(signed, "\n3\n", "\n4\n", 1)), note.VerifierList(v)); err == nil {
		t.Error("the twin takes our cosignature for another checkpoint's")
	}
	name := witness.KeyName("hearts", "cleveland")
	secret := "PRIVATE+KEY+" + name + "+" + strings.Split(k.Verifier(), "+")[1] + "+" + base64.StdEncoding.EncodeToString(append([]byte{4}, seed[:]...))
	s, err := twin.NewSignerForCosignatureV1(secret)
	if err != nil {
		t.Fatal(err)
	}
	both, err := note.Sign(&note.Note{Text: checkpoint}, s)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c := endorsed(witness.Endorsement{Federation: "hearts", Member: "cleveland", Key: k.Verifier(), From: now.Add(-time.Hour)}, k, now)
	c.Line = strings.TrimPrefix(string(both), checkpoint+"\n")
	if at, err := c.Check("hearts", public, []byte(checkpoint)); err != nil || now.Sub(at) > time.Minute {
		t.Errorf("the twin's cosignature is of %s: %v", at, err)
	}
}

func TestCheck(t *testing.T) {
	if at, err := good().Check("hearts", public, []byte(checkpoint)); err != nil || !at.Equal(noon) {
		t.Fatalf("a good cosignature: %s, %v", at, err)
	}
	k, other := cosigner("hearts", "cleveland"), cosigner("hearts", "budapest")
	e := witness.Endorsement{Federation: "hearts", Member: "cleveland", Key: k.Verifier(), From: noon.Add(-time.Hour)}
	with := func(change func(*witness.Endorsement)) witness.Endorsement {
		f := e
		change(&f)
		return f
	}
	edit := func(change func(*witness.Cosignature)) witness.Cosignature {
		c := good()
		change(&c)
		return c
	}
	signed := func(text string) witness.Cosignature {
		return edit(func(c *witness.Cosignature) { c.Endorsement, c.Signature = text, ed25519.Sign(identity, []byte(text)) })
	}
	text := good().Endorsement
	coded := func(kind byte) string {
		key := ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
		return base64.StdEncoding.EncodeToString(append([]byte{kind}, key...))
	}
	if !strings.Contains(text, coded(4)) {
		t.Fatal("the endorsed key is spelt in another way")
	}
	for name, c := range map[string]witness.Cosignature{
		"nothing":                    {},
		"another member":             edit(func(c *witness.Cosignature) { c.Member = "budapest" }),
		"another federation":         endorsed(with(func(e *witness.Endorsement) { e.Federation = "lungs" }), k, noon),
		"endorsed for another":       endorsed(with(func(e *witness.Endorsement) { e.Member = "budapest" }), k, noon),
		"a key of another name":      endorsed(with(func(e *witness.Endorsement) { e.Key = other.Verifier() }), other, noon),
		"a key that is not endorsed": endorsed(e, other, noon),
		"before the endorsement":     endorsed(e, k, noon.Add(-2*time.Hour)),
		"after the endorsement":      endorsed(e, k, noon.Add(24*time.Hour)),
		"nobody's endorsement":       edit(func(c *witness.Cosignature) { c.Signature = nil }),
		"an altered endorsement":     edit(func(c *witness.Cosignature) { c.Signature[0] ^= 1 }),
		"the cosigner's endorsement": edit(func(c *witness.Cosignature) {
			c.Signature = ed25519.Sign(ed25519.NewKeyFromSeed(seed[:]), []byte(c.Endorsement))
		}),
		"no line":                edit(func(c *witness.Cosignature) { c.Line = "" }),
		"a line without newline": edit(func(c *witness.Cosignature) { c.Line = strings.TrimSuffix(c.Line, "\n") }),
		"two lines":              edit(func(c *witness.Cosignature) { c.Line += c.Line }),
		"an altered line":        edit(func(c *witness.Cosignature) { c.Line = strings.Replace(c.Line, "A", "B", 1) }),
		"of another checkpoint": edit(func(c *witness.Cosignature) {
			c.Line = k.Cosign([]byte(strings.Replace(checkpoint, "3", "4", 1)), noon)
		}),
		"an endorsement for a year":    signed(strings.Replace(text, "2026-03-02", "2027-03-02", 1)),
		"another spelling of the time": signed(strings.Replace(text, "11:00:00Z", "11:00:00.0Z", 1)),
		"another time zone":            signed(strings.Replace(text, "11:00:00Z", "11:00:00+00:00", 1)),
		"more lines":                   signed(text + "\n"),
		"another label":                signed(strings.Replace(text, "key/1", "key/2", 1)),
		"a key of another type":        signed(strings.Replace(text, coded(4), coded(1), 1)),
		"a key of another hash":        signed(strings.Replace(text, "+"+strings.Split(k.Verifier(), "+")[1]+"+", "+00000000+", 1)),
		"a long endorsement":           signed(strings.Replace(text, "cleveland\n", strings.Repeat("c", 1024)+"\n", 1)),
	} {
		if at, err := c.Check("hearts", public, []byte(checkpoint)); err == nil || !at.IsZero() {
			t.Errorf("%s: taken as cosigned at %s, %v", name, at, err)
		}
	}
	for name, key := range map[string]ed25519.PublicKey{"no key": nil, "a short key": public[:31], "another key": make([]byte, 32)} {
		if _, err := good().Check("hearts", key, []byte(checkpoint)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestCosigned(t *testing.T) {
	c := witness.Cosigned{Checkpoint: checkpoint + "\n\u2014 consilium.dev/hearts AAAA\n", Cosignatures: []witness.Cosignature{good()}}
	text, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := witness.DecodeCosigned(text)
	if err != nil || again.Cosignatures[0].Line != c.Cosignatures[0].Line || string(witness.Text([]byte(again.Checkpoint))) != checkpoint {
		t.Fatalf("read back: %v, %v", again, err)
	}
	for name, bad := range map[string]string{
		"nothing": "", "cut off": string(text[:len(text)-2]), "twice": string(text) + string(text), "a list": "[]\n",
		"another field": strings.Replace(string(text), `{"checkpoint"`, `{"more":1,"checkpoint"`, 1),
		"white space":   strings.Replace(string(text), `{"checkpoint"`, `{ "checkpoint"`, 1),
		"no newline":    strings.TrimSuffix(string(text), "\n"),
		"long":          strings.Repeat(" ", witness.MaxCosigned) + string(text),
	} {
		if _, err := witness.DecodeCosigned([]byte(bad)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// FuzzCosigned: what is read is written the same way, and nobody but the key's holder makes what passes.
func FuzzCosigned(f *testing.F) {
	text, err := witness.Cosigned{Checkpoint: checkpoint, Cosignatures: []witness.Cosignature{good()}}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"checkpoint":"","cosignatures":null}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := witness.DecodeCosigned(text)
		if err != nil {
			return
		}
		if again, err := c.Encode(); err != nil || !bytes.Equal(again, text) {
			t.Errorf("%q was read, and is written %q, %v", text, again, err)
		}
		for _, x := range c.Cosignatures {
			if _, err := x.Check("hearts", public, witness.Text([]byte(c.Checkpoint))); err == nil && x.Line != good().Line {
				t.Errorf("passes: %q", x)
			}
		}
	})
}
