package coordinator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/model"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/trainer"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// world is a whole federation in one process, made for a synctest bubble: a coordinator that may be away, participants and
// people, each with storage of its own in memory, over pipes. Its programs end with the test.
type world struct {
	t        *testing.T
	realm    *realm
	manifest *manifest.Manifest
	line     *line
	wrap     func(net.Listener) net.Listener // what the next coordinator listens on; nil: the pipes themselves
	disks    map[string]*disk
	books    map[string]*book
}

func newWorld(t *testing.T, edits ...string) *world {
	t.Helper()
	w := &world{t: t, realm: aRealm(t), line: &line{}, disks: map[string]*disk{}, books: map[string]*book{}}
	w.manifest = w.realm.manifestOf(t, edits...)
	for _, name := range append([]string{"council"}, hospitals...) {
		w.disks[name], w.books[name] = newDisk(t), newBook()
	}
	return w
}

// line is where the coordinator is reached. Nobody may be there.
type line struct {
	mu  sync.Mutex
	lis *pipes
}

func (l *line) dial(ctx context.Context, _ string) (net.Conn, error) {
	l.mu.Lock()
	lis := l.lis
	l.mu.Unlock()
	if lis == nil {
		return nil, errors.New("nobody listens")
	}
	return lis.dial(ctx)
}

// pipes is a listener whose connections are net.Pipes.
type pipes struct {
	incoming chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func newPipes() *pipes { return &pipes{incoming: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.incoming:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.incoming <- far:
		return near, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// program is a coordinator or a participant that is running.
type program struct {
	t      *testing.T
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error // after done
}

func (w *world) launch(name string, run func(context.Context) error) *program {
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{t: w.t, name: name, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = run(ctx)
	}()
	w.t.Cleanup(func() { p.end() })
	return p
}

// end ends the program, by a signal as it were, and returns what it returned.
func (p *program) end() error {
	p.cancel()
	<-p.done
	return p.err
}

// wait waits for the end of a program that ends by itself, and returns what it returned.
func (p *program) wait() error {
	<-p.done
	return p.err
}

// stop ends the program, which must not find that a failure.
func (p *program) stop() {
	p.t.Helper()
	if err := p.end(); err != nil {
		p.t.Errorf("%s: %v", p.name, err)
	}
}

// serve starts the coordinator.
func (w *world) serve(change ...func(*coordinator.Options)) *program {
	w.t.Helper()
	p, _ := w.served(change...)
	return p
}

// served is serve, and gives the coordinator too.
func (w *world) served(change ...func(*coordinator.Options)) (*program, *coordinator.Coordinator) {
	w.t.Helper()
	d := w.disks["council"]
	o := coordinator.Options{
		Name: "council", Manifest: w.manifest, Identity: keyOf("coordinator/council"),
		Attester: w.realm.council.Attester(time.Now), Verifiers: w.realm.verifiers, Objects: d, Head: d, KEK: d.kek,
		Log: w.books["council"].log(), Version: "test",
	}
	for _, f := range change {
		f(&o)
	}
	c, err := coordinator.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	lis := newPipes()
	w.line.mu.Lock()
	w.line.lis = lis
	w.line.mu.Unlock()
	var l net.Listener = lis
	if w.wrap != nil {
		l, w.wrap = w.wrap(lis), nil
	}
	return w.launch("council", func(ctx context.Context) error { return c.Run(ctx, l) }), c
}

// join starts a member's participant.
func (w *world) join(name string, change ...func(*participant.Options)) *program {
	w.t.Helper()
	d, data := w.disks[name], filepath.Join("..", "..", "examples", "hospitals", "data", name)
	o := participant.Options{
		Name: name, Manifest: w.manifest, Coordinator: "council", Address: "council:7443", Dial: w.line.dial,
		Identity: keyOf("participant/" + name), Attester: w.realm.machine(name).Attester(time.Now), Verifiers: w.realm.verifiers,
		Objects: d, KEK: d.kek, Data: participant.Data{Records: data + ".data", Split: data + ".split.csv"},
		Policy: participant.Policy{
			Leads: []string{"ada", "ben"}, Strategies: aggregate.Strategies(), Trainers: []string{trainer.Logistic},
			LeastParticipants: 2,
		},
		Log: w.books[name].log(), Version: "test",
	}
	for _, f := range change {
		f(&o)
	}
	p, err := participant.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.launch(name, p.Run)
}

func (w *world) joinAll() map[string]*program {
	w.t.Helper()
	all := map[string]*program{}
	for _, name := range hospitals {
		all[name] = w.join(name)
	}
	return all
}

// peer is a connection to the coordinator, with everything that can be called over it.
type peer struct {
	pb.RoundsClient
	pb.RunsClient
	pb.BlobsClient
	pb.ModelsClient
	conn *grpc.ClientConn
}

// connect dials the coordinator as a person or, without its program, as a participant.
func (w *world) connect(office attest.Office, name string, more ...grpc.DialOption) *peer {
	w.t.Helper()
	c := transport.Config{
		Office: office, Name: name, PeerOffice: attest.Coordinator, PeerName: "council", Federation: w.manifest.Federation(),
		Epoch: w.manifest.Epoch(), Manifest: w.manifest.Digest(), Identity: keyOf(office.String() + "/" + name),
		Verifiers: w.realm.judges, Policy: w.manifest,
	}
	if office == attest.Participant {
		c.Attester = w.realm.machine(name).Attester(time.Now)
	}
	creds, err := transport.Client(c)
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///council", append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds), grpc.WithContextDialer(w.line.dial), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
	}, more...)...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		_ = conn.Close()
		_ = creds.Close()
	})
	return &peer{pb.NewRoundsClient(conn), pb.NewRunsClient(conn), pb.NewBlobsClient(conn), pb.NewModelsClient(conn), conn}
}

func (w *world) person(name string) *peer { return w.connect(attest.Person, name) }

// plan returns the example's plan with changes.
func plan(t testing.TB, change ...func(*entry.Plan)) entry.Plan {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", "hospitals", "plan.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := trainer.ParsePlan(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(&p)
	}
	return p
}

// adam makes a plan of three rounds with FedAdam.
func adam(p *entry.Plan) {
	p.Rounds, p.Strategy = 3, entry.Strategy{Name: "fedadam"}
}

// start starts a run as ada and returns its id.
func (w *world) start(p entry.Plan) string {
	w.t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := w.person("ada").Start(w.t.Context(), &pb.StartRequest{Request: "request of " + p.Name, Plan: text})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Run
}

// finish waits for the end of a run, which may outlive the coordinator, and returns it.
func (w *world) finish(run string) *pb.ShowReply {
	w.t.Helper()
	w.books["council"].await(w.t, "run ended", "run", run)
	v, err := w.person("ada").Show(w.t.Context(), &pb.ShowRequest{Run: run})
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// completed is finish for a run that must be completed.
func (w *world) completed(run string) *pb.ShowReply {
	w.t.Helper()
	v := w.finish(run)
	if v.Summary.State != "completed" {
		w.t.Fatalf("run is %s: %s", v.Summary.State, v.Reason)
	}
	return v
}

// final returns the digest of the last model of a run.
func final(v *pb.ShowReply) entry.Digest {
	return entry.Digest(v.Rounds[len(v.Rounds)-1].Model)
}

// model fetches a model version as ada.
func (w *world) model(id entry.Digest) *model.Model {
	w.t.Helper()
	text, err := w.person("ada").download(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := model.Read(bytes.NewReader(text), int64(len(text)))
	if err != nil {
		w.t.Fatal(err)
	}
	if m.Digest() != id {
		w.t.Fatalf("model has the digest %x, asked for was %s", m.Digest(), id)
	}
	return m
}

// lines reads the coordinator's log as an auditor who has its key would. The coordinator must be idle or away.
func (w *world) lines() []entry.Line {
	w.t.Helper()
	d, ctx := w.disks["council"], context.Background()
	key, err := ledger.OpenKey(ctx, d, d.kek, "consilium.dev/four-hospitals")
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := ledger.Open(ctx, ledger.Config{Objects: d, Head: d, Sealer: d.kek, Key: key})
	if err != nil {
		w.t.Fatal(err)
	}
	var all []entry.Line
	for text, err := range l.Entries(ctx, 0) {
		if err != nil {
			w.t.Fatal(err)
		}
		e, err := entry.Decode(text)
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// facts returns what the lines of the coordinator's log say.
func (w *world) facts() []entry.Fact {
	w.t.Helper()
	var all []entry.Fact
	for _, l := range w.lines() {
		all = append(all, l.Fact)
	}
	return all
}

// only returns the facts of one kind.
func only[F entry.Fact](all []entry.Fact) []F {
	var out []F
	for _, f := range all {
		if f, ok := f.(F); ok {
			out = append(out, f)
		}
	}
	return out
}

// book is what a program logs, one JSON object a line.
type book struct {
	mu      sync.Mutex // guards what follows
	text    bytes.Buffer
	lines   []map[string]any // of text, as far as somebody has looked
	seen    int              // bytes of text that lines are of
	changed chan struct{}    // closed when there is more
}

func newBook() *book { return &book{changed: make(chan struct{})} }

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.changed)
	b.changed = make(chan struct{})
	return b.text.Write(p)
}

func (b *book) Sync() error { return nil }

// log returns a logger that tells the book everything.
func (b *book) log() *zap.Logger {
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), b, zap.DebugLevel))
}

func (b *book) read() (string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String(), b.changed
}

// find returns the lines with that message and those fields (name, value, ...).
func (b *book) find(message string, fields ...string) []map[string]any {
	var found []map[string]any
	for _, m := range b.parsed() {
		ok := m["msg"] == message
		for i := 0; ok && i < len(fields); i += 2 {
			ok = fmt.Sprint(m[fields[i]]) == fields[i+1]
		}
		if ok {
			found = append(found, m)
		}
	}
	return found
}

// parsed returns all lines. Each is parsed once: who waits looks at all of them with every new one.
func (b *book) parsed() []map[string]any {
	b.mu.Lock()
	defer b.mu.Unlock()
	for l := range bytes.Lines(b.text.Bytes()[b.seen:]) {
		var m map[string]any
		if err := json.Unmarshal(l, &m); err != nil {
			panic("a log line is no JSON: " + string(l))
		}
		b.lines = append(b.lines, m)
		b.seen += len(l)
	}
	return slices.Clip(b.lines)
}

// await waits until there is such a line, for a day at most.
func (b *book) await(t testing.TB, message string, fields ...string) map[string]any {
	t.Helper()
	return b.awaitMany(t, 1, message, fields...)[0]
}

// awaitMany waits for n such lines.
func (b *book) awaitMany(t testing.TB, n int, message string, fields ...string) []map[string]any {
	t.Helper()
	day := time.NewTimer(24 * time.Hour)
	defer day.Stop()
	for {
		_, changed := b.read()
		if found := b.find(message, fields...); len(found) >= n {
			return found
		}
		select {
		case <-changed:
		case <-day.C:
			text, _ := b.read()
			t.Fatalf("no %d lines %q with %q within a day:\n%s", n, message, fields, text)
		}
	}
}
