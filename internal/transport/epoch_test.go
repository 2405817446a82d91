package transport_test

import (
	"bytes"
	"crypto"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/transport"
)

// keeper holds the manifests of the epochs that it knows, as a program does, and adopts newer ones.
type keeper struct {
	mu    sync.Mutex
	known []*manifest.Manifest // from epoch 1
	asked int
}

func (k *keeper) newest() *manifest.Manifest {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.known[len(k.known)-1]
}

func (k *keeper) newer(_ uint64, envelopes [][]byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	known := k.known
	for _, e := range envelopes {
		next, err := known[len(known)-1].Successor(e)
		if err != nil {
			return err
		}
		known = append(known, next)
	}
	k.known = known
	return nil
}

func (k *keeper) chain(from uint64) [][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all [][]byte
	for _, m := range k.known[from:] {
		all = append(all, m.Envelope())
	}
	return all
}

func (k *keeper) past(epoch uint64) attest.Policy {
	k.mu.Lock()
	defer k.mu.Unlock()
	if epoch < 1 || epoch > uint64(len(k.known)) {
		return nil
	}
	return k.known[epoch-1]
}

// use makes a configuration one of the newest epoch that the keeper knows.
func (k *keeper) use(c *transport.Config) {
	m := k.newest()
	c.Epoch, c.Manifest, c.Policy = m.Epoch(), m.Digest(), m
	c.Newer, c.Chain, c.Past = k.newer, k.chain, k.past
}

// history returns the manifests of the epochs up to n; edits hold for the epochs from 2.
func (r *realm) history(t testing.TB, n int, edits ...string) []*manifest.Manifest {
	t.Helper()
	all := []*manifest.Manifest{r.manifestOf(t)}
	for len(all) < n {
		next, err := all[len(all)-1].Successor(r.envelopeOf(t, all[len(all)-1], []string{"north", "west"}, edits...))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, next)
	}
	return all
}

// TestAdopts has the side that is behind adopt through the chain, dial again, and be admitted.
func TestAdopts(t *testing.T) {
	r := aRealm(t)
	long := r.history(t, 20)
	rotated := []string{
		"<participant/north>", spki(t, seeded("participant/north, anew")),
		"<coordinator/council>", spki(t, seeded("coordinator/council, anew")),
	}
	changed := r.history(t, 2, rotated...)
	for _, test := range []struct {
		name           string
		server, client []*manifest.Manifest
		dials          int // that it takes
		office         attest.Office
		who            string
		edit           func(*ends) // before the first dial
		then           func(*ends) // after it
	}{
		{name: "dialler one behind", server: long[:2], client: long[:1], dials: 2},
		{name: "listener one behind", server: long[:1], client: long[:2], dials: 2},
		{name: "dialler three behind", server: long[:4], client: long[:1], dials: 2},
		{name: "listener three behind", server: long[:1], client: long[:4], dials: 2},
		{name: "dialler nineteen behind: sixteen at a time", server: long, client: long[:1], dials: 3},
		{name: "listener nineteen behind: sixteen at a time", server: long[:1], client: long, dials: 3},
		{name: "person one behind", server: long[:2], client: long[:1], dials: 2, office: attest.Person, who: "ada"},
		{
			name: "dialler one behind, keys of both changed since", server: changed, client: changed[:1], dials: 2,
			edit: func(e *ends) { e.server.Identity = seeded("coordinator/council, anew") },
			then: func(e *ends) { e.client.Identity = seeded("participant/north, anew") },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if test.office == 0 {
					test.office, test.who = attest.Participant, "north"
				}
				e := r.realEnds(t, test.server[0], test.office, test.who)
				if test.edit != nil {
					test.edit(e)
				}
				ofServer, ofClient := &keeper{known: test.server}, &keeper{known: test.client}
				for dial := 1; ; dial++ {
					ofServer.use(&e.server)
					ofClient.use(&e.client)
					a, b := net.Pipe()
					server := makeServer(t, e.server)
					s, c := shake(server, makeClient(t, e.client), a, b)
					if dial == test.dials {
						if s.err != nil || c.err != nil || s.peer.Epoch != uint64(max(len(test.server), len(test.client))) {
							t.Errorf("dial %d: server: %v, client: %v", dial, s.err, c.err)
						}
						s.close()
						c.close()
						break
					}
					if classOf(s.err) != attest.ClassManifest || classOf(c.err) != attest.ClassManifest || server.Held() != 0 {
						t.Fatalf("dial %d: server: %v, client: %v, held %d", dial, s.err, c.err, server.Held())
					}
					if test.then != nil {
						test.then(e)
					}
				}
				// Whoever was behind reports nothing; whoever helped reports that it did not connect.
				ahead, behind := &e.serverRefused, &e.clientRefused
				if len(test.server) < len(test.client) {
					ahead, behind = behind, ahead
				}
				if got, not := len(ahead.list()), len(behind.list()); got != test.dials-1 || not != 0 {
					t.Errorf("%d refusals by who was ahead, want %d; %d by who was behind, want 0", got, test.dials-1, not)
				}
			})
		})
	}
}

// TestRefusesManifests has a rogue that says it is ahead send what is no chain, to a dialler and to a listener.
func TestRefusesManifests(t *testing.T) {
	r := aRealm(t)
	all := r.history(t, 20)
	one := func(m *manifest.Manifest) []byte { return transport.LP(m.Envelope()) }
	join := func(from, to int) []byte {
		var b []byte
		for _, m := range all[from:to] {
			b = append(b, one(m)...)
		}
		return b
	}
	few := r.envelopeOf(t, all[0], []string{"south"})
	twice := doubled(t, few)
	other := r.envelopeOf(t, all[0], []string{"north", "west"}, "federation: heart", "federation: lungs")
	sibling := r.envelopeOf(t, r.manifestOf(t, "<rounds>", "199"), []string{"north", "west"})
	flipped := bytes.Clone(all[1].Envelope())
	flipped[len(flipped)/2] ^= 1
	for _, test := range []struct {
		name   string
		body   []byte
		want   attest.Class
		untold bool // the receiver closes, as after a good chain
	}{
		{"a gap", one(all[2]), attest.ClassManifest, true},
		{"a gap further on", append(one(all[1]), one(all[3])...), attest.ClassManifest, true},
		{"the epoch that it has", one(all[0]), attest.ClassManifest, true},
		{"too few signatures", transport.LP(few), attest.ClassManifest, true},
		{"one signature twice", transport.LP(twice), attest.ClassManifest, true},
		{"another federation's", transport.LP(other), attest.ClassManifest, true},
		{"after another manifest", transport.LP(sibling), attest.ClassManifest, true},
		{"a bit flipped", transport.LP(flipped), attest.ClassManifest, true},
		{"no manifest", transport.LP([]byte("hello")), attest.ClassManifest, true},
		{"an empty envelope", transport.LP(nil), attest.ClassManifest, true},
		{"seventeen", join(1, 18), attest.ClassParse, false},
		{"none", nil, attest.ClassParse, false},
		{"one cut off", one(all[1])[:100], attest.ClassParse, false},
		{"a byte after the last", append(one(all[1]), 0), attest.ClassParse, false},
		{"more than a mebibyte", make([]byte, 1<<20+1), attest.ClassFrame, false},
	} {
		for _, side := range []uint8{serverSide, clientSide} {
			t.Run(fmt.Sprintf("%s, from side %d", test.name, side), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := r.realEnds(t, all[0], attest.Participant, "north")
					k := &keeper{known: all[:1:1]}
					k.use(&e.server)
					k.use(&e.client)
					g := newRogue(t, e, side)
					g.given.Epoch, g.given.Manifest = 2, all[1].Digest()
					g.script = sends(transport.Frame(5, test.body))
					checkRogue(t, rogueCase{want: test.want, untold: test.untold}, g.run())
					if k.newest().Epoch() != 1 {
						t.Errorf("adopted epoch %d", k.newest().Epoch())
					}
				})
			})
		}
	}
}

// sends goes as far as the hellos, sends a frame, and waits for what comes of it.
func sends(frame []byte) func(*rogue) {
	return func(g *rogue) {
		if g.side == clientSide {
			g.sendHello()
			g.receive(2)
		} else {
			g.receive(1)
			g.sendHello()
		}
		g.send("manifests", frame)
		g.receive(0)
	}
}

// doubled returns an envelope with each of its signatures twice.
func doubled(t *testing.T, envelope []byte) []byte {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	signatures := e["signatures"].([]any)
	e["signatures"] = append(signatures, signatures...)
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestManifestsFromWhom says whose chain is read at all: a dialler takes one from any leaf, a listener only from a leaf that
// its own manifest endorses, and whoever is ahead sends one only to a leaf that some epoch of both endorses.
func TestManifestsFromWhom(t *testing.T) {
	r := aRealm(t)
	all := r.history(t, 2)
	chain := transport.Frame(5, transport.LP(all[1].Envelope()))
	stranger := func(t *testing.T, g *rogue) {
		uri := northURI
		if g.side == serverSide {
			uri = "spiffe://heart/coordinator/council/00112233445566778899aabbccddeeff"
		}
		g.chain = mint{uri: uri, identity: seeded("stranger")}.make(t)
	}
	ahead := func(g *rogue) { g.given.Epoch, g.given.Manifest = 2, all[1].Digest() }
	behind := func(g *rogue) { g.given.Epoch, g.given.Manifest = 1, all[0].Digest() }
	for _, test := range []struct {
		name  string
		side  uint8
		known int // epochs of the victim
		twist func(*testing.T, *rogue)
		frame []byte
		asked int // times that the victim looked at a chain
		want  string
	}{
		{"a stranger to a dialler", serverSide, 1, func(t *testing.T, g *rogue) { stranger(t, g); ahead(g) }, chain, 1, "adopted"},
		{"a stranger to a listener", clientSide, 1, func(t *testing.T, g *rogue) { stranger(t, g); ahead(g) }, chain, 0, "refused"},
		{"a member to a listener", clientSide, 1, func(_ *testing.T, g *rogue) { ahead(g) }, chain, 1, "adopted"},
		{
			"a member that sends something else", clientSide, 1, func(_ *testing.T, g *rogue) { ahead(g) },
			transport.Frame(3, nil), 0, "refused",
		},
		{"a member of another federation", clientSide, 1, func(_ *testing.T, g *rogue) { ahead(g); g.given.Federation = "lungs" }, chain, 0, "refused"},
		{"a stranger that is behind a listener", clientSide, 2, func(t *testing.T, g *rogue) { stranger(t, g); behind(g) }, nil, 0, "refused"},
		{"a stranger that is behind a dialler", serverSide, 2, func(t *testing.T, g *rogue) { stranger(t, g); behind(g) }, nil, 0, "refused"},
		{"a member that is behind a listener", clientSide, 2, func(_ *testing.T, g *rogue) { behind(g) }, nil, 0, "sent"},
		{"a coordinator that is behind a dialler", serverSide, 2, func(_ *testing.T, g *rogue) { behind(g) }, nil, 0, "sent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := r.realEnds(t, all[0], attest.Participant, "north")
				k := &keeper{known: all[:test.known:test.known]}
				k.use(&e.server)
				k.use(&e.client)
				g := newRogue(t, e, test.side)
				test.twist(t, g)
				var answer []byte
				g.script = func(g *rogue) {
					if test.frame != nil {
						sends(test.frame)(g)
						return
					}
					if g.side == clientSide {
						g.sendHello()
						g.receive(2)
					} else {
						g.receive(1)
						g.sendHello()
					}
					answer = g.receive(5)
				}
				got := g.run()
				if k.asked != test.asked || (k.newest().Epoch() == 2) != (test.known == 2 || test.want == "adopted") {
					t.Errorf("asked %d times, at epoch %d", k.asked, k.newest().Epoch())
				}
				if bytes.Equal(answer, transport.LP(all[1].Envelope())) != (test.want == "sent") {
					t.Errorf("answered with %d bytes", len(answer))
				}
				if told := got.class != 0; told != (test.want == "refused") || got.victim.conn != nil {
					t.Errorf("told %v, victim: %v", got.class, got.victim.err)
				}
				if (len(got.refusals) == 0) != (test.want == "adopted") {
					t.Errorf("refusals: %v", got.refusals)
				}
			})
		})
	}
}

// TestChainFits sends of a long chain what one frame takes: whole envelopes, from the oldest.
func TestChainFits(t *testing.T) {
	large := func(n int) []byte { return bytes.Repeat([]byte("x"), n) }
	for _, test := range []struct {
		name  string
		chain [][]byte
		sent  int // envelopes; none is a refusal
	}{
		{"three of 400 KiB", [][]byte{large(400 << 10), large(400 << 10), large(400 << 10)}, 2},
		{"exactly a mebibyte", [][]byte{large(1<<19 - 4), large(1<<19 - 4)}, 2},
		{"a byte more", [][]byte{large(1<<19 - 4), large(1<<19 - 3)}, 1},
		{"one that does not fit", [][]byte{large(1<<20 - 3)}, 0},
		{"twenty", slices.Repeat([][]byte{large(10)}, 20), 16},
		{"none", nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnds(attest.Participant, "north")
				e.server.Epoch = 2
				e.server.Past = func(uint64) attest.Policy { return newPolicy() }
				e.server.Chain = func(uint64) [][]byte { return test.chain }
				var got [][]byte
				e.client.Newer = func(_ uint64, all [][]byte) error { got = all; return nil }
				a, b := net.Pipe()
				s, c := shake(makeServer(t, e.server), makeClient(t, e.client), a, b)
				if s.err == nil || c.err == nil || len(got) != test.sent {
					t.Fatalf("%d envelopes came, want %d; server: %v, client: %v", len(got), test.sent, s.err, c.err)
				}
				for i := range got {
					if !bytes.Equal(got[i], test.chain[i]) {
						t.Errorf("envelope %d is another", i)
					}
				}
			})
		})
	}
}

// A key of an epoch that is over may ask for the chain as often as a name may dial, and whoever has the name now is not counted
// with it.
func TestPaceOfAnOldKey(t *testing.T) {
	r := aRealm(t)
	all := r.history(t, 2, "<participant/north>", spki(t, seeded("participant/north, anew")))
	synctest.Test(t, func(t *testing.T) {
		e := r.realEnds(t, all[0], attest.Participant, "north")
		(&keeper{known: all}).use(&e.server)
		server := makeServer(t, e.server)
		dial := func(known int, as crypto.Signer) (s, c outcome) {
			(&keeper{known: all[:known:known]}).use(&e.client)
			e.client.Identity = as
			a, b := net.Pipe()
			s, c = shake(server, makeClient(t, e.client), a, b)
			s.close()
			c.close()
			return s, c
		}
		old, anew := seeded("participant/north"), seeded("participant/north, anew")
		for i := range 32 {
			if s, _ := dial(1, old); classOf(s.err) != attest.ClassManifest {
				t.Fatalf("dial %d with the old key: %v", i, s.err)
			}
		}
		if s, c := dial(1, old); classOf(s.err) != attest.ClassRate || classOf(c.err) != attest.ClassRate {
			t.Errorf("one dial more: server: %v, client: %v, want RATE", s.err, c.err)
		}
		if s, c := dial(2, anew); s.err != nil || c.err != nil {
			t.Errorf("with the key that holds now: server: %v, client: %v", s.err, c.err)
		}
		time.Sleep(500 * time.Millisecond)
		if s, _ := dial(1, old); classOf(s.err) != attest.ClassManifest || server.Held() != 0 {
			t.Errorf("half a second later: %v, held %d", s.err, server.Held())
		}
	})
}
