package preflight

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/dialect"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/skew"
	"consilium.dev/internal/socket"
	"consilium.dev/internal/transport"
	"consilium.dev/internal/tunnel"
	pb "consilium.dev/proto/consilium/v1"
)

// The longest that a name may take to be found, and a connection to be made. A whole conversation with the coordinator may take as
// long as two handshakes. Over a channel that stands a coordinator that does not wait for its witnesses answers after a write to its disk.
const (
	patienceName    = 10 * time.Second
	patienceConnect = 10 * time.Second
	patienceTalk    = tunnel.Patience + 45*time.Second
	patienceAnswer  = 5 * time.Second
)

// The steps of Reach, in their order.
const (
	StepName    = "name"
	StepTCP     = "tcp"
	StepProxy   = "proxy"
	StepChannel = "channel"
	StepEpoch   = "epoch"
	StepClock   = "clock"
)

// Options say who asks and who is asked. Everything but Tunnel and Now is required.
type Options struct {
	Name        string // of the member
	Manifest    *manifest.Manifest
	Coordinator string         // its name
	Address     string         // host:port or vsock:CID:PORT
	Tunnel      *tunnel.Tunnel // the way through a proxy; nil: straight there
	Identity    crypto.Signer
	Attester    attest.Attester
	Verifiers   func(*manifest.Manifest) ([]attest.Verifier, error)
	Skew        time.Duration // most that clocks may differ
	Speech      dialect.Speech
	Now         func() time.Time // nil: time.Now
}

// Reach goes the way to the coordinator, step by step, as the daemon would: the name, the line, the proxy, the attested channel, the
// manifest's epoch and the clocks. After the first step that fails the others are left out, and the last two while the coordinator answers
// nobody.
func (l *List) Reach(ctx context.Context, o Options) {
	if o.Now == nil {
		o.Now = time.Now
	}
	target, what := o.Address, "the coordinator"
	if o.Tunnel != nil {
		target, what = o.Tunnel.Proxy(), "the proxy"
	}
	talk := &talk{o: o}
	steps := []struct {
		name string
		look func(context.Context) (string, error)
	}{
		{StepName, func(ctx context.Context) (string, error) { return resolve(ctx, target, what) }},
		{StepTCP, func(ctx context.Context) (string, error) { return connect(ctx, target, what) }},
		{StepProxy, o.proxy},
		{StepChannel, talk.hold},
		{StepEpoch, talk.epoch},
		{StepClock, talk.clock},
	}
	for i, s := range steps {
		why := s.name + " has failed"
		if l.Do(s.name, func() (string, error) { return s.look(ctx) }) {
			if s.name != StepChannel || talk.reply != nil {
				continue
			}
			why = "the coordinator answers nobody yet"
		}
		for _, after := range steps[i+1:] {
			l.Omit("not looked at: "+why, after.name)
		}
		return
	}
}

// resolve finds the addresses of whom we dial.
func resolve(ctx context.Context, target, what string) (string, error) {
	if err := socket.Check(target); err != nil {
		return "", Advise(fmt.Errorf("address of %s: %w", what, err), "correct coordinator.address")
	}
	if socket.IsVsock(target) {
		return target + " is an address: nothing to look up", nil
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return "", err
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return fmt.Sprintf("%s is an address: nothing to look up", a), nil
	}
	ctx, cancel := context.WithTimeout(ctx, patienceName)
	defer cancel()
	all, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return "", Advise(err, "is the name of %s right? In networks whose proxy alone knows outside names, set coordinator.proxy; else ask whoever runs "+
			"this machine's DNS", what)
	}
	return fmt.Sprintf("%s: %s", host, strings.Join(all, ", ")), nil
}

// connect opens a connection to whom we dial, and closes it.
func connect(ctx context.Context, target, what string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patienceConnect)
	defer cancel()
	conn, err := socket.Dial(ctx, target)
	if err != nil {
		return "", Advise(err, "%s", noLine(err, target, what))
	}
	from := conn.LocalAddr()
	conn.Close() //nolint:errcheck // nothing was sent
	return fmt.Sprintf("%s takes connections at %s; ours come from %s", what, target, from), nil
}

// noLine says what to do about a connection that does not come about.
func noLine(err error, target, what string) string {
	switch {
	case socket.IsVsock(target):
		return fmt.Sprintf("nothing listens at %s: is %s running there, and is that its CID and port? A Nitro enclave's parent has CID 3", target, what)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("%s's machine is there and nothing listens at %s: is the program running, is that its port? A firewall that refuses looks the same", what, target)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return fmt.Sprintf("packets are lost in silence, as firewalls do it: ask for outgoing TCP to %s, or set coordinator.proxy where only a proxy leads out", target)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "this machine has no way there: routes, VLAN, or a firewall that says so; set coordinator.proxy where only a proxy leads out"
	}
	return "ask whoever runs this network"
}

// proxy has the proxy, if there is one, open a way to the coordinator.
func (o Options) proxy(ctx context.Context) (string, error) {
	if o.Tunnel == nil {
		return "none is set, neither in coordinator.proxy nor as out nor in the environment: dialled straight", nil
	}
	conn, err := o.Tunnel.Dial(ctx, o.Address)
	if err != nil {
		return "", Advise(err, "see the table under Proxies in docs/operating.md")
	}
	conn.Close() //nolint:errcheck // nothing was sent
	return fmt.Sprintf("%s (%s) opens a way to %s", o.Tunnel.Proxy(), o.Tunnel.Setting(), o.Address), nil
}

// talk is one conversation with the coordinator, over a connection of its own.
type talk struct {
	o     Options
	chain *manifest.Chain   // ours, and what the coordinator has sent
	reply *pb.ManifestReply // nil: it has not answered
	ahead time.Duration     // its clock of ours

	mu      sync.Mutex // guards what follows: gRPC's goroutines write it
	refusal *transport.Refusal
	way     error // why no connection came about
	newer   bool  // the coordinator has sent manifests that follow ours
}

// hold makes the attested channel and asks one question over it. A coordinator that is at a newer epoch sends its manifests and hangs
// up: it is asked again under the newest.
func (t *talk) hold(ctx context.Context) (string, error) {
	t.chain = manifest.NewChain(t.o.Manifest)
	for range 2 {
		p, err := t.ask(ctx)
		if err == nil {
			return told(p), nil
		}
		if !t.takeNewer() {
			return "", t.explain(ctx, err)
		}
	}
	return "", errors.New("the coordinator sends newer manifests again and again")
}

func (t *talk) takeNewer() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	newer := t.newer
	t.newer = false
	return newer
}

// ask makes a connection under the newest manifest that is known, and asks for that.
func (t *talk) ask(ctx context.Context) (transport.Peer, error) {
	t.mu.Lock()
	m := t.chain.Newest()
	t.mu.Unlock()
	if key, ok := m.Key(attest.Participant, t.o.Name); !ok || !key.Equal(t.o.Identity.Public()) {
		return transport.Peer{}, Advise(fmt.Errorf("the coordinator's manifest, of epoch %d, does not give this identity key to %s", m.Epoch(), t.o.Name),
			"this member was taken out, or its key was changed: ask the other members; with a new key, name it in identity")
	}
	verifiers, err := t.o.Verifiers(m)
	if err != nil {
		return transport.Peer{}, err
	}
	creds, err := transport.Client(transport.Config{
		Office: attest.Participant, Name: t.o.Name, PeerOffice: attest.Coordinator, PeerName: t.o.Coordinator,
		Federation: m.Federation(), Epoch: m.Epoch(), Manifest: m.Digest(), RequirePQ: m.PQ(attest.Participant),
		Identity: t.o.Identity, Attester: t.o.Attester, Verifiers: verifiers, Policy: m, Now: t.o.Now, Refused: t.refused, Newer: t.sent,
	})
	if err != nil {
		return transport.Peer{}, err
	}
	defer creds.Close() //nolint:errcheck // it forgets, and always can
	options := append(t.o.Speech.Caller(), grpc.WithContextDialer(t.reach), grpc.WithNoProxy(), grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: patienceTalk}))
	conn, err := grpc.NewClient("passthrough:///"+t.o.Address, options...)
	if err != nil {
		return transport.Peer{}, err
	}
	defer conn.Close() //nolint:errcheck // whatever became of it, it is over
	ctx, cancel := context.WithTimeout(ctx, patienceTalk)
	defer cancel()
	settle(ctx, conn)
	witnesses, least := m.Quorum()
	first, giveUp := context.WithCancel(ctx) // no deadline of the call's own: the coordinator would see it too, and end the call a moment before us
	defer giveUp()
	if len(witnesses) > 0 {
		defer time.AfterFunc(patienceAnswer, giveUp).Stop()
	}
	var who peer.Peer
	federation := pb.NewFederationClient(conn)
	_, err = federation.Manifest(first, &pb.ManifestRequest{Epoch: m.Epoch()}, grpc.Peer(&who))
	p, ok := who.AuthInfo.(transport.Peer)
	switch {
	case err != nil && ok && ctx.Err() == nil && first.Err() != nil:
		return transport.Peer{}, Warn(fmt.Sprintf("%s; the channel stands, and it has not answered for %s: before %d of its witnesses are connected it answers nobody else", told(p),
			patienceAnswer, least), "nothing, if they are about to come; else see that the daemons of %d of them are running: %s", least, strings.Join(witnesses, ", "))
	case err != nil:
		return transport.Peer{}, err
	case !ok:
		return transport.Peer{}, errors.New("the call did not go over the attested channel")
	}
	// Once more: the first answer took a write to the coordinator's disk, and the clocks are compared over a line that stands.
	asked := t.o.Now()
	reply, err := federation.Manifest(ctx, &pb.ManifestRequest{Epoch: m.Epoch()})
	if err != nil {
		return transport.Peer{}, err
	}
	answered := t.o.Now()
	t.reply, t.ahead = reply, time.UnixMicro(reply.Clock).Sub(asked.Add(answered.Sub(asked)/2))
	return p, nil
}

// settle waits until a connection stands, or it is known that it does not come about.
func settle(ctx context.Context, conn *grpc.ClientConn) {
	conn.Connect()
	for {
		s := conn.GetState()
		if s != connectivity.Idle && s != connectivity.Connecting || !conn.WaitForStateChange(ctx, s) {
			return
		}
	}
}

// other says whose certificate is shown where the coordinator should be, "" where that speaks no TLS that everybody knows: a proxy that
// looks into what goes through it has a name of its own. Nothing is believed of it, and nothing sent to it.
func (t *talk) other(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, patienceConnect)
	defer cancel()
	conn, err := t.dial(ctx, t.o.Address)
	if err != nil {
		return ""
	}
	defer conn.Close() //nolint:errcheck // nothing was sent
	host, _, _ := net.SplitHostPort(t.o.Address)
	c := tls.Client(conn, &tls.Config{ServerName: host, InsecureSkipVerify: true}) // whoever it is shall show itself
	if err := c.HandshakeContext(ctx); err != nil || len(c.ConnectionState().PeerCertificates) == 0 {
		return ""
	}
	leaf := c.ConnectionState().PeerCertificates[0]
	return fmt.Sprintf("; who answers is no coordinator, and shows a certificate of %.128q, issued by %.128q", leaf.Subject, leaf.Issuer)
}

func (t *talk) dial(ctx context.Context, address string) (net.Conn, error) {
	if t.o.Tunnel != nil {
		return t.o.Tunnel.Dial(ctx, address)
	}
	return socket.Dial(ctx, address)
}

func (t *talk) reach(ctx context.Context, address string) (net.Conn, error) {
	conn, err := t.dial(ctx, address)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.way = err
	return conn, err
}

// refused keeps the first reason for which there is no channel. A line that broke is none where somebody has judged since.
func (t *talk) refused(r transport.Refusal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refusal == nil || t.refusal.Cut {
		t.refusal = &r
	}
}

// sent takes the manifests of a coordinator that is ahead. They prove themselves, and are kept nowhere.
func (t *talk) sent(_ uint64, envelopes [][]byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	next, err := t.chain.Extend(envelopes...)
	if err != nil {
		return err
	}
	if next.Newest() == t.chain.Newest() {
		return errors.New("none of them is newer")
	}
	t.chain, t.newer = next, true
	return nil
}

// explain says why a conversation did not come about.
func (t *talk) explain(ctx context.Context, err error) error {
	t.mu.Lock()
	r, way := t.refusal, t.way
	t.mu.Unlock()
	switch {
	case r != nil && r.ByPeer:
		return Advise(fmt.Errorf("the coordinator refuses this member: %s", r.Class), "%s; its log says more", remedy(r.Class))
	case r != nil && r.Cut:
		return Advise(fmt.Errorf("the line broke before either side had judged the other: %w%s", r.Err, t.other(ctx)),
			"if it repeats: does the coordinator run (its log says more), or does something between cut what it does not know (a proxy, a scanner)?")
	case r != nil && r.Class == attest.ClassTLS:
		return Advise(fmt.Errorf("the coordinator does not pass: %s: %w%s", r.Class, r.Err, t.other(ctx)), "%s", remedy(r.Class))
	case r != nil:
		return Advise(fmt.Errorf("the coordinator does not pass: %s: %w", r.Class, r.Err), "%s", remedy(r.Class))
	case way != nil:
		return Advise(way, "%s", noLine(way, t.o.Address, "the coordinator"))
	case errors.Is(err, dialect.ErrForeign):
		return Advise(errors.New(status.Convert(err).Message()), "the older of the two programs is to be replaced")
	}
	if _, advised := errors.AsType[*Advice](err); advised {
		return err
	}
	return Advise(errors.New(status.Convert(err).Message()), "the channel stands, and the coordinator does not answer: look at its log")
}

// told says who is at the other end.
func told(p transport.Peer) string {
	text := fmt.Sprintf("coordinator %s, over TLS 1.3 and evidence both ways; its evidence matches %s and holds for %s", p.Name,
		strings.Join(p.Appraisal.Sets, ", "), p.Expires.Sub(p.Issued).Round(time.Minute))
	if p.Appraisal.Simulated != "" {
		text += fmt.Sprintf("; SIMULATED under the private root %q", p.Appraisal.Simulated)
	}
	return text
}

// epoch compares the manifest that is configured with the one that the coordinator is at.
func (t *talk) epoch(context.Context) (string, error) {
	t.mu.Lock()
	m := t.chain.Newest()
	t.mu.Unlock()
	digest := entry.Digest(m.Digest())
	if m.Epoch() == t.o.Manifest.Epoch() {
		return fmt.Sprintf("%d, as the coordinator's, manifest %s", m.Epoch(), digest.Short()), nil
	}
	return "", Warn(fmt.Sprintf("%d is configured; the coordinator is at %d, manifest %s, whose signatures lead on from ours", t.o.Manifest.Epoch(), m.Epoch(), digest.Short()),
		"nothing, if the daemon has adopted it (its log says so) or may by itself; where policy.adopt is ask, the owner has to accept it")
}

// clock compares the clocks.
func (t *talk) clock(context.Context) (string, error) {
	if t.reply.Clock == 0 {
		return "", Warn("the coordinator's program does not say what its clock says", "compare the clocks by hand")
	}
	text := fmt.Sprintf("the coordinator's is %s ours, %s is allowed", skew.Text(t.ahead), t.o.Skew)
	if skew.Far(t.ahead, t.o.Skew) {
		return "", Advise(errors.New(text), "set the clock that is wrong: is NTP running here and there?")
	}
	return text, nil
}

// remedy says what to do about a class. docs/operating.md has the same at length, under "When a peer is refused".
func remedy(c attest.Class) string {
	switch c {
	case attest.ClassTLS:
		return "something between ends TLS (a proxy, a scanner): ask for an exception for the coordinator's address; or another program listens there"
	case attest.ClassManifest:
		return "compare name, anchor and identity here, and name and address of the coordinator, with what the other members have"
	case attest.ClassTime:
		return "compare the clocks of both machines"
	case attest.ClassMeas:
		return "one side runs another program than the members have signed: compare versions and measurements"
	case attest.ClassTCB:
		return "a machine's firmware or microcode is older than the manifest wants: update it"
	case attest.ClassChain, attest.ClassPlat, attest.ClassInst:
		return "a machine of another kind, or another one, than the manifest names"
	case attest.ClassRate:
		return "too many tries of this name, or a line that is too slow: is the daemon running twice?"
	case attest.ClassBind:
		return "somebody may be relaying: if it repeats, find out who sits between"
	}
	return "look for " + c.String() + " under \"When a peer is refused\" in docs/operating.md"
}
