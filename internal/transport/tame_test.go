package transport_test

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// strangeCert is a client's certificate whose one name is what no parser takes, in bytes that no terminal should be given.
func strangeCert(t *testing.T) tls.Certificate {
	t.Helper()
	key := seeded("stranger")
	san, err := asn1.Marshal([]asn1.RawValue{{
		Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte("a://[" + strings.Repeat("\x01", 8<<10)),
	}})
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: san}},
	}
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, key.Public().(ed25519.PublicKey), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestStrangersTextIsTame has a stranger show a certificate that crypto/x509 quotes at length.
func TestStrangersTextIsTame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		server := makeServer(t, e.server)
		near, far := net.Pipe()
		done := make(chan error, 1)
		go func() {
			_, _, err := server.ServerHandshake(far)
			done <- err
		}()
		line := tls.Client(near, &tls.Config{
			InsecureSkipVerify: true, NextProtos: []string{transport.ALPN}, Certificates: []tls.Certificate{strangeCert(t)},
		})
		_, _ = line.Read(make([]byte, 1)) // shakes hands, and reads the alert
		err := <-done
		_ = near.Close()
		r := e.serverRefused.one(t)
		if r.Class != attest.ClassTLS || classOf(r.Err) != attest.ClassTLS || classOf(err) != attest.ClassTLS {
			t.Errorf("refused %v: %.99v, and %.99v", r.Class, r.Err, err)
		}
		if !strings.Contains(r.Err.Error(), "certificate") {
			t.Errorf("%q does not say what was wrong", r.Err)
		}
		if len(r.Err.Error()) > 512 || len(err.Error()) > 520 {
			t.Errorf("texts of %d and %d bytes", len(r.Err.Error()), len(err.Error()))
		}
	})
}

// TestTame cuts and cleans texts.
func TestTame(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"plain", "leaf is of the person \"ada\"", "leaf is of the person \"ada\""},
		{"nothing", "", ""},
		{"512 bytes", strings.Repeat("x", 512), strings.Repeat("x", 512)},
		{"513 bytes", strings.Repeat("x", 513), strings.Repeat("x", 509) + "..."},
		{"a rune at the cut", strings.Repeat("x", 508) + "ééé", strings.Repeat("x", 508) + "..."},
		{"a line and a colour", "a\n\x1b[31mb\x00", "a??[31mb?"},
		{"not UTF-8", "a\xff\xfeb", "a??b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cause := attest.Refuse(attest.ClassTLS, "x")
			err := transport.Tame(worded{test.text, cause})
			got := err.Error()
			if got != test.want || !errors.Is(err, cause) || classOf(err) != attest.ClassTLS {
				t.Errorf("Tame(%q) = %q, want %q", test.text, got, test.want)
			}
			if len(got) > 512 || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q is not tame", got)
			}
		})
	}
}

// worded is an error of a text of its own.
type worded struct {
	text string
	err  error
}

func (e worded) Error() string { return e.text }
func (e worded) Unwrap() error { return e.err }
