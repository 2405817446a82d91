package coordinator_test

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/participant"
)

// crowded returns the manifest of a federation of so many members, and their names.
func crowded(t testing.TB, r *realm, members int) ([]string, *manifest.Manifest) {
	t.Helper()
	names := slices.Clone(hospitals)
	var more strings.Builder
	for i := len(names); i < members; i++ {
		name := fmt.Sprintf("hospital-%02d", i)
		names = append(names, name)
		fmt.Fprintf(&more, "  - {name: %s, governance: %q, identity: %q}\n", name, spki(t, "governance/"+name), spki(t, "participant/"+name))
	}
	return names[:members], r.manifestOf(t, "people:\n", more.String()+"people:\n", "threshold: 3", fmt.Sprint("threshold: ", members/2+1))
}

func spki(t testing.TB, who string) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(keyOf(who).Public())
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// commitTime is how long each commit takes of a disk that counts them.
const commitTime = 10 * time.Millisecond

// metered is a disk that counts, and that takes time for what has to be durable before anything goes on.
type metered struct {
	*disk
	puts, commits atomic.Int64
}

func (m *metered) Put(ctx context.Context, name func() string, r io.Reader) error {
	m.puts.Add(1)
	return m.disk.Put(ctx, name, r)
}

func (m *metered) Swap(ctx context.Context, old uint64, value []byte) error {
	m.commits.Add(1)
	time.Sleep(commitTime)
	return m.disk.Swap(ctx, old, value)
}

// turnstile is a listener that counts how often its connections answer: write after they have read.
type turnstile struct {
	net.Listener
	turns, bytes *atomic.Int64
}

func (l turnstile) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &turned{Conn: c, l: l}, nil
}

type turned struct {
	net.Conn
	l     turnstile
	asked atomic.Bool
}

func (c *turned) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.asked.Store(true)
	c.l.bytes.Add(int64(n))
	return n, err
}

func (c *turned) Write(p []byte) (int, error) {
	if c.asked.Swap(false) {
		c.l.turns.Add(1)
	}
	c.l.bytes.Add(int64(len(p)))
	return c.Conn.Write(p)
}

// TestQuiet holds what a round of sixteen members and a small model costs beside its bytes: nobody asks again and again whether something has
// come, so it is over as soon as what it waits for is durable, after a few commits and a few answers to each member.
func TestQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const members, first, last = 16, 4, 16
		w := newWorld(t)
		var names []string
		names, w.manifest = crowded(t, w.realm, members)
		var turns, bytes atomic.Int64
		w.wrap = func(l net.Listener) net.Listener { return turnstile{l, &turns, &bytes} }
		d := &metered{disk: w.disks["council"]}
		w.serve(func(o *coordinator.Options) { o.Objects, o.Head = d, d })
		for i, name := range names {
			w.disks[name], w.books[name] = newDisk(t), newBook()
			data := filepath.Join("..", "..", "examples", "hospitals", "data", hospitals[i%len(hospitals)])
			w.join(name, func(o *participant.Options) {
				o.Data = participant.Data{Records: data + ".data", Split: data + ".split.csv"}
			})
		}
		w.books["council"].awaitMany(t, members, "admitted")
		run := w.start(plan(t, func(p *entry.Plan) { p.Rounds, p.Quorum = last, members }))
		counts := func() [5]int64 {
			return [5]int64{d.commits.Load(), d.puts.Load(), turns.Load(), bytes.Load(), time.Now().UnixNano()}
		}
		w.books["council"].awaitMany(t, first+1, "round closed", "run", run)
		before := counts()
		w.books["council"].awaitMany(t, last+1, "round closed", "run", run)
		after := counts()
		per := func(i int) float64 { return float64(after[i]-before[i]) / (last - first) }
		commits, objects, answers, moved := per(0), per(1), per(2)/members, per(3)/members
		idle := time.Duration(per(4) - commits*float64(commitTime))
		t.Logf("a round: %.1f commits and %.1f objects; of each member %.1f answers and %.0f bytes to and fro; %v without a commit under way", commits, objects, answers, moved, idle)
		// Sixteen figures, sixteen updates, a closing and an opening are 34 facts: what comes while a commit is under way is in the next one.
		if commits > 20 || objects > 4*commits {
			t.Errorf("a round takes %.1f commits and %.1f objects, want at most 20 and four for each", commits, objects)
		}
		if answers > 8 || moved > 8<<10 {
			t.Errorf("a round takes %.1f answers to each member, and %.0f bytes, want at most 8 and 8 KiB", answers, moved)
		}
		if idle > commitTime/10 {
			t.Errorf("for %v of a round nothing happens, want that nobody waits for time to pass", idle)
		}
		w.completed(run)
	})
}
