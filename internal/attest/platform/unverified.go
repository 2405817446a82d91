package platform

import (
	"fmt"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/nitro"
	"consilium.dev/internal/attest/sevsnp"
)

// OpenUnverified returns what evidence of a type says, judging nothing but its form: anybody can write some. It is for showing
// evidence to people, and for nothing else.
func OpenUnverified(t attest.Type, body []byte) (attest.Claims, error) {
	switch t {
	case attest.SEVSNP:
		return sevsnp.OpenUnverified(body)
	case attest.Nitro:
		return nitro.OpenUnverified(body)
	}
	return attest.Claims{}, fmt.Errorf("evidence of the type %s cannot be read by this version", t)
}

// Recognize returns the type that evidence has the form of, and false for what has none that it knows. It is a guess, by what
// evidence begins with and how long it is.
func Recognize(body []byte) (attest.Type, bool) {
	for _, t := range []attest.Type{attest.SEVSNP, attest.Nitro} {
		if _, err := OpenUnverified(t, body); err == nil {
			return t, true
		}
	}
	return 0, false
}
