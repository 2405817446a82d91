// Package transport is the attested channel consilium-atls-v1: it turns a connection into a known [Peer], or refuses it.
// It fits gRPC's credentials.TransportCredentials, so that no RPC can be reached without it.
//
// # What it promises
//
// A connection that [Credentials] hand to gRPC is TLS 1.3 between two leaf keys that were made in memory. Each leaf is
// endorsed, for 24 hours at most, by the key that the manifest gives to an office and a name. Each side has shown evidence
// of the machine it runs on (a person: a signature), made for this connection, this side of it, both names, the manifest
// and both nonces; it was verified as genuine and then appraised by the manifest's policy. The dialler verifies before it
// shows its own evidence, and both sides confirm with a MAC over all of it. The bytes are laid down in docs/protocol.md.
//
// Every step fails closed. Nothing is negotiated: what differs from the local manifest is refused, with a class
// ([attest.Class]) that goes to [Config.Refused] and, as one byte without detail, to the peer.
//
// A connection ends when its appraisal does: at [Peer.Expires] it is cut, on both sides, and nothing is read from it or written to
// it after that instant by either clock, though a machine that slept should miss the cut. Renewal is a new connection,
// which a dialler makes before.
//
// # What it does not promise
//
// It does not know the manifest: it is given names, epoch, digest and an [attest.Policy]. It does not say which method a
// peer may call; that is for the server's interceptors, which find the peer with [FromContext]. It cannot tell the quote of
// a machine whose hardware keys were stolen from a true one, nor keep a host from cutting the line.
//
// # Use
//
//	creds, err := transport.Server(transport.Config{
//		Office: attest.Coordinator, Name: "council", Federation: "heart", Epoch: 1, Manifest: digest,
//		Identity: key, Attester: enclave, Verifiers: verifiers, Policy: manifest,
//		Refused: func(r transport.Refusal) { log.Warn("peer refused", zap.Stringer("class", r.Class), zap.Error(r.Err)) },
//	})
//	server := grpc.NewServer(grpc.Creds(creds), grpc.ConnectionTimeout(20*time.Second))
package transport

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"consilium.dev/internal/attest"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// ALPN is the only application protocol that the channel's TLS speaks. No other client or server offers it, so that a plain
// gRPC peer or a cross-protocol attack ends in the TLS handshake.
const ALPN = "consilium-h2/1"

// authType is what Peer.AuthType returns.
const authType = "consilium-atls-v1"

const (
	defaultTimeout  = 20 * time.Second
	deviceTimeout   = 60 * time.Second // where evidence of attached devices may be asked for
	strangerTimeout = 5 * time.Second  // for a dialler to prove its name, from its place in the lobby on
)

// Config is one side of the channel. It is not changed after [Server] or [Client] took it; its functions, signer, attester,
// verifiers and policy are called from many goroutines at once.
type Config struct {
	// Office and Name are our own.
	Office attest.Office
	Name   string
	// PeerOffice and PeerName say whom a dialler dials. A listener leaves PeerName empty and takes whoever its policy has
	// a key for: in PeerOffice, or, where that is zero, any participant or person.
	PeerOffice attest.Office
	PeerName   string
	// Federation, Epoch (from 1) and Manifest (the digest) must be the peer's too.
	Federation string
	Epoch      uint64
	Manifest   [32]byte
	// RequirePQ refuses a TLS key exchange that is not the hybrid X25519MLKEM768.
	RequirePQ bool
	// Instance is the 32 hex digits that name our process in its leaves, the same under every epoch; "" draws them.
	Instance string
	// Identity is the Ed25519 key that the manifest gives our name. It endorses the leaves; a person's also signs in place
	// of evidence.
	Identity crypto.Signer
	// Attester makes our evidence; nil for a person, and only for a person.
	Attester attest.Attester
	// Quotes is the line before Attester, the same in all configurations that have the same one; nil is a line of its own.
	Quotes *Quotes
	// Verifiers judge the peer's evidence, one for each type that may be shown; Policy holds keys and appraises.
	Verifiers []attest.Verifier
	Policy    attest.Policy
	// Collateral is our own. The verifiers use it beside what the peer sends. It is also sent along with our evidence:
	// event logs and initdata always, since the evidence covers them, the rest as far as the frame's cap allows.
	Collateral attest.Collateral
	// Now is the clock by which certificates and evidence are judged; nil is time.Now. Rand makes leaf keys, nonces and
	// serial numbers; nil is crypto/rand.
	Now  func() time.Time
	Rand io.Reader
	// Timeout bounds the whole handshake; 0 is 20 s, or 60 s where devices may be asked for evidence. A server's must not
	// be above its grpc.ConnectionTimeout. A listener also lets a peer go that has not proven its name 5 s after its
	// handshake came to its turn.
	Timeout time.Duration
	// Limits bounds what peers cost a listener that have not proven their name.
	Limits Limits
	// Refused is called once for each handshake that ended in a refusal, ours or the peer's; nil ignores them. gRPC's
	// server drops the errors of handshakes, so this is the only place where a listener learns of them.
	Refused func(Refusal)
	// Shown is told, at the end of each handshake of a dialler that has come through TLS, what the peer has shown; nil ignores it. With
	// it, evidence is taken down also of a peer that is refused for its key or its hello, before the handshake fails for that.
	Shown func(Shown)
	// Newer is given the signed manifests of a peer that is at a newer epoch, oldest first, and adopts them or says why
	// not. The handshake fails in any case: dial again with what was adopted. nil refuses such a peer.
	Newer func(peerEpoch uint64, envelopes [][]byte) error
	// Chain returns the signed manifests from epoch from+1 to ours, oldest first, for a peer that is behind; nil sends none.
	Chain func(from uint64) [][]byte
	// Past returns the policy of an older epoch, or nil: a peer that is behind is sent the chain where its leaf is endorsed
	// in any epoch from its own to ours. A nil Past knows our own epoch only.
	Past func(epoch uint64) attest.Policy
}

// Limits bounds what peers cost a listener that have not proven their name. A zero field has its default.
type Limits struct {
	Handshakes int // with such peers that go on at once; default 256. Who comes then waits in line
	PerAddress int // of them from one IPv4 address or from one /64 of IPv6; default 8
	PerSecond  int // that begin in a second, and as many at once; default 200. Who comes then waits for its turn
}

func (l Limits) withDefaults() Limits {
	l.Handshakes = cmp.Or(l.Handshakes, 256)
	l.PerAddress = cmp.Or(l.PerAddress, 8)
	l.PerSecond = cmp.Or(l.PerSecond, 200)
	return l
}

// Refusal is a handshake that ended in no connection.
type Refusal struct {
	Peer   string        // remote address
	Name   string        // the peer: whom we dialled, or whom the leaf's endorsement proved; "" before that
	Office attest.Office // likewise
	Class  attest.Class
	Err    error // what was wrong; for our log only. Where no name is proven, its text is printable and of 512 bytes at most
	ByPeer bool  // the peer refused us and sent the class
	Sent   bool  // the peer is behind us, and was sent the newer manifests: it may have adopted them
	Cut    bool  // the line broke, by the peer's end or on the way, and neither side had said a verdict: nobody has refused anybody that we know of
	Mute   bool  // the peer hung up before it sent a byte, as a port probe or a load balancer's health check does
}

// Peer is who is at the other end of a connection, and how we know. It is gRPC's AuthInfo of the connection, as a value,
// and is not changed.
type Peer struct {
	credentials.CommonAuthInfo
	State    tls.ConnectionState
	Office   attest.Office // as proven by the leaf's endorsement
	Name     string
	Instance string // 32 hex digits: the process at the other end
	Epoch    uint64
	Manifest [32]byte

	Appraisal attest.Appraisal  // what the policy said
	Claims    []attest.Claims   // one for each piece of evidence; none for a person
	Evidence  []attest.Evidence // as received, with the collateral that it was judged by: what came, but for what a verifier had that is newer
	Binding   [64]byte          // the report data B that the evidence carries, or that the person signed
	Preimage  []byte            // what B is the SHA-512 of

	Issued, Expires time.Time // of the appraisal; the connection is cut at Expires
	OwnLeaf         time.Time // end of our own leaf, at which the peer's appraisal of us ends at the latest
}

// AuthType returns "consilium-atls-v1".
func (Peer) AuthType() string { return authType }

// FromContext returns the peer of the RPC that ctx belongs to, on the server's side, and false where the connection is not
// an attested channel.
func FromContext(ctx context.Context) (Peer, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Peer{}, false
	}
	q, ok := p.AuthInfo.(Peer)
	return q, ok
}

// check returns what is wrong with a configuration, and fills in its defaults.
func (c *Config) check(client bool) error {
	switch {
	case !validName(c.Name) || !validName(c.Federation):
		return fmt.Errorf("transport: name %q and federation %q must be 1 to 63 of a-z, 0-9 and -", c.Name, c.Federation)
	case c.Epoch == 0 || c.Manifest == [32]byte{}:
		return errors.New("transport: no manifest: epoch and digest must be set")
	case c.Policy == nil:
		return errors.New("transport: no policy")
	case c.Identity == nil:
		return errors.New("transport: no identity key")
	case c.Office < attest.Coordinator || c.Office > attest.Person:
		return fmt.Errorf("transport: no such office: %v", c.Office)
	case (c.Attester == nil) != (c.Office == attest.Person):
		return fmt.Errorf("transport: a %v must have an attester, and a person must not", c.Office)
	case client && (c.PeerName == "" || c.PeerOffice != attest.Coordinator && c.PeerOffice != attest.Participant):
		return errors.New("transport: a dialler must say which coordinator or participant it dials")
	case !client && c.PeerName != "":
		return errors.New("transport: a listener takes whoever its policy has a key for; leave PeerName empty")
	case !client && c.Office == attest.Person:
		return errors.New("transport: a person does not listen")
	case c.Instance != "" && !validInstance(c.Instance):
		return fmt.Errorf("transport: instance %q, want 32 hex digits", c.Instance)
	case c.Limits.Handshakes < 0 || c.Limits.PerAddress < 0 || c.Limits.PerSecond < 0:
		return errors.New("transport: a limit is negative")
	case c.Timeout < 0:
		return fmt.Errorf("transport: negative timeout %v", c.Timeout)
	}
	if _, ok := c.Identity.Public().(ed25519.PublicKey); !ok {
		return fmt.Errorf("transport: identity key is %T, want Ed25519", c.Identity.Public())
	}
	if err := c.covers(client); err != nil {
		return err
	}
	if c.Attester != nil {
		if err := checkTypes(c.Attester.Types()); err != nil {
			return fmt.Errorf("transport: own attester: %w", err)
		}
	}
	c.defaults()
	return nil
}

// covers returns an error where the policy admits evidence of peers that nobody here could judge: a build without its verifier would
// else find that out peer by peer.
func (c *Config) covers(client bool) error {
	o := c.PeerOffice
	if !client && o == 0 {
		o = attest.Participant
	}
	for _, set := range c.Policy.Types(o) {
		for _, t := range set {
			if t != attest.Signature && verifier(c.Verifiers, t) == nil {
				return attest.Refuse(attest.ClassManifest, "the manifest admits evidence of type %v from a %v, and this build cannot verify it: run one that can", t, o)
			}
		}
	}
	return nil
}

func (c *Config) defaults() {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
		if c.asksDevices() {
			c.Timeout = deviceTimeout
		}
	}
	c.Limits = c.Limits.withDefaults()
	if c.Refused == nil {
		c.Refused = func(Refusal) {}
	}
	if c.Quotes == nil {
		c.Quotes = NewQuotes()
	}
}

// asksDevices reports whether we or a peer may have to ask attached devices, which takes its time.
func (c *Config) asksDevices() bool {
	sets := [][]attest.Type{c.types()}
	for _, o := range []attest.Office{attest.Coordinator, attest.Participant} {
		sets = append(sets, c.Policy.Types(o)...)
	}
	for _, set := range sets {
		if slices.ContainsFunc(set, isDevice) {
			return true
		}
	}
	return false
}

// types returns what our hello offers.
func (c *Config) types() []attest.Type {
	if c.Attester == nil {
		return []attest.Type{attest.Signature}
	}
	return c.Attester.Types()
}

// validName reports whether s may stand as a name or federation: 1 to 63 of a-z, 0-9 and -.
func validName(s string) bool {
	if len(s) == 0 || len(s) > 63 {
		return false
	}
	for _, r := range []byte(s) {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return false
		}
	}
	return true
}
