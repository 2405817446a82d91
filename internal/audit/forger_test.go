package audit_test

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/simulated"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/round"
	"consilium.dev/internal/transport"
)

// forger holds what somebody has who owns the coordinator's machine and its key-encryption key: the log's key, the
// coordinator's enclave, and here some of the others' too.
type forger struct {
	machines map[string]*simulated.Machine
	keys     map[string]ed25519.PrivateKey
	signer   note.Signer
	verifier string
	spki     []byte // of the log's key
}

var newForger = sync.OnceValues(func() (*forger, error) { return makeForger(origin) })

// makeForger returns a forger of the log of that name.
func makeForger(origin string) (*forger, error) {
	f := &forger{machines: map[string]*simulated.Machine{}, keys: map[string]ed25519.PrivateKey{}}
	for _, name := range []string{"council", "cleveland", "switzerland"} {
		text, err := os.ReadFile(filepath.Join("testdata", "keys", name+".machine.json"))
		if err != nil {
			return nil, err
		}
		if f.machines[name], err = simulated.ParseMachine(text); err != nil {
			return nil, err
		}
	}
	for name, file := range map[string]string{
		"cleveland": "cleveland.identity.key", "switzerland": "switzerland.identity.key", "lead": "lead.person.key",
	} {
		text, err := os.ReadFile(filepath.Join("testdata", "keys", file))
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(text)
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		f.keys[name] = key.(ed25519.PrivateKey)
	}
	secret, verifier, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return nil, err
	}
	if f.signer, err = note.NewSigner(secret); err != nil {
		return nil, err
	}
	f.verifier = verifier
	public, err := base64.StdEncoding.DecodeString(strings.SplitN(verifier, "+", 3)[2])
	if err != nil {
		return nil, err
	}
	f.spki, err = x509.MarshalPKIXPublicKey(ed25519.PublicKey(public[1:]))
	return f, err
}

// item is a line with what was kept of it.
type item struct {
	entry.Line
	kept *entry.Kept
	raw  bool // what was kept, and the fact's word of it, are left as they are
	// For which manifest an adoption's evidence is, where it is another than the adopted one.
	under *manifest.Manifest
}

// history is a log that is being forged.
type history struct {
	*forger
	t        testing.TB
	m        *manifest.Manifest
	envelope []byte
	later    *manifest.Manifest // of epoch 2, if there is one
	items    []item
}

// opened is the committed history, read once.
var opened struct {
	sync.Once
	m     *manifest.Manifest
	items []item
}

// forge opens the committed history for forging.
func forge(t testing.TB) *history {
	t.Helper()
	f, err := newForger()
	if err != nil {
		t.Fatal(err)
	}
	c := committed(t)
	opened.Do(func() { opened.m, opened.items = openHistory(t, c) })
	h := &history{forger: f, t: t, m: opened.m, envelope: c.manifest, items: slices.Clone(opened.items)}
	for n, one := range h.items {
		if one.kept != nil {
			k := *one.kept
			h.items[n].kept = &k
		}
	}
	return h
}

func openHistory(t testing.TB, c *copied) (*manifest.Manifest, []item) {
	t.Helper()
	return openHistoryBy(t, c, options(t).Anchor)
}

func openHistoryBy(t testing.TB, c *copied, anchor [32]byte) (*manifest.Manifest, []item) {
	t.Helper()
	m, err := manifest.Load(c.manifest, manifest.Anchor{Digest: anchor})
	if err != nil {
		t.Fatal(err)
	}
	var items []item
	for n, line := range c.lines {
		l, err := entry.Decode(line)
		if err != nil {
			t.Fatal(err)
		}
		one := item{Line: l}
		if text, ok := c.kept[n]; ok {
			k, err := entry.DecodeKept(text)
			if err != nil {
				t.Fatal(err)
			}
			one.kept = &k
		}
		items = append(items, one)
	}
	return m, items
}

// seal signs the history with the forger's key: boots get new evidence, over it and over the history before them, and every
// line names what is kept of it.
func (h *history) seal() *copied {
	h.t.Helper()
	c := &copied{manifest: h.envelope, kept: map[int][]byte{}}
	if h.later != nil {
		c.later = h.later.Envelope()
	}
	var tree ledger.Tree
	for n, one := range h.items {
		switch f := one.Fact.(type) {
		case entry.Booted:
			if !one.raw {
				f.LogKey = h.verifier
				h.attest(h.m, one.kept, tree.RootHash(), one.At, "council")
			}
			c.kept[n] = one.kept.Encode()
			f.Evidence = h.refer(one, f.Evidence, c.kept[n])
			one.Fact = f
		case entry.ManifestAdopted:
			if f.Enclave == nil {
				break
			}
			if !one.raw {
				h.attest(cmp.Or(one.under, h.later), one.kept, tree.RootHash(), one.At, "council")
			}
			c.kept[n] = one.kept.Encode()
			e := *f.Enclave
			e.Evidence = h.refer(one, e.Evidence, c.kept[n])
			f.Enclave = &e
			one.Fact = f
		case entry.Admitted:
			c.kept[n] = one.kept.Encode()
			f.Kept = h.refer(one, f.Kept, c.kept[n])
			one.Fact = f
		}
		line := entry.Encode(one.Salt, one.At, one.Fact)
		if err := tree.Add(line); err != nil {
			h.t.Fatal(err)
		}
		c.lines = append(c.lines, line)
	}
	text := fmt.Sprintf("%s\n%d\n%s\n", h.signer.Name(), tree.Size(), tlog.Hash(tree.RootHash()))
	signed, err := note.Sign(&note.Note{Text: text}, h.signer)
	if err != nil {
		h.t.Fatal(err)
	}
	c.checkpoint = signed
	return c
}

func (h *history) refer(one item, ref entry.Blob, text []byte) entry.Blob {
	if !one.raw {
		ref.Plain, ref.Size = sha256.Sum256(text), int64(len(text))
	}
	return ref
}

// attest has a machine make the evidence of a boot, or of an adoption.
func (h *history) attest(m *manifest.Manifest, k *entry.Kept, head [32]byte, at time.Time, machine string) {
	h.t.Helper()
	data, preimage := transport.LogKeyBinding(h.spki, m.Federation(), m.Digest(), head)
	k.Preimage, k.ReportData, k.Nonce, k.SPKI = preimage, data[:], head[:], h.spki
	k.Evidence = h.evidence(machine, attest.Binding{ReportData: data, Nonce: head, SPKI: h.spki}, at)
}

func (h *history) evidence(machine string, b attest.Binding, at time.Time) []entry.KeptEvidence {
	h.t.Helper()
	e, err := h.machines[machine].Attester(func() time.Time { return at }).Attest(h.t.Context(), b)
	if err != nil {
		h.t.Fatal(err)
	}
	k := entry.KeptEvidence{Type: e.Type.String(), Body: e.Body}
	for _, c := range e.Collateral {
		k.Collateral = append(k.Collateral, entry.KeptCollateral{Kind: uint8(c.Kind), Bytes: c.Bytes})
	}
	return []entry.KeptEvidence{k}
}

// The fields of a session's preimage that tests replace.
const (
	fieldWho = 1 + iota
	fieldExporter
	fieldTranscript
	fieldSPKI
	fieldPeerSPKI
	fieldNonce
	fieldOwnNonce
	fieldFederation
	fieldAttester
	fieldVerifier
	fieldManifest
)

// admission edits the admission at a line, and what was kept of it.
func (h *history) admission(n int, edit func(*entry.Admitted, *entry.Kept)) {
	h.t.Helper()
	f, ok := h.items[n].Fact.(entry.Admitted)
	if !ok {
		h.t.Fatalf("line %d is a %T", n, h.items[n].Fact)
	}
	k := *h.items[n].kept
	k.Evidence = slices.Clone(k.Evidence)
	edit(&f, &k)
	h.items[n].Fact, h.items[n].kept = f, &k
}

// session gives the admission at a line another session: fields of the preimage are replaced, and the evidence, or the
// signature, is made anew by the machine and the key of its peer.
func (h *history) session(n int, fields map[int][]byte) {
	h.t.Helper()
	h.admission(n, func(f *entry.Admitted, k *entry.Kept) {
		parts := splitLP(k.Preimage)
		for i, p := range fields {
			parts[i] = p
		}
		k.Preimage = joinLP(parts)
		data := sha512.Sum512(k.Preimage)
		k.ReportData, f.Binding = data[:], sha256.Sum256(data[:])
		if f.Office == "person" {
			k.Evidence[0].Body = ed25519.Sign(h.keys[f.Name], transport.PersonInput(data))
			return
		}
		b := attest.Binding{ReportData: data, Nonce: [32]byte(parts[fieldNonce]), SPKI: k.SPKI}
		k.Evidence = h.evidence(f.Name, b, h.items[n].At)
		f.Evidence = []entry.Digest{h.signed(k.Evidence[0], b, h.items[n].At)}
	})
}

// signed returns the digest of evidence's signed body.
func (h *history) signed(k entry.KeptEvidence, b attest.Binding, at time.Time) entry.Digest {
	h.t.Helper()
	all, err := options(h.t).Verifiers(h.m)
	if err != nil {
		h.t.Fatal(err)
	}
	e := attest.Evidence{Body: k.Body}
	for _, c := range k.Collateral {
		e.Collateral = append(e.Collateral, attest.Item{Kind: attest.Kind(c.Kind), Bytes: c.Bytes})
	}
	for _, v := range all {
		if v.Type().String() == k.Type {
			e.Type = v.Type()
			claims, err := v.Verify(h.t.Context(), e, b, at, nil)
			if err != nil {
				h.t.Fatal(err)
			}
			return claims.Signed
		}
	}
	h.t.Fatalf("no verifier for %s", k.Type)
	return entry.Digest{}
}

// leaf gives the session of the admission at a line a new key, endorsed by the key of somebody, for so long.
func (h *history) leaf(n int, by string, life time.Duration) {
	h.t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	old, err := x509.ParseCertificate(h.items[n].kept.Leaf)
	if err != nil {
		h.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: old.Subject, NotBefore: old.NotBefore, NotAfter: h.items[n].At.Add(life).Truncate(time.Second),
		KeyUsage: old.KeyUsage, ExtKeyUsage: old.ExtKeyUsage, BasicConstraintsValid: true, URIs: old.URIs,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: old.Issuer}, public, h.keys[by])
	if err != nil {
		h.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		h.t.Fatal(err)
	}
	h.items[n].kept.Leaf, h.items[n].kept.SPKI = der, cert.RawSubjectPublicKeyInfo
	spki := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	h.session(n, map[int][]byte{fieldSPKI: spki[:]})
}

// insert puts lines before line n, at its instant.
func (h *history) insert(n int, all ...item) {
	for i := range all {
		all[i].At = h.items[n].At
	}
	h.items = slices.Insert(h.items, n, all...)
}

func (h *history) remove(n int) { h.items = slices.Delete(h.items, n, n+1) }

// change edits the fact at a line.
func change[F entry.Fact](h *history, n int, edit func(*F)) {
	h.t.Helper()
	f, ok := h.items[n].Fact.(F)
	if !ok {
		h.t.Fatalf("line %d is a %T, not a %T", n, h.items[n].Fact, f)
	}
	edit(&f)
	h.items[n].Fact = f
}

// run returns the id of the run that a line creates.
func (h *history) run(n int) string {
	h.t.Helper()
	return h.items[n].Fact.(entry.RunCreated).Run
}

// fail makes of a round's commit its failure.
func (h *history) fail(n int) {
	h.t.Helper()
	f := h.items[n].Fact.(entry.RoundClosed)
	h.items[n].Fact = entry.RoundFailed{
		Run: f.Run, Round: f.Round, Try: f.Try, Reason: "3 of the 4 updates needed were there at the deadline",
	}
}

// reopen has the rules draw each opening of a round anew.
func (h *history) reopen() {
	h.t.Helper()
	s := round.New()
	for n, one := range h.items {
		if _, ok := one.Fact.(entry.RoundOpened); ok {
			facts, err := s.Decide(one.At, round.Tick{Held: func(string, int, int, entry.Member) (entry.Digest, bool) { return entry.Digest{}, false }})
			if err != nil || len(facts) != 1 {
				h.t.Fatalf("line %d: the rules draw %v, %v", n, facts, err)
			}
			h.items[n].Fact = facts[0]
		}
		if err := s.Apply(one.At, h.items[n].Fact); err != nil {
			h.t.Fatalf("line %d: %v", n, err)
		}
	}
}

// root returns the root hash of the lines as they are.
func (h *history) root() [32]byte {
	h.t.Helper()
	var tree ledger.Tree
	for _, one := range h.items {
		if err := tree.Add(entry.Encode(one.Salt, one.At, one.Fact)); err != nil {
			h.t.Fatal(err)
		}
	}
	return tree.RootHash()
}

// weighed returns contributions of which the first weighs more.
func weighed(all []entry.Contribution) []entry.Contribution {
	all = slices.Clone(all)
	all[0].Weight++
	return all
}

// splitLP and joinLP are fields with their lengths before them, u32, as the attested channel hashes them.
func splitLP(b []byte) (fields [][]byte) {
	for len(b) > 0 {
		n := binary.BigEndian.Uint32(b)
		fields = append(fields, b[4:4+n])
		b = b[4+n:]
	}
	return fields
}

func joinLP(fields [][]byte) []byte {
	var b []byte
	for _, f := range fields {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
	}
	return b
}
