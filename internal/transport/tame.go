package transport

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxStrange is how many bytes of text a peer may cause in our log before its name is proven.
const maxStrange = 512

// tameError is an error whose text a stranger had a hand in. What it wraps is still found.
type tameError struct {
	text string
	err  error
}

func (e *tameError) Error() string { return e.text }
func (e *tameError) Unwrap() error { return e.err }

// tame returns an error that reads as err does, but is cut at maxStrange bytes and has a ? for whatever cannot be printed.
// crypto/x509 quotes what it cannot parse, and that may be a quarter of a mebibyte of the peer's choice.
func tame(err error) error {
	const more = "..."
	whole := err.Error()
	var b strings.Builder
	for _, r := range whole {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '?'
		}
		if b.WriteRune(r); b.Len() > maxStrange {
			break
		}
	}
	text := b.String()
	if len(text) > maxStrange {
		cut := maxStrange - len(more)
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + more
	}
	if text == whole {
		return err
	}
	return &tameError{text, err}
}
