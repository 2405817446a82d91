package main

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"consilium.dev/cmd/internal/setup"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/platform"
	"consilium.dev/internal/identity"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/transport"
)

// scriptRogue has somebody listen at ADDRESS until the script ends who calls himself council under the federation's manifest: on the
// machine and with the identity key in those files. A real coordinator would not start that its members would refuse.
func scriptRogue(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: rogue MACHINE KEY")
	}
	envelope := []byte(ts.ReadFile("manifest.dsse.json"))
	unverified, err := manifest.OpenUnverified(envelope)
	ts.Check(err)
	m, err := manifest.Load(envelope, manifest.Anchor{Digest: unverified.Digest()})
	ts.Check(err)
	key, err := identity.Open("file:" + ts.MkAbs(args[1]))
	ts.Check(err)
	attester, err := platform.Open(context.Background(), "simulated:"+ts.MkAbs(args[0]), platform.Host{Now: time.Now})
	ts.Check(err)
	verifiers, err := setup.Verifiers(m)
	ts.Check(err)
	creds, err := transport.Server(transport.Config{
		Office: attest.Coordinator, Name: "council", Federation: m.Federation(), Epoch: m.Epoch(), Manifest: m.Digest(),
		Identity: key, Attester: attester.Attester, Verifiers: verifiers, Policy: m,
	})
	ts.Check(err)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv("ROGUE", lis.Addr().String())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			raw, err := lis.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				if conn, _, err := creds.ServerHandshake(raw); err == nil {
					conn.Close() //nolint:errcheck // nothing is said over it
				}
			})
		}
	})
	ts.Defer(func() {
		lis.Close()   //nolint:errcheck // which ends the accepting
		creds.Close() //nolint:errcheck // and the handshakes
		serving.Wait()
	})
}
