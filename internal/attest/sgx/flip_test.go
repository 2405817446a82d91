package sgx_test

import (
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap/dcaptest"
)

// TestEveryBit: no single bit of a real quote can be another.
func TestEveryBit(t *testing.T) {
	t.Parallel()
	dcaptest.EveryBit(t, newVerifier(t), dcaptest.Load(t, "testdata/vectors/sgx/v3-cmc", attest.SGX))
}
