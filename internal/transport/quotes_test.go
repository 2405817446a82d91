package transport_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// TestQueueIsShown has two names wait for a quote while one is made, and a stranger dial: the queue says how many wait and since
// when, does not see the stranger, and is empty in the end. Evidence of the machine's own is made before theirs.
func TestQueueIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		slow := &machine{t: attest.SEVSNP, slow: 4 * time.Second}
		quotes := transport.NewQuotes()
		e.server.Attester, e.server.Quotes = slow, quotes
		policy := withoutDevices()
		policy.know(attest.Participant, "west")
		e.server.Policy = policy
		server := makeServer(t, e.server)
		if q := quotes.Queue(); q != (transport.Queue{}) {
			t.Errorf("before anybody dials: %+v", q)
		}
		var all sync.WaitGroup
		dial := func(name string, know bool) {
			all.Go(func() {
				var w witness
				c := config(attest.Participant, name, &w)
				if know {
					c.Policy = policy
				}
				a, b := net.Pipe()
				s, d := shake(server, makeClient(t, c), a, b)
				if (s.err == nil && d.err == nil) != know {
					t.Errorf("%s: %v, %v", name, s.err, d.err)
				}
				s.close()
				d.close()
			})
			synctest.Wait()
		}
		dial("north", true)
		if q := quotes.Queue(); q.Waiting != 0 {
			t.Errorf("while one quote is made: %+v, want nobody who waits", q)
		}
		time.Sleep(time.Second)
		dial("south", true)
		time.Sleep(time.Second)
		dial("west", true)
		dial("stranger", false)
		if q := quotes.Queue(); q != (transport.Queue{Waiting: 2, Oldest: time.Second}) {
			t.Errorf("two wait: %+v, want 2, for a second", q)
		}
		began := time.Now()
		release, err := quotes.Ahead(t.Context())
		if err != nil || time.Since(began) != 2*time.Second {
			t.Errorf("own evidence waits %v (%v), want for the one quote that is being made, 2s", time.Since(began), err)
		}
		synctest.Wait()
		if slow.most != 1 || slow.busy != 0 {
			t.Errorf("%d quotes are made beside the own evidence, and %d were at a time, want 0 and 1", slow.busy, slow.most)
		}
		release()
		all.Wait()
		if q := quotes.Queue(); q != (transport.Queue{}) || slow.most != 1 {
			t.Errorf("in the end: %+v, %d quotes at a time", q, slow.most)
		}
	})
}

// TestSleptOverItsEnd sets the clock of one side over the end of the appraisal, as it stands when a machine wakes up whose timers
// have not run: nothing more is read or written.
func TestSleptOverItsEnd(t *testing.T) {
	for _, way := range []string{"read", "write"} {
		t.Run(way, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnds(attest.Participant, "north")
				var slept time.Duration
				e.client.Now = func() time.Time { return time.Now().Add(slept) }
				server, client := makeServer(t, e.server), makeClient(t, e.client)
				a, b := net.Pipe()
				s, c := shake(server, client, a, b)
				if s.err != nil || c.err != nil {
					t.Fatal(s.err, c.err)
				}
				var sending sync.WaitGroup
				sending.Go(func() { _, _ = s.conn.Write([]byte("one")) })
				if _, err := io.ReadFull(c.conn, make([]byte, 3)); err != nil {
					t.Fatalf("before the end: %v", err)
				}
				sending.Wait()
				slept = time.Hour
				var err error
				if way == "read" {
					sending.Go(func() { _, _ = s.conn.Write([]byte("two")) })
					_, err = c.conn.Read(make([]byte, 3))
				} else {
					_, err = c.conn.Write([]byte("two"))
				}
				if !errors.Is(err, transport.ErrExpired) || client.Live() != 0 {
					t.Errorf("after the end: %v, and %d connections live, want none", err, client.Live())
				}
				sending.Wait()
				s.close()
			})
		})
	}
}

// TestEvidenceCaps holds each type of evidence to its own cap, and an office that shows several to their sum.
func TestEvidenceCaps(t *testing.T) {
	tests := []struct {
		types []attest.Type
		kib   int
	}{
		{nil, 0},
		{[]attest.Type{attest.Signature}, 1},
		{[]attest.Type{attest.SEVSNP}, 16},
		{[]attest.Type{attest.Nitro}, 24},
		{[]attest.Type{attest.CCA}, 32},
		{[]attest.Type{attest.TDX}, 160},
		{[]attest.Type{attest.SGX}, 160},
		{[]attest.Type{attest.AzureSNP}, 192},
		{[]attest.Type{attest.AzureTDX}, 192},
		{[]attest.Type{attest.GCPSNP}, 192},
		{[]attest.Type{attest.GCPTDX}, 192},
		{[]attest.Type{attest.ConfidentialSpace}, 192},
		{[]attest.Type{attest.MAA}, 32},
		{[]attest.Type{attest.SEVSNP, attest.ITA}, 48},
		{[]attest.Type{attest.SEVSNP, attest.NvidiaGPU}, 1024},
		{[]attest.Type{99}, 0},
	}
	for _, test := range tests {
		if got := transport.EvidenceLimit(test.types); got != test.kib<<10 {
			t.Errorf("evidence of %v may have %d bytes, want %d KiB", test.types, got, test.kib)
		}
	}
}
