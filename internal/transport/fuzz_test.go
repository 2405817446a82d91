package transport_test

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// What these parsers take is a stranger's. They never panic, refuse with a class, and what they accept has one encoding.

// checkClass makes sure that a refusal says what kind it is of.
func checkClass(t *testing.T, err error, want ...attest.Class) {
	t.Helper()
	for _, c := range want {
		if classOf(err) == c {
			return
		}
	}
	t.Errorf("refused with %v, want one of %v", err, want)
}

func FuzzHello(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := transport.ReencodeHello(b)
		if err != nil {
			checkClass(t, err, attest.ClassParse)
			return
		}
		if !bytes.Equal(again, b) {
			t.Errorf("parsed %x, encodes %x", b, again)
		}
	})
}

func FuzzEvidence(f *testing.F) {
	f.Fuzz(func(t *testing.T, body, announced []byte) {
		var types []attest.Type
		for _, b := range announced {
			types = append(types, attest.Type(b))
		}
		again, err := transport.ReencodeEvidence(body, types)
		if err != nil {
			checkClass(t, err, attest.ClassParse)
			return
		}
		if !bytes.Equal(again, body) {
			t.Errorf("parsed %x, encodes %x", body, again)
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, want uint8, limit uint16) {
		again, err := transport.ReadFrame(b, want, int(limit))
		if class, told := transport.AlertClass(err); told {
			if len(b) < 6 || b[0] != 6 || byte(class) != b[5] || class < attest.ClassTLS || class > attest.ClassRate {
				t.Errorf("read an alert of class %v from %x", class, b)
			}
			return
		}
		if err != nil {
			checkClass(t, err, attest.ClassFrame)
			return
		}
		if !bytes.HasPrefix(b, again) || again[0] != want || len(again) > 5+int(limit) {
			t.Errorf("read %x from %x", again, b)
		}
	})
}

func FuzzManifests(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := transport.ReencodeChain(b)
		if err != nil {
			checkClass(t, err, attest.ClassParse)
			return
		}
		if !bytes.Equal(again, b) || len(b) == 0 {
			t.Errorf("parsed %x, encodes %x", b, again)
		}
	})
}

// FuzzLeaf reads certificates. The instant is within the life of those in the corpus.
func FuzzLeaf(f *testing.F) {
	f.Fuzz(func(t *testing.T, der []byte) {
		name, cert, err := transport.ReadLeaf(der, begin)
		if cert == nil {
			return // crypto/x509's to refuse
		}
		if err != nil {
			checkClass(t, err, attest.ClassChain, attest.ClassTime)
			return
		}
		parts := strings.Split(name, "/")
		if len(cert.URIs) != 1 || cert.URIs[0].String() != name || len(parts) != 6 || len(parts[5]) != 32 {
			t.Errorf("read the name %q from %v", name, cert.URIs)
		}
		if cert.IsCA || cert.NotAfter.Sub(cert.NotBefore) > 24*time.Hour || begin.Before(cert.NotBefore) || begin.After(cert.NotAfter) {
			t.Errorf("accepted a leaf of %v to %v", cert.NotBefore, cert.NotAfter)
		}
		if len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses) != 0 {
			t.Error("accepted a leaf with other names")
		}
	})
}

func FuzzPreimage(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := transport.ParsePreimage(b)
		if err != nil {
			if s != (transport.Session{}) {
				t.Errorf("a refused preimage gave %+v", s)
			}
			return
		}
		// What it says stands in the bytes where the format puts it, and the bytes are wholly those of the format.
		fields := splitLP(b)
		side := byte(2)
		if s.Dialled {
			side = 1
		}
		if fields[1][0] != side || fields[1][1] != byte(s.Office) || !bytes.Equal(fields[1][10:], make([]byte, 8)) ||
			string(fields[8]) != s.Federation || string(fields[9]) != s.Attester || string(fields[10]) != s.Verifier ||
			!bytes.Equal(transport.LP(fields...), b) {
			t.Errorf("read %+v from %x", s, b)
		}
	})
}

// TestPreimage reads back what the golden sessions are bound to.
func TestPreimage(t *testing.T) {
	all := given()
	all.derive()
	for _, s := range all.Sessions {
		for _, end := range []struct {
			preimage octets
			me, peer end
			dialled  bool
		}{{s.Derived.PreimageC, s.Client, s.Server, true}, {s.Derived.PreimageS, s.Server, s.Client, false}} {
			got, err := transport.ParsePreimage(end.preimage)
			want := transport.Session{
				Dialled: end.dialled, Office: attest.Office(end.me.Office), Epoch: s.Epoch, Attester: end.me.Name, Verifier: end.peer.Name,
				Federation: s.Federation, Manifest: [32]byte(s.Manifest), SPKI: sha256.Sum256(end.me.SPKI), PeerSPKI: sha256.Sum256(end.peer.SPKI),
				Nonce: [32]byte(end.peer.Nonce),
			}
			if err != nil || got != want {
				t.Errorf("%s: ParsePreimage = %+v, %v, want %+v", s.Name, got, err, want)
			}
			for i := range end.preimage {
				if _, err := transport.ParsePreimage(end.preimage[:i]); err == nil {
					t.Errorf("%s: took the first %d bytes", s.Name, i)
				}
			}
			if _, err := transport.ParsePreimage(append(bytes.Clone(end.preimage), 0, 0, 0, 0)); err == nil {
				t.Errorf("%s: took a field more", s.Name)
			}
		}
	}
	if _, err := transport.ParsePreimage(all.LogKeys[0].Preimage); err == nil {
		t.Error("took the preimage of a log's key")
	}
	good := all.Sessions[0].Derived.PreimageC
	for field, value := range map[int][]byte{
		0: []byte("consilium report_data v2"), 1: append([]byte{3}, splitLP(good)[1][1:]...), 8: []byte("Heart"), 9: nil, 10: make([]byte, 64),
	} {
		parts := splitLP(good)
		parts[field] = value
		if _, err := transport.ParsePreimage(transport.LP(parts...)); err == nil {
			t.Errorf("took field %d as %q", field, value)
		}
	}
	for _, at := range []int{0, 1, 17} { // side, office, sequence
		parts := splitLP(bytes.Clone(good))
		parts[1][at] ^= 0x40
		if _, err := transport.ParsePreimage(transport.LP(parts...)); err == nil {
			t.Errorf("took byte %d of who attests changed", at)
		}
	}
}

// TestParseLeaf judges leaves that were kept, as of an instant.
func TestParseLeaf(t *testing.T) {
	now := time.Now()
	good := mint{}.make(t).Leaf
	want := transport.Leaf{
		Federation: "heart", Office: attest.Participant, Name: "north", Instance: "00112233445566778899aabbccddeeff",
		SPKI: sha256.Sum256(good.RawSubjectPublicKeyInfo), NotAfter: good.NotAfter,
	}
	if got, err := transport.ParseLeaf(newPolicy(), good.Raw, now); err != nil || got != want {
		t.Errorf("ParseLeaf = %+v, %v, want %+v", got, err, want)
	}
	nobody := mint{uri: "spiffe://heart/participant/east/00112233445566778899aabbccddeeff", identity: seeded("participant/east")}
	for _, test := range []struct {
		name string
		der  []byte
		at   time.Time
		want attest.Class
	}{
		{"garbage", good.Raw[:50], now, attest.ClassParse},
		{"before its time", good.Raw, now.Add(-time.Hour), attest.ClassTime},
		{"after its time", good.Raw, now.Add(2 * time.Hour), attest.ClassTime},
		{"no leaf's form", mint{uri: northURI + "?a"}.make(t).Leaf.Raw, now, attest.ClassChain},
		{"nobody's", nobody.make(t).Leaf.Raw, now, attest.ClassManifest},
		{"signed by another", mint{signer: seeded("participant/south")}.make(t).Leaf.Raw, now, attest.ClassSig},
	} {
		if got, err := transport.ParseLeaf(newPolicy(), test.der, test.at); classOf(err) != test.want || got != (transport.Leaf{}) {
			t.Errorf("%s: ParseLeaf = %+v, %v, want class %v", test.name, got, err, test.want)
		}
	}
}
