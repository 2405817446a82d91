package transport_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// hello fields, in their order.
const (
	fVersion = iota
	fSide
	fOffice
	fNonce
	fFederation
	fManifest
	fEpoch
	fOwn
	fPeer
	fTypes
	fields
)

// splitLP takes lp fields apart.
func splitLP(b []byte) [][]byte {
	var all [][]byte
	for len(b) >= 4 {
		n := binary.BigEndian.Uint32(b)
		all = append(all, b[4:4+n])
		b = b[4+n:]
	}
	return all
}

// withField sends a hello in which one field is another.
func withField(field int, value []byte) func(*testing.T, *rogue) {
	return withHello(func(body []byte) []byte {
		all := splitLP(body)
		all[field] = value
		return transport.LP(all...)
	})
}

func withHello(edit func(body []byte) []byte) func(*testing.T, *rogue) {
	return func(_ *testing.T, g *rogue) { g.hello = edit }
}

// withFrame sends other bytes in place of a frame.
func withFrame(name string, edit func(frame []byte) []byte) func(*testing.T, *rogue) {
	return func(_ *testing.T, g *rogue) {
		g.twist = func(what string, sent []byte) []byte {
			if what == name {
				return edit(sent)
			}
			return sent
		}
	}
}

func instead(t uint8, body []byte) func([]byte) []byte {
	return func([]byte) []byte { return transport.Frame(t, body) }
}

// TestRefusesHello changes each field of the hello, on either side.
func TestRefusesHello(t *testing.T) {
	long, other := bytes.Repeat([]byte("a"), 64), sha256.Sum256([]byte("another manifest"))
	var all []rogueCase
	for _, test := range []struct {
		name  string
		field int
		value []byte
		want  attest.Class
	}{
		{"I166 version 2", fVersion, []byte{0, 2}, attest.ClassParse},
		{"I166 version of one byte", fVersion, []byte{1}, attest.ClassParse},
		{"I166 side 0", fSide, []byte{0}, attest.ClassBind},
		{"I166 side 3", fSide, []byte{3}, attest.ClassBind},
		{"I166 side of two bytes", fSide, []byte{0, 1}, attest.ClassParse},
		{"I166 office 0", fOffice, []byte{0}, attest.ClassManifest},
		{"I166 office of a person", fOffice, []byte{3}, attest.ClassManifest},
		{"I166 office missing", fOffice, nil, attest.ClassParse},
		{"I166 nonce of 31 bytes", fNonce, make([]byte, 31), attest.ClassParse},
		{"I166 nonce of 33 bytes", fNonce, make([]byte, 33), attest.ClassParse},
		{"I166 another federation", fFederation, []byte("lungs"), attest.ClassManifest},
		{"I166 federation in capitals", fFederation, []byte("Heart"), attest.ClassParse},
		{"I166 no federation", fFederation, nil, attest.ClassParse},
		{"I166 federation of 64 bytes", fFederation, long, attest.ClassParse},
		{"I166 another manifest", fManifest, other[:], attest.ClassManifest},
		{"I166 digest of 31 bytes", fManifest, other[:31], attest.ClassParse},
		{"I166 older epoch", fEpoch, make([]byte, 8), attest.ClassManifest},
		{"I166 newer epoch", fEpoch, []byte{0, 0, 0, 0, 0, 0, 0, 2}, attest.ClassManifest},
		{"I166 newest epoch", fEpoch, bytes.Repeat([]byte{0xff}, 8), attest.ClassManifest},
		{"I166 epoch of four bytes", fEpoch, []byte{0, 0, 0, 1}, attest.ClassParse},
		{"I166 another name of its own", fOwn, []byte("south"), attest.ClassManifest},
		{"I166 no name", fOwn, nil, attest.ClassParse},
		{"I166 another name of ours", fPeer, []byte("second"), attest.ClassManifest},
		{"I166 name with a slash", fPeer, []byte("coun/cil"), attest.ClassParse},
		{"I166 no types", fTypes, nil, attest.ClassParse},
		{"I166 type 0", fTypes, []byte{0}, attest.ClassParse},
		{"I166 types descending", fTypes, []byte{32, 1}, attest.ClassParse},
		{"I166 type twice", fTypes, []byte{1, 1}, attest.ClassParse},
		{"I166 type not allowed", fTypes, []byte{2}, attest.ClassPlat},
		{"I166 type unknown", fTypes, []byte{200}, attest.ClassPlat},
		{"I166 a device alone", fTypes, []byte{32}, attest.ClassPlat},
		{"I166 one type too many", fTypes, []byte{1, 5}, attest.ClassPlat},
		{"I166 a signature", fTypes, []byte{128}, attest.ClassPlat},
		{"I166 a signature too", fTypes, []byte{1, 128}, attest.ClassPlat},
	} {
		all = append(all,
			rogueCase{name: test.name + " from a client", twist: withField(test.field, test.value), want: test.want},
			rogueCase{name: test.name + " from a server", side: serverSide, twist: withField(test.field, test.value), want: test.want})
	}
	all = append(all,
		rogueCase{name: "I166 role swap: a client that says server", twist: withField(fSide, []byte{2}), want: attest.ClassBind},
		rogueCase{name: "I166 role swap: a server that says client", side: serverSide, twist: withField(fSide, []byte{1}), want: attest.ClassBind},
		rogueCase{name: "I166 office swap from a client", twist: withField(fOffice, []byte{1}), want: attest.ClassManifest},
		rogueCase{name: "I166 office swap from a server", side: serverSide, twist: withField(fOffice, []byte{2}), want: attest.ClassManifest},
		rogueCase{name: "I166 nonce of the client from a server", side: serverSide, want: attest.ClassBind, twist: func(_ *testing.T, g *rogue) {
			g.hello = func([]byte) []byte {
				g.me.Nonce = g.given.Client.Nonce
				return g.given.Hello(serverSide)
			}
		}},
		rogueCase{
			name: "I166 nonce that the server will draw", want: attest.ClassBind,
			twist: func(_ *testing.T, g *rogue) { g.me.Nonce = [32]byte(bytes.Repeat([]byte{7}, 32)) },
			setup: func(_ *testing.T, e *ends) { e.server.Rand = sevens{} },
		},
		rogueCase{name: "I166 the client's hello sent back", side: serverSide, want: attest.ClassBind, twist: func(_ *testing.T, g *rogue) {
			g.hello = func([]byte) []byte { return g.helloC }
		}},
		rogueCase{name: "I166 a byte after the hello", want: attest.ClassParse, twist: withHello(func(b []byte) []byte { return append(b, 0) })},
		rogueCase{
			name: "I166 a field after the hello", want: attest.ClassParse,
			twist: withHello(func(b []byte) []byte { return append(b, 0, 0, 0, 0) }),
		},
		rogueCase{
			name: "I166 a byte of the hello missing", want: attest.ClassParse,
			twist: withHello(func(b []byte) []byte { return b[:len(b)-1] }),
		},
		rogueCase{name: "I166 an empty hello", want: attest.ClassParse, twist: withHello(func([]byte) []byte { return []byte{} })},
		rogueCase{name: "I166 a field of 4 GiB", want: attest.ClassParse, twist: withHello(func([]byte) []byte {
			return []byte{0xff, 0xff, 0xff, 0xff, 0, 1}
		})},
	)
	all = append(all, rogueCase{
		name: "I166 evidence of another type than its hello announced", want: attest.ClassParse,
		twist: withField(fTypes, []byte{1}),
	})
	runRogues(t, all)
}

// sevens is a source of chance that gives nothing but the byte 7.
type sevens struct{}

func (sevens) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 7
	}
	return len(b), nil
}

// TestRefusesFrames sends frames out of order, twice, too large, cut and garbled.
func TestRefusesFrames(t *testing.T) {
	huge := func(t uint8, n uint32) func([]byte) []byte {
		return func([]byte) []byte { return binary.BigEndian.AppendUint32([]byte{t}, n) }
	}
	again := func(f []byte) []byte { return append(f, f...) }
	half := func(f []byte) []byte { return f[:len(f)/2] }
	var all []rogueCase
	add := func(name, frame string, side uint8, want attest.Class, edit func([]byte) []byte) {
		all = append(all, rogueCase{name: name, side: side, want: want, twist: withFrame(frame, edit)})
	}
	for side, from := range map[uint8]string{clientSide: " from a client", serverSide: " from a server"} {
		other := 3 - side
		add("hello of the other side's number"+from, "hello", side, attest.ClassFrame, func(f []byte) []byte {
			return append([]byte{other}, f[1:]...)
		})
		for _, frame := range []string{"hello", "evidence", "finished"} {
			own := map[string]uint8{"hello": side, "evidence": 3, "finished": 4}[frame]
			for _, n := range []uint8{0, 1, 2, 3, 4, 5, 7, 255} {
				if n != own && (frame != "hello" || n != other) {
					add(fmt.Sprintf("%s numbered %d%s", frame, n, from), frame, side, attest.ClassFrame, func(f []byte) []byte {
						return append([]byte{n}, f[1:]...)
					})
				}
			}
			add(frame+" of 4 GiB"+from, frame, side, attest.ClassFrame, huge(own, 0xffffffff))
			add(frame+": an alert of class 0"+from, frame, side, attest.ClassFrame, instead(6, []byte{0}))
			add(frame+": an alert of class 19"+from, frame, side, attest.ClassFrame, instead(6, []byte{19}))
			add(frame+": an alert of no bytes"+from, frame, side, attest.ClassFrame, instead(6, nil))
			add(frame+": an alert of two bytes"+from, frame, side, attest.ClassFrame, instead(6, []byte{1, 1}))
		}
		add("hello of 4 KiB and a byte"+from, "hello", side, attest.ClassFrame, instead(side, make([]byte, 4<<10+1)))
		add("finished of 33 bytes"+from, "finished", side, attest.ClassFrame, instead(4, make([]byte, 33)))
		add("finished of 31 bytes"+from, "finished", side, attest.ClassFrame, func(f []byte) []byte {
			return transport.Frame(4, f[5:36])
		})
		add("evidence with a byte after it"+from, "evidence", side, attest.ClassParse, func(f []byte) []byte {
			return transport.Frame(3, append(f[5:], 0))
		})
		add("evidence without its last byte"+from, "evidence", side, attest.ClassParse, func(f []byte) []byte {
			return transport.Frame(3, f[5:len(f)-1])
		})
		add("no evidence in its frame"+from, "evidence", side, attest.ClassParse, instead(3, nil))
		add("evidence twice in its frame"+from, "evidence", side, attest.ClassParse, func(f []byte) []byte {
			return transport.Frame(3, append(f[5:], f[5:]...))
		})
		for _, kind := range []byte{0, 12, 255} {
			add(fmt.Sprintf("collateral of kind %d%s", kind, from), "evidence", side, attest.ClassParse, func(f []byte) []byte {
				parts := splitLP(f[5:])
				parts[2] = transport.LP([]byte{kind}, nil)
				return transport.Frame(3, transport.LP(parts...))
			})
		}
	}
	add("I166 hello twice", "hello", clientSide, attest.ClassFrame, again)
	add("I166 server's hello twice", "hello", serverSide, attest.ClassFrame, again)
	add("I166 evidence twice", "evidence", clientSide, attest.ClassFrame, again)
	add("I166 sev-snp evidence beyond its cap", "evidence", serverSide, attest.ClassFrame, instead(3, make([]byte, 16<<10+1)))
	add("I166 nitro evidence beyond its cap", "evidence", clientSide, attest.ClassFrame, instead(3, make([]byte, 24<<10+1)))
	for _, frame := range []string{"hello", "evidence", "finished"} {
		for side, from := range map[uint8]string{clientSide: " from a client", serverSide: " from a server"} {
			all = append(all, rogueCase{
				name: "I166 line cut in the middle of " + frame + from, side: side, want: attest.ClassFrame, untold: true,
				twist: func(_ *testing.T, g *rogue) {
					withFrame(frame, half)(nil, g)
					twist := g.twist
					g.twist = func(what string, sent []byte) []byte {
						sent = twist(what, sent)
						if what == frame {
							_, _ = g.conn.Write(sent)
							g.err = g.line.Close()
							return nil
						}
						return sent
					}
				},
			}, rogueCase{
				name: "an alert in place of " + frame + from, side: side, want: attest.ClassMeas, peer: true,
				twist: withFrame(frame, instead(6, []byte{byte(attest.ClassMeas)})),
			})
		}
	}
	runRogues(t, all)
}

// TestRefusesFinished confirms something else than the session.
func TestRefusesFinished(t *testing.T) {
	var all []rogueCase
	for side, from := range map[uint8]string{clientSide: " from a client", serverSide: " from a server"} {
		mac := func(name string, edit func(*rogue) []byte) {
			all = append(all, rogueCase{name: name + from, side: side, want: attest.ClassBind, twist: func(_ *testing.T, g *rogue) {
				withFrame("finished", func([]byte) []byte { return transport.Frame(4, edit(g)) })(nil, g)
			}})
		}
		for i := range 32 {
			all = append(all, rogueCase{
				name: fmt.Sprintf("a bit of byte %d%s", i, from), side: side, want: attest.ClassBind,
				twist: withFrame("finished", func(f []byte) []byte { f[5+i] ^= 1 << (i % 8); return f }),
			})
		}
		for _, v := range []byte{0, 2, 255} {
			all = append(all, rogueCase{
				name: fmt.Sprintf("verdict %d%s", v, from), side: side, want: attest.ClassBind,
				twist: func(_ *testing.T, g *rogue) { g.verdict = v },
			})
		}
		mac("of the other side", func(g *rogue) []byte {
			return transport.Finished(g.given.EKMF, 3-g.side, g.th, g.evidenceS, g.evidenceC, 1)
		})
		mac("of another session", func(g *rogue) []byte {
			return transport.Finished(g.given.EKMC, g.side, g.th, g.evidenceS, g.evidenceC, 1)
		})
		mac("of another transcript", func(g *rogue) []byte {
			return transport.Finished(g.given.EKMF, g.side, [32]byte{}, g.evidenceS, g.evidenceC, 1)
		})
		mac("of other evidence of the server", func(g *rogue) []byte {
			return transport.Finished(g.given.EKMF, g.side, g.th, nil, g.evidenceC, 1)
		})
		mac("of other evidence of the client", func(g *rogue) []byte {
			return transport.Finished(g.given.EKMF, g.side, g.th, g.evidenceS, nil, 1)
		})
		mac("of the evidence exchanged", func(g *rogue) []byte {
			return transport.Finished(g.given.EKMF, g.side, g.th, g.evidenceC, g.evidenceS, 1)
		})
		mac("of zeros", func(*rogue) []byte { return make([]byte, 32) })
	}
	runRogues(t, all)
}

// TestRefusesPeople has people and machines show what is the other's, and people sign what is not theirs to sign.
func TestRefusesPeople(t *testing.T) {
	person := func(name string, want attest.Class, twist func(*testing.T, *rogue)) rogueCase {
		return rogueCase{name: name, office: attest.Person, who: "ada", want: want, twist: twist}
	}
	signed := func(name string, want attest.Class, sign func(g *rogue, b attest.Binding) []byte) rogueCase {
		return person(name, want, func(t *testing.T, g *rogue) {
			g.witness = func(b attest.Binding) []attest.Evidence {
				return []attest.Evidence{{Type: attest.Signature, Body: sign(g, b)}}
			}
		})
	}
	by := func(who string, message func(attest.Binding) []byte) func(*rogue, attest.Binding) []byte {
		return func(g *rogue, b attest.Binding) []byte {
			sig, err := seeded(who).Sign(nil, message(b), crypto.Hash(0))
			if err != nil {
				g.t.Error(err)
			}
			return sig
		}
	}
	right := func(b attest.Binding) []byte { return transport.PersonInput(b.ReportData) }
	showing := func(types ...byte) func(*testing.T, *rogue) { return withField(fTypes, types) }
	runRogues(t, []rogueCase{
		person("as she should", 0, func(*testing.T, *rogue) {}),
		person("a person who shows evidence", attest.ClassPlat, showing(byte(attest.SEVSNP))),
		person("a person who shows evidence too", attest.ClassPlat, showing(byte(attest.SEVSNP), byte(attest.Signature))),
		{name: "a member who shows a signature", want: attest.ClassPlat, twist: showing(byte(attest.Signature))},
		{name: "a member who shows a signature too", want: attest.ClassPlat, twist: showing(byte(attest.Nitro), byte(attest.Signature))},
		{name: "a coordinator who shows a signature", side: serverSide, want: attest.ClassPlat, twist: showing(byte(attest.Signature))},
		{
			name: "a member who shows a signature, where the policy would have it", want: attest.ClassPlat,
			twist: showing(byte(attest.Signature)), setup: func(_ *testing.T, e *ends) {
				p := newPolicy()
				p.types[attest.Participant] = [][]attest.Type{{attest.Signature}}
				e.server.Policy = p
			},
		},
		signed("no signature", attest.ClassParse, func(*rogue, attest.Binding) []byte { return nil }),
		signed("a signature of 63 bytes", attest.ClassParse, func(*rogue, attest.Binding) []byte { return make([]byte, 63) }),
		signed("zeros for a signature", attest.ClassBind, func(*rogue, attest.Binding) []byte { return make([]byte, 64) }),
		signed("a signature by another person", attest.ClassBind, by("person/bob", right)),
		signed("a signature without the label", attest.ClassBind, by("person/ada", func(b attest.Binding) []byte { return b.ReportData[:] })),
		signed("a signature over another session", attest.ClassBind, by("person/ada", func(attest.Binding) []byte {
			return transport.PersonInput([64]byte{1})
		})),
		signed("a signature by the leaf", attest.ClassBind, func(g *rogue, b attest.Binding) []byte {
			sig, err := g.chain.PrivateKey.(crypto.Signer).Sign(nil, right(b), crypto.Hash(0))
			if err != nil {
				g.t.Error(err)
			}
			return sig
		}),
		person("a signature with collateral", attest.ClassParse, func(t *testing.T, g *rogue) {
			sign := g.witness
			g.witness = func(b attest.Binding) []attest.Evidence {
				all := sign(b)
				all[0].Collateral = attest.Collateral{{Kind: attest.KindCRL, Bytes: []byte("x")}}
				return all
			}
		}),
	})
}
