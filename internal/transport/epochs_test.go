package transport_test

import (
	"net"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// TestEpochs has one listener pass from an epoch to the next: whoever is connected under the old one is cut with it, and the
// process keeps its name while its leaf key is another.
func TestEpochs(t *testing.T) {
	r := aRealm(t)
	all := r.history(t, 2)
	synctest.Test(t, func(t *testing.T) {
		e := r.realEnds(t, all[0], attest.Participant, "north")
		k := &keeper{known: all[:1:1]}
		k.use(&e.server)
		k.use(&e.client)
		first := makeServer(t, e.server)
		line := transport.NewEpochs(first)
		a, b := net.Pipe()
		s, c := shake(line, makeClient(t, e.client), a, b)
		if s.err != nil || c.err != nil || line.Now() != first {
			t.Fatalf("server: %v, client: %v", s.err, c.err)
		}
		old := c.peer.State.PeerCertificates[0]

		k.known = all
		k.use(&e.server)
		e.server.Instance = first.Instance()
		if before := line.Turn(makeServer(t, e.server)); before != first {
			t.Error("Turn returns other credentials than those before")
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.conn.Read(make([]byte, 1)); err == nil {
			t.Error("a connection of the epoch before is still there")
		}
		s.close()
		c.close()
		k.use(&e.client)
		a, b = net.Pipe()
		s, c = shake(line, makeClient(t, e.client), a, b)
		if s.err != nil || c.err != nil || c.peer.Epoch != 2 {
			t.Fatalf("after the turn: server: %v, client: %v", s.err, c.err)
		}
		if c.peer.Instance != first.Instance() || old.Equal(c.peer.State.PeerCertificates[0]) {
			t.Errorf("the process is called %s, want %s, under another leaf", c.peer.Instance, first.Instance())
		}
		s.close()
		c.close()
		if _, _, err := line.ClientHandshake(t.Context(), "", a); err == nil {
			t.Error("a listener dialled")
		}
		if line.Clone() != line || line.Info() != first.Info() || line.OverrideServerName("other") == nil {
			t.Error("Clone, Info or OverrideServerName is not that of the credentials")
		}
	})
	cfg := newEnds(attest.Participant, "north").server
	cfg.Instance = "council"
	if _, err := transport.Server(cfg); err == nil {
		t.Error("an instance of words was taken")
	}
}
