package platform

import (
	"fmt"
	"slices"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap"
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

// ReportData returns what evidence of a type carries for whoever asked for it, unjudged: report data, or a document's user_data.
// It is nil where there is none, or where the evidence has not the form of its type.
func ReportData(t attest.Type, body []byte) []byte {
	switch t {
	case attest.SEVSNP, attest.Nitro:
		c, err := OpenUnverified(t, body)
		switch {
		case err != nil:
		case c.SNP != nil:
			return c.SNP.ReportData[:]
		case c.Nitro != nil:
			return c.Nitro.UserData
		}
	case attest.TDX:
		if q, err := dcap.Parse(body, dcap.TDX); err == nil {
			return slices.Clone(q.Body[tdReportData:][:64])
		}
	case attest.SGX:
		if q, err := dcap.Parse(body, dcap.SGX); err == nil {
			return slices.Clone(dcap.Enclave(q.Body).ReportData())
		}
	}
	return nil
}

// tdReportData is where REPORTDATA lies in a TD quote's body (Intel TDX DCAP Quoting Library API, "TD Quote Body").
const tdReportData = 520

// Recognize returns the type that evidence has the form of, and false for what has none that it knows. Form alone
// is looked at.
func Recognize(body []byte) (attest.Type, bool) {
	for _, t := range []attest.Type{attest.SEVSNP, attest.TDX, attest.SGX, attest.Nitro} {
		if _, err := OpenUnverified(t, body); err == nil || ReportData(t, body) != nil {
			return t, true
		}
	}
	return 0, false
}
