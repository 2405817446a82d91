package nitro_test

import (
	"encoding/asn1"
	"math/big"
)

// rawSignature turns a DER signature into r and s of size bytes each, as COSE has it (RFC 9053, section 2.1).
func rawSignature(der []byte, size int) []byte {
	var v struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &v); err != nil || len(rest) != 0 {
		panic(err)
	}
	raw := make([]byte, 2*size)
	v.R.FillBytes(raw[:size])
	v.S.FillBytes(raw[size:])
	return raw
}

// derSignature is the reverse.
func derSignature(raw []byte) []byte {
	half := len(raw) / 2
	return must(asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:half]), new(big.Int).SetBytes(raw[half:])}))
}
