package transport_test

import (
	"bytes"
	"context"
	"net"
	"runtime"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"consilium.dev/internal/attest"
)

// bubbled returns how many goroutines there are in the bubble that calls it. Others, of tests that ran before, may be on
// their way out.
func bubbled() int {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	n := 0
	for one := range bytes.SplitSeq(stacks, []byte("\n\n")) {
		head, _, _ := bytes.Cut(one, []byte("\n"))
		if bytes.Contains(head, []byte("synctest bubble")) {
			n++
		}
	}
	return n
}

// TestIdleConnections shows that an idle connection holds no goroutine of the channel, on either side.
func TestIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		server, client := makeServer(t, e.server), makeClient(t, e.client)
		before := bubbled()
		var held []outcome
		for range 16 {
			a, b := net.Pipe()
			s, c := shake(server, client, a, b)
			if s.err != nil || c.err != nil {
				t.Fatal(s.err, c.err)
			}
			held = append(held, s, c)
		}
		synctest.Wait()
		if n := bubbled() - before; n != 0 {
			t.Errorf("%d goroutines for 16 idle connections, want 0", n)
		}
		for _, o := range held {
			o.close()
		}
		synctest.Wait()
		if n := bubbled() - before; n != 0 {
			t.Errorf("%d goroutines are left", n)
		}
	})
}

// TestIdleGRPC shows that a gRPC connection over the channel holds exactly the goroutines that one without any protection
// does.
func TestIdleGRPC(t *testing.T) {
	count := func(server, client credentials.TransportCredentials) (n int) {
		const connections = 8
		lis := newPipes()
		s := grpc.NewServer(grpc.Creds(server))
		s.RegisterService(&deskService, &desk{})
		go func() { _ = s.Serve(lis) }() // ends with Stop
		synctest.Wait()
		before := bubbled()
		var all []*grpc.ClientConn
		for range connections {
			conn, err := grpc.NewClient("passthrough:///council", grpc.WithTransportCredentials(client),
				grpc.WithContextDialer(lis.dial), grpc.WithIdleTimeout(0))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, conn)
			if _, err := ask(context.Background(), conn); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		n = bubbled() - before
		if n%connections != 0 {
			t.Errorf("%d goroutines for %d connections", n, connections)
		}
		for _, conn := range all {
			_ = conn.Close()
		}
		s.Stop()
		synctest.Wait()
		return n / connections
	}
	var plain, attested int
	synctest.Test(t, func(*testing.T) { plain = count(insecure.NewCredentials(), insecure.NewCredentials()) })
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		attested = count(makeServer(t, e.server), makeClient(t, e.client))
	})
	t.Logf("%d goroutines for each idle gRPC connection, both ends together", attested)
	if plain != attested || plain == 0 {
		t.Errorf("%d goroutines an idle connection, %d without the channel", attested, plain)
	}
}
