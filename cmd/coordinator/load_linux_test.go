package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"consilium.dev/cmd/internal/setup"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/simulated"
	"consilium.dev/internal/blob/kms/file"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/identity"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
	"consilium.dev/internal/trainer"
	"consilium.dev/internal/transport"
)

var load = flag.Bool("load", false, "TestLoad has 1,000 participants, not some dozens")

// crowd is how many there are of each kind in TestLoad.
type crowd struct {
	members int // who train and send
	slow    int // of them, send slowly
	seers   int // of the others, are witnesses; more than half of them decide
	rounds  int
	width   int   // values of a record, each a parameter
	pace    int   // bytes a second that the slow ones send
	uploads int64 // the coordinator's budget
}

// eachConnection is the most memory that a connection of a member may take in the coordinator with a small model.
const eachConnection = 512 << 10

// TestLoad has many participants take part in one run: real ones, with evidence, consents and training, in this process, and
// the coordinator in a process of its own. Some send slowly, some are the log's witnesses, and a lead is connected and never reads. The memory that
// uploads may take is much less than what is sent at once; the coordinator keeps within it, beside what its connections take.
func TestLoad(t *testing.T) {
	c := crowd{members: 24, slow: 6, seers: 5, rounds: 1, width: 2048, pace: 8 << 10, uploads: 64 << 10}
	if *load {
		c = crowd{members: 1000, slow: 200, seers: 5, rounds: 3, width: 4096, pace: 4 << 10, uploads: 1 << 20}
	}
	f := newThrong(t, c)
	council := f.council()
	empty := council.outside()
	began := time.Now()
	for i := range c.members {
		f.join(i)
	}
	f.deaf()
	council.await("admitted", c.members) // each before its first call is served
	met := time.Since(began)
	run := f.start(f.plan())
	council.await("round closed", c.rounds)
	council.await("round released", c.rounds)
	full := council.outside()
	lead := f.lead()
	_, _ = lead.Cancel(t.Context(), run, "loaded") // the run may have ended by itself; whether it has, the log says
	_ = lead.Close()
	council.await("run ended", 1)
	// The few are also tried under the race detector, which takes memory of its own.
	if got, most := full.peak, empty.peak+c.uploads+int64(c.members)*eachConnection+32<<20; *load && got > most {
		t.Errorf("the coordinator took %d bytes at most, want no more than %d", got, most)
	}
	fmt.Printf("load: %d participants (%d slow, %d witnesses), %d rounds closed and released in %.0f s, peak resident %.1f MiB (%.1f MiB before them, budget %.2f MiB uploads), handshakes %.0f/s\n",
		c.members, c.slow, c.seers, c.rounds, time.Since(began).Seconds(), mebibytes(full.peak), mebibytes(empty.resident), mebibytes(c.uploads),
		float64(c.members)/met.Seconds())
}

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }

// throng is a federation of many members, who share one machine and one kind of records.
type throng struct {
	*federation
	crowd
	machine *simulated.Machine
	kek     store.Sealer
}

func nameOf(i int) string { return fmt.Sprintf("member-%04d", i) }

func memberKey(office string, i int) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "%s of member %d", office, i))
	return ed25519.NewKeyFromSeed(seed[:])
}

func newThrong(t *testing.T, c crowd) *throng {
	t.Helper()
	f := &throng{federation: &federation{t: t, dir: t.TempDir(), words: map[string]string{}}, crowd: c}
	f.must(os.MkdirAll(f.path("council"), 0o700))
	f.words["key of lead"] = identity.Text(f.key("lead.key"))
	f.words["identity key of council"] = identity.Text(f.key("council", "identity.key"))
	f.must(file.Create(f.path("council", "kek.json")))
	for _, m := range hospitals {
		f.must(os.MkdirAll(f.path(m), 0o700))
	}
	f.machines()
	root, err := theRoot()
	f.must(err)
	f.machine, err = root.SNP(simulated.SNPSpec{})
	f.must(err)
	f.kek, err = file.Open(f.path("council", "kek.json"))
	f.must(err)
	f.agree()
	f.copy("council.yaml", "council", "coordinator.yaml")
	f.listen("127.0.0.1:0")
	f.edit(fmt.Sprintf("limits: {uploads: %d}\n", c.uploads))
	f.records()
	return f
}

// edit adds to the coordinator's configuration.
func (f *throng) edit(more string) {
	name := f.path("council", "coordinator.yaml")
	text, err := os.ReadFile(name)
	f.must(err)
	f.must(os.WriteFile(name, append(text, more...), 0o600))
}

var witnesses = regexp.MustCompile(`(?m)^witnesses: .*$`)

// agree makes the manifest of all members, signed by more than half.
func (f *throng) agree() {
	f.t.Helper()
	f.copy("manifest.yaml", "manifest.yaml")
	text, err := os.ReadFile(f.path("manifest.yaml"))
	f.must(err)
	head, rest, _ := strings.Cut(string(text), "members:\n")
	_, tail, _ := strings.Cut(rest, "people:\n")
	var b strings.Builder
	for i := range f.members {
		fmt.Fprintf(&b, "  - {name: %s, governance: %q, identity: %q}\n", nameOf(i),
			identity.Text(memberKey("governance", i).Public().(ed25519.PublicKey)),
			identity.Text(memberKey("identity", i).Public().(ed25519.PublicKey)))
	}
	threshold := f.members/2 + 1
	head = strings.Replace(head, "threshold: 3", fmt.Sprintf("threshold: %d", threshold), 1)
	tail = strings.Replace(tail, "member: cleveland", "member: "+nameOf(0), 1)
	var seers []string
	for i := range f.seers {
		seers = append(seers, nameOf(f.slow+i))
	}
	tail = witnesses.ReplaceAllString(tail, fmt.Sprintf("witnesses: {quorum: %d, members: [%s]}", f.seers/2+1, strings.Join(seers, ", ")))
	whole := head + "members:\n" + b.String() + "people:\n" + tail
	began := time.Now()
	payload, err := manifest.Build([]byte(whole))
	f.must(err)
	built := time.Since(began)
	envelope := f.signed(payload, threshold)
	f.t.Logf("manifest: %d bytes of text, %d of envelope, built in %v, %d signatures in %v", len(whole), len(envelope), built, threshold, time.Since(began)-built)
	f.must(os.WriteFile(f.path("manifest.dsse.json"), envelope, 0o600))
	digest := manifest.Digest(payload)
	f.words["anchor of the manifest"] = fmt.Sprintf("%x", digest)
	began = time.Now()
	f.manifest, err = setup.Manifest(f.path("manifest.dsse.json"), f.words["anchor of the manifest"], "")
	f.must(err)
	f.t.Logf("manifest: loaded in %v", time.Since(began))
}

// signed returns the manifest as the first n members have signed it: what manifest.Sign makes one by one, each time looking at
// all signatures that are there.
func (f *throng) signed(payload []byte, n int) []byte {
	f.t.Helper()
	const kind = "application/vnd.consilium.manifest+json"
	type signature struct {
		Sig []byte `json:"sig"`
	}
	out := struct {
		Payload     []byte      `json:"payload"`
		PayloadType string      `json:"payloadType"`
		Signatures  []signature `json:"signatures"`
	}{Payload: payload, PayloadType: kind}
	message := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload)
	for i := range n {
		out.Signatures = append(out.Signatures, signature{ed25519.Sign(memberKey("governance", i), message)})
	}
	text, err := json.Marshal(out)
	f.must(err)
	return text
}

// records makes the members' records: five rows of digits.
func (f *throng) records() {
	var text strings.Builder
	digits := rand.New(rand.NewPCG(1, 2))
	for line := range 5 {
		for range f.width {
			fmt.Fprintf(&text, "%d,", digits.IntN(10))
		}
		fmt.Fprintf(&text, "%d\n", line%2)
	}
	f.must(os.WriteFile(f.path("records.csv"), []byte(text.String()), 0o600))
	f.must(os.WriteFile(f.path("split.csv"), []byte("line,set\n1,test\n2,train\n3,train\n4,train\n5,train\n"), 0o600))
}

func (f *throng) plan() entry.Plan {
	return plan(f.t, func(p *entry.Plan) {
		p.Name, p.Rounds, p.Standardize, p.Quorum, p.ReportGoal = "load", f.rounds, nil, f.members, 0
		p.Schema = fmt.Appendf(nil, `{"columns": [{"name": "gene", "use": "number", "count": %d}, {"name": "ill", "use": "label", "above": 0}]}`, f.width)
	})
}

// join starts a member's participant in this process.
func (f *throng) join(i int) {
	f.t.Helper()
	o := participant.Options{
		Name: nameOf(i), Manifest: f.manifest, Coordinator: "council", Address: f.where(), Identity: memberKey("identity", i),
		Attester: f.machine.Attester(time.Now), Verifiers: setup.Verifiers, Objects: storetest.New(), KEK: f.kek,
		Data: participant.Data{Records: f.path("records.csv"), Split: f.path("split.csv")},
		Policy: participant.Policy{
			Leads: []string{"lead"}, Strategies: []string{"fedavg"}, Trainers: []string{trainer.Logistic}, LeastParticipants: 2, LeastRecords: 1,
		},
		Log: zap.NewNop(), Version: "test", Dial: f.dialler(i),
	}
	p, err := participant.New(o)
	f.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("%s: %v", nameOf(i), err)
		}
	})
}

// deaf has a lead come over the channel, open an HTTP/2 connection, and never read again.
func (f *throng) deaf() {
	f.t.Helper()
	key, err := identity.Open("file:" + f.path("lead.key"))
	f.must(err)
	verifiers, err := setup.Verifiers(f.manifest)
	f.must(err)
	creds, err := transport.Client(transport.Config{
		Office: attest.Person, Name: "lead", PeerOffice: attest.Coordinator, PeerName: "council", Federation: f.manifest.Federation(),
		Epoch: f.manifest.Epoch(), Manifest: f.manifest.Digest(), Identity: key, Verifiers: verifiers, Policy: f.manifest,
	})
	f.must(err)
	raw, err := net.Dial("tcp", f.where())
	f.must(err)
	line, _, err := creds.ClientHandshake(f.t.Context(), "", raw)
	f.must(err)
	f.t.Cleanup(func() {
		_ = line.Close()
		_ = creds.Close()
	})
	// HTTP/2's preface and an empty SETTINGS.
	_, err = line.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	f.must(err)
}

// dialler gives each member an address of its own, as far as the loopback network has them, and the slow ones a slow line.
func (f *throng) dialler(i int) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(i/200), byte(1+i%200))}}
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil || i >= f.slow {
			return conn, err
		}
		return &slowLine{Conn: conn, pace: f.pace}, nil
	}
}

// slowLine sends so many bytes a second after the first 16 KiB, which the handshake takes.
type slowLine struct {
	net.Conn
	pace int
	sent int
}

func (l *slowLine) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		part := p[n:min(len(p), n+1024)]
		if l.sent > 16<<10 {
			time.Sleep(time.Duration(len(part)) * time.Second / time.Duration(l.pace))
		}
		k, err := l.Conn.Write(part)
		n += k
		l.sent += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// counted is a coordinator of which only is kept how often it has said what: it says too much to be read again and again.
type counted struct {
	*process
	mu      sync.Mutex // guards what follows
	rest    []byte
	said    map[string]int
	changed chan struct{}
}

func (f *throng) council() *counted {
	f.t.Helper()
	c := &counted{said: map[string]int{}, changed: make(chan struct{})}
	cmd := self(f.t, "coordinator", f.path("council", "coordinator.yaml"))
	cmd.Stderr = c
	c.process = launch(f.t, "coordinator", cmd)
	c.await("serving", 1)
	f.reach(c.process)
	return c
}

func (c *counted) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rest = append(c.rest, p...)
	for {
		line, rest, whole := bytes.Cut(c.rest, []byte("\n"))
		if !whole {
			break
		}
		c.rest = rest
		_, after, _ := bytes.Cut(line, []byte(`"msg":"`))
		msg, _, _ := bytes.Cut(after, []byte(`"`))
		c.said[string(msg)]++
	}
	close(c.changed)
	c.changed = make(chan struct{})
	return len(p), nil
}

func (c *counted) await(msg string, n int) {
	c.t.Helper()
	late := time.NewTimer(5 * patience)
	defer late.Stop()
	for {
		c.mu.Lock()
		said, changed := c.said[msg], c.changed
		c.mu.Unlock()
		if said >= n {
			return
		}
		select {
		case <-changed:
			late.Reset(5 * patience)
		case <-late.C:
			c.t.Fatalf("waiting for %d times %q, there were %d: %v", n, msg, said, c.said)
		}
	}
}
