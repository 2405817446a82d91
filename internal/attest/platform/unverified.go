package platform

import (
	"fmt"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/nitro"
	"consilium.dev/internal/attest/sevsnp"
	"consilium.dev/internal/attest/sgx"
	"consilium.dev/internal/attest/tdx"
)

// OpenUnverified returns what evidence of a type says, judging nothing but its form: anybody can write some. It is for showing
// evidence to people, and for nothing else.
func OpenUnverified(t attest.Type, body []byte) (attest.Claims, error) {
	switch t {
	case attest.SEVSNP:
		return sevsnp.OpenUnverified(body)
	case attest.TDX:
		return tdx.OpenUnverified(body)
	case attest.SGX:
		return sgx.OpenUnverified(body)
	case attest.Nitro:
		return nitro.OpenUnverified(body)
	}
	return attest.Claims{}, fmt.Errorf("evidence of the type %s cannot be read by this version", t)
}

// ReportData returns what evidence of a type carries for whoever asked for it, unjudged: report data, or a document's user_data.
// It is nil where there is none, or where the evidence has not the form of its type.
func ReportData(t attest.Type, body []byte) []byte {
	c, err := OpenUnverified(t, body)
	switch {
	case err != nil:
	case c.SNP != nil:
		return c.SNP.ReportData[:]
	case c.TDX != nil:
		return c.TDX.ReportData[:]
	case c.SGX != nil:
		return c.SGX.ReportData[:]
	case c.Nitro != nil:
		return c.Nitro.UserData
	}
	return nil
}

// Recognize returns the type that evidence has the form of, and false for what has none that it knows. Form alone
// is looked at.
func Recognize(body []byte) (attest.Type, bool) {
	for _, t := range []attest.Type{attest.SEVSNP, attest.TDX, attest.SGX, attest.Nitro} {
		if _, err := OpenUnverified(t, body); err == nil {
			return t, true
		}
	}
	return 0, false
}
