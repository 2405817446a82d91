package sgx

import (
	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap"
)

var _ attest.Reader = (*Verifier)(nil)

// Needs returns the names of the pieces by which the quote e.Body could be judged.
func (v *Verifier) Needs(e attest.Evidence) ([]string, error) { return v.dcap.Needs(e, dcap.SGX) }

// Examine returns Intel's pieces among e's collateral, those of the other TEE too.
func (v *Verifier) Examine(e attest.Evidence) []attest.Piece { return v.dcap.Examine(e, dcap.SGX) }

// Source returns where Intel hands a piece out.
func (v *Verifier) Source(name string) (attest.Service, string, bool) { return dcap.Source(name) }
