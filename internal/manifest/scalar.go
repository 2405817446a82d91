package manifest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// words reads text of 1 to limit bytes without control characters: it is shown on terminals and in logs.
func (c cursor) words(limit int) string {
	if !c.is(text) {
		return ""
	}
	if n := len(c.v.text); n == 0 || n > limit {
		c.fault("has %d bytes, want 1 to %d", n, limit)
		return ""
	}
	if strings.ContainsFunc(c.v.text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		c.fault("holds characters that do not print")
		return ""
	}
	return c.v.text
}

// token reads text made of lower-case letters, digits and the characters in extra.
func (c cursor) token(extra string, limit int) string {
	s := c.words(limit)
	if strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune(extra, r)
	}) {
		c.fault("%q must be made of a-z, 0-9 and %q", s, extra)
		return ""
	}
	return s
}

// name reads the name of a federation, a peer or a set.
func (c cursor) name() string { return c.token("-", maxName) }

// choice reads text that must be one of the given.
func (c cursor) choice(of ...string) string {
	s := c.words(maxReason)
	if s != "" && !slices.Contains(of, s) {
		c.fault("is %q, want one of %s", s, strings.Join(of, ", "))
		return ""
	}
	return s
}

// whole reads a whole number in plain decimal digits.
func (c cursor) whole(least, most uint64) uint64 {
	if !c.is(number) {
		return 0
	}
	n, err := strconv.ParseUint(c.v.text, 10, 64)
	if err != nil || n < least || n > most {
		c.fault("is %s, want a whole number from %d to %d", c.v.text, least, most)
		return 0
	}
	return n
}

// positive reads a number above 0 up to most.
func (c cursor) positive(most float64) float64 {
	if !c.is(number) {
		return 0
	}
	x, err := strconv.ParseFloat(c.v.text, 64)
	if err != nil || !(x > 0 && x <= most) {
		c.fault("is %s, want a number above 0, at most %g", c.v.text, most)
		return 0
	}
	return x
}

func (c cursor) truth() bool { return c.is(truth) && c.v.text == "true" }

// hex reads n bytes as lower-case hex digits.
func (c cursor) hex(n int) []byte {
	if !c.is(text) {
		return nil
	}
	b, err := hex.DecodeString(c.v.text)
	if err != nil || len(b) != n || hex.EncodeToString(b) != c.v.text {
		c.fault("want %d bytes as %d lower-case hex digits", n, 2*n)
		return nil
	}
	return b
}

// base64 reads up to limit bytes in standard, padded base64.
func (c cursor) base64(limit int) []byte {
	if !c.is(text) {
		return nil
	}
	b, err := base64.StdEncoding.DecodeString(c.v.text)
	// Encoding again refuses line breaks and stray bits, which decoding lets pass.
	if err != nil || len(b) == 0 || len(b) > limit || base64.StdEncoding.EncodeToString(b) != c.v.text {
		c.fault("want 1 to %d bytes in padded standard base64", limit)
		return nil
	}
	return b
}

// key reads an Ed25519 public key, PKIX DER in base64, that must stand nowhere else in the document.
func (c cursor) key() ed25519.PublicKey {
	der := c.base64(64)
	if der == nil {
		return nil
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	key, ok := parsed.(ed25519.PublicKey)
	if err != nil || !ok {
		c.fault("is not an Ed25519 public key (PKIX)")
		return nil
	}
	if again, err := x509.MarshalPKIXPublicKey(key); err != nil || !bytes.Equal(again, der) {
		c.fault("is not an Ed25519 public key in its one DER form")
		return nil
	}
	if first, twice := c.all.keys[string(key)]; twice {
		c.fault("the same key stands in %s: every key serves one purpose", first)
		return nil
	}
	c.all.keys[string(key)] = c.path
	return key
}

// duration reads a span of whole seconds as Go writes it, such as 5m or 1h30m.
func (c cursor) duration(most time.Duration) time.Duration {
	if !c.is(text) {
		return 0
	}
	d, err := time.ParseDuration(c.v.text)
	if err != nil || d <= 0 || d > most || d%time.Second != 0 {
		c.fault("is %q, want whole seconds such as 5m, at most %s", c.v.text, most)
		return 0
	}
	return d
}
