package transport_test

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/simulated"
)

// checkBoth holds both sides of a handshake against which of them refused, and why: each reports the class once, one as its
// own refusal and one as the peer's, and neither has a connection.
func checkBoth(t *testing.T, e *ends, s, c outcome, by string, class attest.Class) {
	t.Helper()
	for _, side := range []struct {
		name string
		got  outcome
		w    *witness
	}{{"server", s, &e.serverRefused}, {"client", c, &e.clientRefused}} {
		if side.got.conn != nil || classOf(side.got.err) != class {
			t.Errorf("%s: %v, want class %v", side.name, side.got.err, class)
			side.got.close()
		}
		r := side.w.one(t)
		if r.Class != class || r.ByPeer != (by != side.name) || r.Peer != "pipe" {
			t.Errorf("%s was told %+v, want class %v by the %s", side.name, r, class, by)
		}
		if r.Err == nil || r.ByPeer && r.Err.Error() != "refused by the peer, class "+class.String() {
			t.Errorf("%s learnt %v", side.name, r.Err)
		}
		t.Logf("%s: %v", side.name, r.Err)
	}
	if r := e.clientRefused.one(t); r.Name != e.client.PeerName || r.Office != e.client.PeerOffice {
		t.Errorf("the client says that it dialled the %v %q", r.Office, r.Name)
	}
	if r := e.serverRefused.one(t); r.Name != "" && (r.Name != e.client.Name || r.Office != e.client.Office) {
		t.Errorf("the server says that it was dialled by the %v %q", r.Office, r.Name)
	}
}

// TestRefusesPeers has two sides meet that are both honest programs, of which one is not what the other's manifest wants.
func TestRefusesPeers(t *testing.T) {
	r := aRealm(t)
	m := r.manifestOf(t)
	runs := func(side string, machine *simulated.Machine) func(*testing.T, *ends) {
		return func(_ *testing.T, e *ends) {
			if side == "server" {
				e.server.Attester = machine.Attester(e.server.Now)
			} else {
				e.client.Attester = machine.Attester(e.client.Now)
			}
		}
	}
	at := func(when time.Time) func(*testing.T, *ends) {
		return func(_ *testing.T, e *ends) {
			since := time.Now()
			now := func() time.Time { return when.Add(time.Since(since)) }
			e.server.Now, e.client.Now = now, now
			e.server.Attester = r.snp.Attester(now)
			if e.client.Name == "south" {
				e.client.Attester = r.nitro.Attester(now)
			}
		}
	}
	under := func(edits ...string) func(*testing.T, *ends) {
		return func(t *testing.T, e *ends) {
			other := r.manifestOf(t, edits...)
			e.client.Federation, e.client.Epoch, e.client.Manifest = other.Federation(), other.Epoch(), other.Digest()
			e.client.Policy = other
		}
	}
	for _, test := range []struct {
		name  string
		who   string // a participant, or ada
		edit  func(*testing.T, *ends)
		by    string
		class attest.Class
	}{
		{"another manifest", "north", under("<rounds>", "199"), "server", attest.ClassManifest},
		{"another federation", "north", under("federation: heart", "federation: lungs"), "server", attest.ClassManifest},
		{"older epoch, without a chain", "north", func(_ *testing.T, e *ends) { e.server.Epoch = 2 }, "server", attest.ClassManifest},
		{"newer epoch, without a chain", "north", func(_ *testing.T, e *ends) { e.client.Epoch = 2 }, "server", attest.ClassManifest},
		{"a person of another manifest", "ada", under("<rounds>", "199"), "server", attest.ClassManifest},

		{"wrong measurement of a participant on sev-snp", "north", runs("client", r.changed), "server", attest.ClassMeas},
		{"wrong measurement of a participant on nitro", "south", runs("client", r.nitroChanged), "server", attest.ClassMeas},
		{"wrong measurement of the coordinator", "north", runs("server", r.changed), "client", attest.ClassMeas},
		{"wrong measurement of the coordinator, to a person", "ada", runs("server", r.changed), "client", attest.ClassMeas},
		{"debug enclave of a participant on sev-snp", "north", runs("client", r.debug), "server", attest.ClassDebug},
		{"debug enclave of a participant on nitro", "south", runs("client", r.nitroDebug), "server", attest.ClassDebug},
		{"debug enclave of the coordinator", "south", runs("server", r.debug), "client", attest.ClassDebug},
		{"debug enclave of the coordinator, to a person", "ada", runs("server", r.debug), "client", attest.ClassDebug},
		{"firmware below the floor", "north", runs("client", r.old), "server", attest.ClassTCB},
		{"look-alike root of a participant on sev-snp", "north", runs("client", r.foreign), "server", attest.ClassChain},
		{"look-alike root of a participant on nitro", "south", runs("client", r.nitroForeign), "server", attest.ClassChain},
		{"look-alike root of the coordinator", "south", runs("server", r.foreign), "client", attest.ClassChain},
		{"coordinator on another platform", "north", runs("server", r.nitro), "client", attest.ClassPlat},

		{"expired root", "north", at(begin.AddDate(11, 0, 0)), "client", attest.ClassTime},
		{"root not yet valid", "north", at(begin.AddDate(0, 0, -1)), "client", attest.ClassTime},
		{"expired root of a participant on nitro", "south", func(t *testing.T, e *ends) {
			at(begin.AddDate(11, 0, 0))(t, e)
			e.client.Verifiers, e.client.Policy = blindly(), blindPolicy{m}
		}, "server", attest.ClassTime},
		{"nitro root not yet valid", "south", func(t *testing.T, e *ends) {
			at(begin.AddDate(0, 0, -1))(t, e)
			e.client.Verifiers, e.client.Policy = blindly(), blindPolicy{m}
		}, "server", attest.ClassTime},
		{"expired root of a participant on sev-snp", "north", func(t *testing.T, e *ends) {
			at(begin.AddDate(11, 0, 0))(t, e)
			e.client.Verifiers, e.client.Policy = blindly(), blindPolicy{m}
		}, "server", attest.ClassTime},
		{"nitro document of ten minutes ago", "south", func(_ *testing.T, e *ends) {
			e.client.Attester = r.nitro.Attester(func() time.Time { return e.client.Now().Add(-10 * time.Minute) })
		}, "server", attest.ClassTime},

		{"a member whom the manifest does not name", "east", nil, "server", attest.ClassManifest},
		{"a member with another member's key", "north", func(_ *testing.T, e *ends) {
			e.client.Identity = seeded("participant/south")
		}, "server", attest.ClassManifest},
		{"a member with its governance key", "north", func(_ *testing.T, e *ends) {
			e.client.Identity = seeded("governance/north")
		}, "server", attest.ClassManifest},
		{
			"a person with another key", "ada", func(_ *testing.T, e *ends) { e.client.Identity = seeded("person/eve") },
			"server", attest.ClassManifest,
		},
		{
			"a coordinator with another key", "north", func(_ *testing.T, e *ends) { e.server.Identity = seeded("coordinator/second") },
			"client", attest.ClassManifest,
		},
		{
			"a dialler that looks for another", "north", func(_ *testing.T, e *ends) { e.client.PeerName = "second" },
			"server", attest.ClassManifest,
		},
		{
			"a listener that takes coordinators only", "north", func(_ *testing.T, e *ends) { e.server.PeerOffice = attest.Coordinator },
			"server", attest.ClassManifest,
		},
		{"a dialler's machine that fails", "north", func(_ *testing.T, e *ends) {
			e.client.Attester = &machine{t: attest.SEVSNP, fail: errors.New("no quote today")}
		}, "client", attest.ClassPlat},
		{"a listener's machine that fails", "north", func(_ *testing.T, e *ends) {
			e.server.Attester = &machine{t: attest.SEVSNP, fail: errors.New("no quote today")}
		}, "server", attest.ClassPlat},
	} {
		t.Run(test.name, func(t *testing.T) {
			office := attest.Participant
			if test.who == "ada" {
				office = attest.Person
			}
			prepare := func(t *testing.T) *ends {
				e := r.realEnds(t, m, office, test.who)
				if test.edit != nil {
					test.edit(t, e)
				}
				return e
			}
			synctest.Test(t, func(t *testing.T) {
				e := prepare(t)
				server, client := makeServer(t, e.server), makeClient(t, e.client)
				a, b := net.Pipe()
				s, c := shake(server, client, a, b)
				checkBoth(t, e, s, c, test.by, test.class)
				if server.Held() != 0 || server.Live()+client.Live() != 0 {
					t.Errorf("held %d, live %d and %d", server.Held(), server.Live(), client.Live())
				}
			})
			synctest.Test(t, func(t *testing.T) { checkNoCall(t, prepare(t), test.class) })
		})
	}
}

func blindly() []attest.Verifier { return []attest.Verifier{blind{verifier{attest.SEVSNP}}} }

// checkNoCall makes a gRPC call over the same: it fails, and the service is not called.
func checkNoCall(t *testing.T, e *ends, class attest.Class) {
	t.Helper()
	lis := newPipes()
	d, closing := serve(makeServer(t, e.server), lis)
	defer closing()
	conn := connect(t, makeClient(t, e.client), lis)
	defer conn.Close()
	if name, err := ask(t.Context(), conn); status.Code(err) != codes.Unavailable {
		t.Errorf("a call of a refused peer = %q, %v", name, err)
	}
	if n := d.calls.Load(); n != 0 {
		t.Errorf("%d calls were served", n)
	}
	for _, w := range []*witness{&e.serverRefused, &e.clientRefused} {
		all := w.list()
		if len(all) == 0 || all[0].Class != class {
			t.Errorf("Refused was told %v, want %v", all, class)
		}
	}
}

// TestRefusesPolicies has a policy answer in ways that no manifest does.
func TestRefusesPolicies(t *testing.T) {
	for _, test := range []struct {
		name  string
		edit  func(*policy)
		class attest.Class
	}{
		{"an appraisal that holds for no time", func(p *policy) { p.ttl = 0 }, attest.ClassTime},
		{"an appraisal that held", func(p *policy) { p.ttl = -time.Hour }, attest.ClassTime},
		{"a refusal with its class", func(p *policy) { p.refuse = attest.Refuse(attest.ClassInst, "not this one") }, attest.ClassInst},
		{"a refusal without a class", func(p *policy) { p.refuse = errors.New("no") }, attest.ClassManifest},
	} {
		for _, office := range []attest.Office{attest.Participant, attest.Person} {
			t.Run(test.name+", of a "+office.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newEnds(office, map[attest.Office]string{attest.Participant: "north", attest.Person: "ada"}[office])
					p := newPolicy()
					test.edit(p)
					e.server.Policy = p
					a, b := net.Pipe()
					s, c := shake(makeServer(t, e.server), makeClient(t, e.client), a, b)
					checkBoth(t, e, s, c, "server", test.class)
				})
			})
		}
	}
}
