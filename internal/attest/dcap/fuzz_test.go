package dcap_test

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap"
	"consilium.dev/internal/attest/dcap/dcaptest"
)

// FuzzQuote writes a piece of anything over a well-signed quote, which is cut where the piece begins if it shall be: nothing panics,
// and what still passes is the quote as it was signed. The quotes' keys are new in each process, so inputs say how to alter one.
func FuzzQuote(f *testing.F) {
	v := newVerifier(f)
	var quotes [][]byte
	signed := map[[32]byte]bool{}
	for _, s := range []*scene{dcaptest.NewTDX(), dcaptest.NewSGX()} {
		q := s.Quote()
		quotes = append(quotes, q)
		signed[sha256.Sum256(q[:len(s.Header)+len(s.BodyHead)+len(s.Body)])] = true
	}
	for at := range 8 {
		f.Add(uint8(at), uint16(at*100), at%2 == 0, []byte{byte(at), 1})
	}
	f.Add(uint8(0), uint16(48), false, []byte{2, 0, 0x48, 2})
	f.Fuzz(func(t *testing.T, which uint8, at uint16, cut bool, piece []byte) {
		raw := alter(quotes[int(which)%2], at, cut, piece)
		for _, tee := range []dcap.TEE{dcap.TDX, dcap.SGX} {
			q, err := dcap.Parse(raw, tee)
			if err != nil {
				continue
			}
			if verdict, err := v.Verify(q, nil, nil, now); err == nil && !signed[verdict.Signed] {
				t.Fatalf("Verify took a quote that no key signed: %x", raw)
			}
		}
	})
}

// alter returns b with piece written over it, and nothing behind the piece if it shall be cut.
func alter(b []byte, at uint16, cut bool, piece []byte) []byte {
	b = bytes.Clone(b)
	from := int(at) % len(b)
	n := copy(b[from:], piece)
	if cut {
		b = append(b[:from+n], piece[n:]...)
	}
	return b
}

// FuzzCollateral judges a right quote by right collateral of which one piece was altered, or is of anybody's making: nothing panics,
// refusals have a class, and the platform's standing is the one that was signed, or none.
func FuzzCollateral(f *testing.F) {
	s := dcaptest.NewTDX()
	q, err := dcap.Parse(s.Quote(), dcap.TDX)
	if err != nil {
		f.Fatal(err)
	}
	v := newVerifier(f)
	right := s.Collateral()
	for i, item := range right {
		f.Add(uint8(i), uint8(item.Kind), uint16(i*50), false, []byte{7})
		f.Add(uint8(i), uint8(item.Kind), uint16(0), true, []byte("{}"))
	}
	f.Fuzz(func(t *testing.T, which, kind uint8, at uint16, cut bool, piece []byte) {
		all := append(attest.Collateral(nil), right...)
		n := int(which) % len(all)
		all[n] = attest.Item{Kind: attest.Kind(kind), Bytes: alter(all[n].Bytes, at, cut, piece)}
		for _, held := range []bool{false, true} {
			theirs, ours := all, attest.Collateral(nil)
			if held {
				theirs, ours = nil, all
			}
			verdict, err := v.Verify(q, theirs, ours, now)
			if err != nil && (err.Class < attest.ClassTLS || err.Class > attest.ClassRate) || err == nil && verdict.Platform.TCB.Checked && verdict.Platform.TCB.Status != "UpToDate" {
				t.Fatalf("Verify = %+v, %v", verdict, err)
			}
		}
	})
}
