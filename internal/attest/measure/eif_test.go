package measure_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"hash/crc32"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"consilium.dev/internal/attest/measure"
)

// part is a section of an image.
type part struct {
	kind uint16
	body []byte
}

// eif returns an image of the sections.
func eif(version uint16, parts ...part) []byte {
	raw := make([]byte, 548)
	copy(raw, ".eif")
	binary.BigEndian.PutUint16(raw[4:], version)
	binary.BigEndian.PutUint16(raw[26:], uint16(len(parts)))
	for i, p := range parts {
		if i < 32 {
			binary.BigEndian.PutUint64(raw[28+8*i:], uint64(len(raw)))
			binary.BigEndian.PutUint64(raw[28+8*(32+i):], uint64(len(p.body)))
		}
		raw = binary.BigEndian.AppendUint16(raw, p.kind)
		raw = binary.BigEndian.AppendUint16(raw, 0)
		raw = binary.BigEndian.AppendUint64(raw, uint64(len(p.body)))
		raw = append(raw, p.body...)
	}
	return summed(raw)
}

// summed writes the checksum that an image must have.
func summed(raw []byte) []byte {
	binary.BigEndian.PutUint32(raw[544:], crc32.ChecksumIEEE(slices.Concat(raw[:544], raw[548:])))
	return raw
}

// want returns a register that was extended once, with the digest of pieces.
func want(pieces ...string) [48]byte {
	sum := sha512.Sum384([]byte(strings.Join(pieces, "")))
	return sha512.Sum384(append(make([]byte, 48), sum[:]...))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func signer(t testing.TB) (der []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1)}
	if der, err = x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key); err != nil {
		t.Fatal(err)
	}
	return der
}

// signature returns a signature's section; bytes are lists of numbers in it, as AWS's tool writes them, or bytes.
func signature(t testing.TB, der []byte, numbers bool, times int) []byte {
	t.Helper()
	text := append([]byte("Certificate:\n"), pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 0}})...)
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	var one map[string]any
	if numbers {
		list := make([]int, len(text))
		for i, b := range text {
			list[i] = int(b)
		}
		one = map[string]any{"signing_certificate": list, "signature": []int{1, 2, 3}}
	} else {
		one = map[string]any{"signing_certificate": text, "signature": []byte{1, 2, 3}}
	}
	raw, err := cbor.Marshal(slices.Repeat([]any{one}, times))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestEIF(t *testing.T) {
	kernel, cmdline, first := part{1, []byte("kernel")}, part{2, []byte("console=ttyS0")}, part{3, []byte("init")}
	app, more, about := part{3, []byte("application")}, part{3, []byte("more")}, part{5, []byte("{}")}
	der := signer(t)
	// The register of an enclave whose application is in its first ramdisk, which many publish.
	nothing := digest(t, "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a")
	for _, test := range []struct {
		name  string
		image []byte
		want  map[int][48]byte
	}{
		{"one ramdisk", eif(4, kernel, cmdline, about, first), map[int][48]byte{
			0: want("kernel", "console=ttyS0", "init"), 1: want("kernel", "console=ttyS0", "init"), 2: nothing,
		}},
		{"three ramdisks", eif(3, kernel, cmdline, first, app, more), map[int][48]byte{
			0: want("kernel", "console=ttyS0", "init", "application", "more"), 1: want("kernel", "console=ttyS0", "init"), 2: want("application", "more"),
		}},
		{"signed", eif(4, kernel, cmdline, about, first, app, part{4, signature(t, der, true, 1)}), map[int][48]byte{
			0: want("kernel", "console=ttyS0", "init", "application"), 1: want("kernel", "console=ttyS0", "init"), 2: want("application"),
			8: want(string(der)),
		}},
		{"signed, with bytes as bytes", eif(4, kernel, cmdline, first, part{4, signature(t, der, false, 1)}), map[int][48]byte{
			0: want("kernel", "console=ttyS0", "init"), 1: want("kernel", "console=ttyS0", "init"), 2: nothing, 8: want(string(der)),
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := measure.EIF(test.image)
			if err != nil || !maps.Equal(got, test.want) {
				t.Errorf("EIF = %x, %v, want %x", got, err, test.want)
			}
		})
	}
}

func TestEIFRefuses(t *testing.T) {
	kernel, cmdline, disk := part{1, []byte("kernel")}, part{2, []byte("quiet")}, part{3, []byte("init")}
	good := func() []byte { return eif(4, kernel, cmdline, disk) }
	edited := func(at int, value ...byte) []byte {
		raw := good()
		copy(raw[at:], value)
		return summed(raw)
	}
	sig := part{4, signature(t, signer(t), false, 1)}
	for _, test := range []struct {
		name  string
		image []byte
		want  string
	}{
		{"nothing", nil, "not an enclave image file"},
		{"a header alone, cut short", good()[:547], "not an enclave image file"},
		{"another file", append([]byte("ELF"), make([]byte, 600)...), "not an enclave image file"},
		{"version 1", eif(1, kernel, disk), "of version 1"},
		{"version 5", eif(5, kernel, disk), "of version 5"},
		{"no sections", eif(4), "0 sections"},
		{"33 sections", eif(4, slices.Repeat([]part{disk}, 33)...), "33 sections"},
		{"a byte altered", func() []byte { raw := good(); raw[598] ^= 1; return raw }(), "is damaged"},
		{"a byte behind", summed(append(good(), 0)), "1 bytes behind its sections"},
		{"a section missing", edited(26, 0, 4), "ends before its section 3"},
		{"a section too few", edited(26, 0, 2), "behind its sections"},
		{"a length beyond the end", edited(548+4, 0xff), "beyond its end"},
		{"an offset of another place", edited(28+7, 1), "its header says"},
		{"a size of another length", edited(28+8*32+7, 9), "its header says"},
		{"an unknown kind", eif(4, kernel, disk, part{6, nil}), "the kind 6"},
		{"kind 0", eif(4, kernel, disk, part{0, nil}), "the kind 0"},
		{"no kernel", eif(4, cmdline, disk), "a kernel: false"},
		{"no ramdisk", eif(4, kernel, cmdline), "0 ramdisks"},
		{"two signatures", eif(4, kernel, disk, sig, sig), "has two signatures"},
		{"two signatures in one", eif(4, kernel, disk, part{4, signature(t, signer(t), true, 2)}), "2 signatures"},
		{"a signature that is no CBOR", eif(4, kernel, disk, part{4, []byte{0xff}}), "the enclave image's signature"},
		{"no certificate", eif(4, kernel, disk, part{4, must(cbor.Marshal([]any{map[string]any{"signing_certificate": []byte("x"), "signature": []byte{1}}}))}), "no certificate in PEM"},
		{"a certificate that is none", eif(4, kernel, disk, part{4, signature(t, []byte("x"), false, 1)}), "the enclave image's certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := measure.EIF(test.image)
			if err == nil || got != nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("EIF = %x, %v, want an error with %q", got, err, test.want)
			}
		})
	}
}

// FuzzEIF: no image makes it panic, and registers come of whole images only.
func FuzzEIF(f *testing.F) {
	f.Add(eif(4, part{1, []byte("k")}, part{2, nil}, part{3, []byte("i")}))
	f.Add(eif(4, part{1, []byte("k")}, part{3, []byte("i")}, part{4, signature(f, signer(f), false, 1)}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) >= 548 {
			raw = summed(slices.Clone(raw)) // else nothing gets far
		}
		got, err := measure.EIF(raw)
		if err == nil && (got[0] == [48]byte{} || got[1] == [48]byte{} || got[2] == [48]byte{}) {
			t.Errorf("EIF = %x", got)
		}
	})
}
